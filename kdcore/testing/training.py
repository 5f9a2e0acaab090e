"""Checks of what training does: where gradients go, what changes when a weight is 0, a batch is shuffled, a run is resumed."""

import torch
from torch import nn

from kdcore.checkpoints import restore, state_of
from kdcore.errors import KdError
from kdcore.optimizer_state import optimizer_tensors, restore_optimizer
from kdcore.rehearsal import kept_buffers
from kdcore.tapped import copied
from kdcore.task import DistillationTask
from kdcore.testing import scene
from kdcore.testing.base import fail
from kdcore.testing.listening import terms_of
from kdcore.testing.running import RunChecks


class GradientChecks(RunChecks):
    def test_gradient_reaches_the_student_alone(self) -> None:
        """Its value has a gradient at the student's weights, finite and not all 0; a teacher gets none and stays frozen."""
        composition = self.built()
        reached = False
        for phase in scene.phases(composition):
            with self.advising(), scene.one_thread():
                task, _ = scene.started(composition, phase)
                task.zero_grad(set_to_none=True)  # the phase before may have trained what teaches in this one
                teacher = None if task.teacher is None else state_of(task.teacher)
                heard = terms_of(task, scene.batch(composition))
                own = [value for name, (_, _, value) in heard.items() if name in self.own_terms(composition.recipe)]
                for value in own:
                    if value.requires_grad:
                        value.backward(retain_graph=True)
            grads = [p.grad for p in task.objective.model.parameters() if p.grad is not None]
            if any(not bool(grad.isfinite().all()) for grad in grads):
                fail(f"{self.about()}: its gradient is not finite on a batch of noise; compute in log space, and add no root or log of 0")
            reached = reached or any(bool(grad.any()) for grad in grads)
            if task.teacher is not None and any(p.grad is not None for p in task.teacher.parameters()):
                fail(f"{self.about()}: a gradient reaches the teacher in phase '{phase.name}'; compute targets under torch.no_grad()")
            if not task.objective.model.training and "student" in phase.trains:
                fail(
                    f"{self.about()}: it leaves the student in eval mode in phase '{phase.name}'; whoever calls eval() calls train() after"
                )
            if task.teacher is not None and (task.teacher.model.training or not scene.same(teacher or {}, state_of(task.teacher))):
                fail(f"{self.about()}: the teacher changes in a step of phase '{phase.name}'; leave it in eval mode, its statistics too")
        if not reached:
            fail(
                f"{self.about()}: no gradient reaches the student's weights; compute it from step.outputs, without detach(), "
                "torch.no_grad(), argmax or a comparison on the way"
            )


class OrderChecks(RunChecks):
    def test_batch_permutation(self) -> None:
        """The order of the samples in a batch does not change a value."""
        composition = self.built()
        with scene.seeded("kit", "order"):
            order = torch.randperm(scene.ROWS)  # neither turned nor reversed, which leaves neighbours neighbours
        advice = "what depends on the order is declared: cannot = {'permutation': 'why'}"
        phases = scene.phases(composition)
        for phase in phases:
            with self.advising(advice, "permutation", more=phase is not phases[-1]), scene.one_thread():
                task, _ = scene.started(composition, phase)
                _tell_samples_apart(task)
                images, labels, index = scene.batch(composition)
                answers = []
                for rows in (torch.arange(scene.ROWS), order):
                    scene.elsewhere()
                    with kept_buffers(task), torch.no_grad(), scene.seeded("kit", "order"):
                        answers.append(task(images[rows], labels[rows], index[rows]))
                for name in self.own_terms(composition.recipe):
                    if name in answers[0] and not torch.allclose(answers[0][name], answers[1][name], rtol=1e-3, atol=1e-5):
                        one, other = float(answers[0][name]), float(answers[1][name])
                        raise KdError(
                            f"{name} is {one:.6g}, and {other:.6g} when the samples of the batch change places; index rows by what belongs "
                            "to them (batch.index, batch.labels), not by where they stand"
                        )


class StateChecks(RunChecks):
    def test_state_is_restored(self) -> None:
        """A run that is saved and restored takes the same next step: whatever a component remembers is in its state."""
        composition, again = self.built(), self.built()
        with self.advising("as it was saved and restored"), scene.one_thread():
            for phase in scene.phases(composition):
                before = copied(composition.student)
                task, optimizer = scene.started(composition, phase)
                for step in range(2):
                    scene.take_step(task, optimizer, scene.batch(composition, step), step)
            held, (tensors, about) = state_of(composition.modules()), optimizer_tensors(optimizer)
            wanted = scene.take_step(task, optimizer, scene.batch(composition, 2), 2)

            task, optimizer = scene.started(again, phase, before=before)
            restore(again.modules(), held)
            restore_optimizer(optimizer, tensors, about)
            found = scene.take_step(task, optimizer, scene.batch(again, 2), 2)
        differs = scene.first_difference([wanted], [found])
        if differs or not scene.same(state_of(composition.modules()), state_of(again.modules())):
            fail(
                f"{self.about()}: after saving and restoring, the next step differs ({differs or 'its state'}); keep what it remembers in a "
                "buffer of an nn.Module (self.register_buffer), not in a Python attribute"
            )


def _tell_samples_apart(task: DistillationTask) -> None:
    """Eval mode but for BatchNorm: a network that was just drawn answers all images alike where its statistics are those of none."""
    task.eval()
    for module in task.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.train()

"""Checks of what training does: where gradients go, what changes when a weight is 0, a batch is shuffled, a run is resumed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from kdcore.checkpoints import restore, state_of
from kdcore.composition import Composition
from kdcore.errors import KdError
from kdcore.methods import Term
from kdcore.objective import Bound, BoundTerm, backbone_within
from kdcore.optimizer_state import optimizer_tensors, restore_optimizer
from kdcore.phases import Where
from kdcore.recipes import Recipe
from kdcore.rehearsal import kept_buffers
from kdcore.tapped import copied
from kdcore.task import DistillationTask
from kdcore.testing import scene
from kdcore.testing.base import fail
from kdcore.testing.running import RunChecks
from kdcore.vocabulary import Outputs

LOUD = 60.0
"""The size of logits for which a loss must stay finite: its softmax is 1 and 0 in float32."""


class GradientChecks(RunChecks):
    def test_gradient_reaches_the_student_alone(self) -> None:
        """Its value has a gradient at the student's weights, finite and not all 0; a teacher gets none and stays frozen."""
        composition = self.built()
        reached = False
        for phase in scene.ends(composition):
            with self.advising(), scene.one_thread():
                task, _ = scene.started(composition, phase)
                task.zero_grad(set_to_none=True)  # the phase before may have trained what teaches in this one
                teacher = None if task.teacher is None else state_of(task.teacher)
                values = _term_values(task, scene.batch(composition))
                own = [value for name, value in values.items() if name in self.own_terms(composition.recipe)]
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
            if task.teacher is not None and (task.teacher.model.training or not _same(teacher or {}, state_of(task.teacher))):
                fail(f"{self.about()}: the teacher changes in a step of phase '{phase.name}'; leave it in eval mode, its statistics too")
        if not reached:
            fail(
                f"{self.about()}: no gradient reaches the student's weights; compute it from step.outputs, without detach(), "
                "torch.no_grad(), argmax or a comparison on the way"
            )


class FiniteChecks(RunChecks):
    def test_scalar_and_finite(self) -> None:
        """One number, finite with a finite gradient: for logits of +-60, two classes, one class in the batch, a batch of one."""
        composition = self.built()
        with scene.one_thread():
            images, labels, index = scene.batch(composition)
            self._finite(composition, (images, labels, index), "logits of +-60", loud=True, advice="use log_softmax, not log(softmax)")
            self._finite(composition, (images, labels * 0, index), "a batch of one class", advice="answer 0 where nothing can be compared")
            few = (images[:1], labels[:1], index[:1])
            self._finite(composition, few, "a batch of one", training=False, advice="divide by max(count, 1), and take no variance of one")
            with self.advising("with two classes; what it cannot do is declared: cannot = {'two_classes': 'why'}", "two_classes"):
                two = self.composed(classes=2)
                self._finite(two, scene.batch(two), "two classes", advice="K - 1 and K - 2 may be divisors of 1 and 0")

    def _finite(
        self, composition: Composition, given: tuple[Tensor, ...], what: str, *, loud: bool = False, training: bool = True, advice: str
    ) -> None:
        for phase in scene.ends(composition):
            with self.advising(f"for {what}"):
                task, _ = scene.started(composition, phase)
                task.train(training)
                with _shouting(task) if loud else kept_buffers(task):
                    answer = scene.forward_backward(task, given)
                answer = {name: value for name, value in answer.items() if name in (*self.own_terms(composition.recipe), "loss")}
            if wrong := scene.not_finite([answer]):
                fail(f"{self.about()}: {wrong} for {what}; {advice}")
            if any(p.grad is not None and not bool(p.grad.isfinite().all()) for p in task.objective.parameters()):
                fail(f"{self.about()}: its gradient is not finite for {what}; {advice}")


class Zero:
    """A weight that moves, as the core sees it, and is always 0: the term runs and counts for nothing."""

    def __call__(self, where: Where) -> float:
        return 0.0


class WeightChecks(RunChecks):
    def test_weight_zero_is_plain_training(self) -> None:
        """With a weight of 0 the student's backbone is trained as without it, to the last bit."""
        self.built()
        found = []
        for weight in (0.0, Zero()):
            with self.advising("with the weight 0"), scene.one_thread():
                try:
                    composition = self.composed(change=self._weighed(weight))
                except KdError:
                    if weight == 0.0:
                        pytest.skip("it is the only term of a phase, which trains nothing without it")
                    raise
                scene.trained(composition)
            net, _ = backbone_within(composition.student)
            found.append(state_of(net))
        if not _same(*found):
            name = next(name for name in found[0] if not torch.equal(found[0][name], found[1][name]))
            fail(
                f"{self.about()}: with the weight 0, training comes to other weights than without it ({name}); it must not change outputs or "
                "the student in place, run the student again in training mode, or give 0 times something that is not finite"
            )

    def _weighed(self, weight: float | Zero) -> Callable[[Recipe], None]:
        def change(recipe: Recipe) -> None:
            for name in self.own_terms(recipe):
                term: Term = recipe.method.terms[name]
                recipe.method.terms[name] = replace(term, weight=weight)

        return change


class OrderChecks(RunChecks):
    def test_batch_permutation(self) -> None:
        """The order of the samples in a batch does not change a value."""
        composition = self.built()
        order = torch.arange(scene.ROWS).flip(0).roll(3)
        for phase in scene.ends(composition):
            with self.advising("what depends on the order is declared: cannot = {'permutation': 'why'}", "permutation"), scene.one_thread():
                task, _ = scene.started(composition, phase)
                task.eval()
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
            for phase in scene.ends(composition):
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
        if differs or not _same(state_of(composition.modules()), state_of(again.modules())):
            fail(
                f"{self.about()}: after saving and restoring, the next step differs ({differs or 'its state'}); keep what it remembers in a "
                "buffer of an nn.Module (self.register_buffer), not in a Python attribute"
            )


def _term_values(task: DistillationTask, given: tuple[Tensor, Tensor, Tensor]) -> dict[str, Tensor]:
    """The value of every term as its loss gave it, with its graph."""
    values: dict[str, Tensor] = {}

    def call(bound: Bound, *args: Any) -> Any:
        value = bound.run(*args)
        if isinstance(bound, BoundTerm):
            values[bound.name] = value
        return value

    plain, task.objective.call = task.objective.call, call
    try:
        with scene.seeded("kit", "values"):
            task(*given)
    finally:
        task.objective.call = plain
    return values


@contextmanager
def _shouting(task: DistillationTask) -> Iterator[None]:
    """Within it, networks answer with logits of +-60, and neighbouring exits, and the teacher, disagree."""

    def louder(turn: int) -> Callable[..., Outputs]:
        def hook(module: Any, args: Any, outputs: Outputs) -> Outputs:
            logits = [
                entry * (LOUD / entry.detach().abs().amax(dim=1, keepdim=True).clamp_min(1e-6)) * (-1) ** (len(outputs.logits) - k + turn)
                for k, entry in enumerate(outputs.logits)
            ]
            return replace(outputs, logits=logits)

        return hook

    objective, teacher = task.objective, task.teacher
    only = objective.only_logits
    handles = [objective.model.register_forward_hook(louder(0))]
    objective.only_logits = False
    if teacher is not None:
        teacher.only_logits = False
        handles.append(teacher.model.register_forward_hook(louder(1)))
    try:
        with kept_buffers(task):
            yield
    finally:
        objective.only_logits = only
        for handle in handles:
            handle.remove()


def _same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)

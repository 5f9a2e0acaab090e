"""Checks of what has terms: values that stay finite, and a weight of 0 that is none."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from kdcore.checkpoints import state_of
from kdcore.composition import Composition
from kdcore.errors import Refused
from kdcore.methods import Weight
from kdcore.objective import backbone_within
from kdcore.phases import Where
from kdcore.recipes import Recipe
from kdcore.rehearsal import kept_buffers
from kdcore.testing import scene
from kdcore.testing.base import fail
from kdcore.testing.listening import shouting
from kdcore.testing.running import RunChecks


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
            divisors = "K - 1 and K - 2 are 1 and 0 there"
            with self.advising(f"for two classes; {divisors}; or declare cannot = {{'two_classes': 'why'}}", "two_classes"):
                two = self.composed(classes=2)
                self._finite(two, scene.batch(two), "two classes", advice=divisors)

    def _finite(
        self, composition: Composition, given: tuple[Tensor, ...], what: str, *, loud: bool = False, training: bool = True, advice: str
    ) -> None:
        for phase in scene.phases(composition):
            with self.advising(f"for {what}"):
                task, _ = scene.started(composition, phase)
                task.train(training)
                with shouting(task) if loud else kept_buffers(task):
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
        with self.advising("with the weight 0"), scene.one_thread():
            found = [self._trained(composition) for composition in (self._without(), self.composed(change=self._silenced))]
        if not scene.same(*found):
            name = next(name for name in found[0] if not torch.equal(found[0][name], found[1][name]))
            fail(
                f"{self.about()}: with the weight 0, training comes to other weights than without it ({name}); it must not change outputs or "
                "the student in place, run the student again in training mode, or give 0 times something that is not finite"
            )

    def _without(self) -> Composition:
        """The run without its terms; where a schedule names them, with the constant weight 0, for which the core leaves them out."""
        for change in (self._left_out, self._weightless):
            try:
                return self.composed(change=change)
            except Refused:
                continue
        pytest.skip("it is the only term of a phase, which trains nothing without it")

    @staticmethod
    def _trained(composition: Composition) -> dict[str, Tensor]:
        scene.trained(composition)
        return state_of(backbone_within(composition.student)[0])

    def _left_out(self, recipe: Recipe) -> None:
        for name in self.own_terms(recipe):
            del recipe.method.terms[name]
        named = {term.source for term in recipe.method.terms.values()}
        for source in recipe.method.sources.keys() - named:
            del recipe.method.sources[source]

    def _weightless(self, recipe: Recipe) -> None:
        self._weigh(recipe, 0.0)

    def _silenced(self, recipe: Recipe) -> None:
        self._weigh(recipe, Zero())

    def _weigh(self, recipe: Recipe, weight: Weight) -> None:
        for name in self.own_terms(recipe):
            recipe.method.terms[name] = replace(recipe.method.terms[name], weight=weight)

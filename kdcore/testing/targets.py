"""Checks of soft targets: `(step) -> SoftTargets`."""

from typing import ClassVar

import pytest
import torch
from torch import Tensor

from kdcore.methods import declared, least_exits
from kdcore.plugins import Plugins
from kdcore.recipes import Recipe, resolve
from kdcore.testing import scene
from kdcore.testing.base import fail
from kdcore.testing.everything import RunTests
from kdcore.testing.listening import sources_of
from kdcore.testing.weighing import WeightChecks
from kdcore.vocabulary import SoftTargets, Step


class SoftTargetsTests(RunTests, WeightChecks):
    """`loss`: what imitates them where no method of theirs is named, `kl` or the full name of another."""

    family = "soft_targets"
    loss: ClassVar[str] = "kl"

    @classmethod
    def resolved(cls, plugins: Plugins, has_teacher: bool) -> Recipe:
        part, options = cls.part(), cls.part_options()
        several = cls.exits is not None or least_exits(declared(part.target)) > 1
        method = cls.method or ("deep-supervision" if several else "plain")
        bare = resolve(method, None, plugins=plugins, exits=cls.exits, has_teacher=has_teacher)
        if any(found.name == part.name for place, found in bare.parts.items() if place.startswith("source ")):
            return resolve(method, options, plugins=plugins, exits=cls.exits, has_teacher=has_teacher)
        loss = f"{cls.loss}@{part.name}"
        return resolve(method, options, plugins=plugins, exits=cls.exits, losses=[loss], has_teacher=has_teacher)

    def test_soft_targets(self) -> None:
        """Without a gradient, finite, probabilities that sum to one, a row for each sample and an entry for each exit or one; in bf16 too."""
        composition = self.built()
        judged = False
        for short in (False, True):
            what = "under autocast in bfloat16" if short else "in float32"
            with self.advising(what), scene.one_thread():
                for phase in scene.phases(composition):
                    task, _ = scene.started(composition, phase)
                    with torch.autocast("cpu", torch.bfloat16, enabled=short):
                        heard = sources_of(task, scene.batch(composition))
                    for name, (step, _, targets) in heard.items():
                        made_by = composition.recipe.parts.get(f"source {name}")
                        if made_by is not None and made_by.name == self.part().name:
                            self._judge(step, targets, what)
                            judged = True
        if not judged:
            pytest.skip("no phase asks it for soft targets: name a method in which one does")

    def _judge(self, step: Step, targets: SoftTargets, what: str) -> None:
        rows, exits = step.batch.images.shape[0], len(step.outputs.logits)
        outputs = step.outputs
        handed_on = [*outputs.logits, *outputs.embeddings, *outputs.maps, *outputs.extras.values()]  # the core detaches them
        given = [field for field in ("logits", "probs", "embeddings", "maps") if getattr(targets, field)]
        if not given and not targets.extras:
            fail(f"{self.about()}: its SoftTargets are empty; give logits, probs, embeddings or maps")
        for field in given:
            entries: list[Tensor] = getattr(targets, field)
            if field != "maps" and len(entries) not in (1, exits):
                fail(f"{self.about()}: {len(entries)} {field} for {exits} exits; give one that serves all, or one for each")
            for entry in entries:
                if entry.requires_grad and not any(entry is tensor for tensor in handed_on):
                    fail(f"{self.about()}: its {field} carry a gradient {what}; leave torch.enable_grad() out")
                if entry.shape[0] != rows or (field in ("logits", "probs") and entry.ndim != 2):
                    shape = list(entry.shape)
                    fail(f"{self.about()}: its {field} are {shape} for {rows} samples; a row for each sample, [B, K], is needed")
                if not bool(entry.isfinite().all()):
                    fail(f"{self.about()}: its {field} are not finite {what}; compute in float32 (kdcore.losses.full), and in log space")
        for entry in targets.probs or []:
            sums = entry.float().sum(dim=-1)
            if bool((entry < 0).any()) or not torch.allclose(sums, torch.ones_like(sums), atol=2e-3):
                fail(
                    f"{self.about()}: its probs are no probabilities {what} (a row sums to {float(sums[(sums - 1).abs().argmax()]):.4g}); "
                    "use softmax in float32, or give them as logits"
                )

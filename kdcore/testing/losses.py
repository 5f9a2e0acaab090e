"""Checks of losses: `(step, targets or None) -> scalar`."""

from typing import ClassVar

from kdcore.methods import declared, least_exits
from kdcore.plugins import Plugins
from kdcore.recipes import Recipe, resolve
from kdcore.testing.everything import RunTests
from kdcore.testing.weighing import FiniteChecks, WeightChecks


class LossTests(RunTests, FiniteChecks, WeightChecks):
    """`source`: where its targets come from, None for none. `on`: the exits that it sees (default: the shallow ones where the deepest
    teaches, else all). It is run in `method` where that has the loss, and is added to it where it has not."""

    family = "losses"
    source: ClassVar[str | None] = "deepest"
    on: ClassVar[str | None] = None

    @classmethod
    def resolved(cls, plugins: Plugins, has_teacher: bool) -> Recipe:
        name = cls.part().name
        several = cls.source is not None or cls.exits is not None or least_exits(declared(cls.part().target)) > 1
        method = cls.method or ("deep-supervision" if several else "plain")
        options = cls.part_options()
        if cls.method is not None:
            recipe = resolve(method, None, plugins=plugins, exits=cls.exits, has_teacher=has_teacher)
            if any(part.name == name for place, part in recipe.parts.items() if place.startswith("term ")):
                return resolve(method, options, plugins=plugins, exits=cls.exits, has_teacher=has_teacher)
        seen = cls.on or ("shallow" if cls.source == "deepest" else "all")
        loss = f"{name}{f'@{cls.source}' if cls.source else ''}:{seen}"
        return resolve(method, options, plugins=plugins, exits=cls.exits, losses=[loss], has_teacher=has_teacher)

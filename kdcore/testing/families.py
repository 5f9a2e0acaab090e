"""How a run is made around a component of each family, beside losses: which method, and what the component replaces in it."""

from typing import ClassVar

from kdcore.methods import declared, least_exits
from kdcore.plugins import Plugins
from kdcore.recipes import Recipe, resolve
from kdcore.testing.everything import RunTests
from kdcore.testing.training import FiniteChecks, WeightChecks


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


class ExitsTests(RunTests):
    """Run under `--method deep-supervision`, which trains every exit by the labels, or in `method`."""

    family = "exits"

    @classmethod
    def resolved(cls, plugins: Plugins, has_teacher: bool) -> Recipe:
        part = cls.part()
        return resolve(cls.method or "deep-supervision", cls.part_options(), plugins=plugins, exits=part.name, has_teacher=has_teacher)


class ScheduleTests(RunTests):
    """Run under `--method plain`, or in `method`; the steps are of the first phase and of the last."""

    family = "schedules"

    @classmethod
    def resolved(cls, plugins: Plugins, has_teacher: bool) -> Recipe:
        options, part = cls.part_options(), cls.part()
        return resolve(cls.method or "plain", options, plugins=plugins, exits=cls.exits, schedule=part.name, has_teacher=has_teacher)


class MethodTests(RunTests, FiniteChecks):
    """The whole method with `options`."""

    family = "methods"

    @classmethod
    def resolved(cls, plugins: Plugins, has_teacher: bool) -> Recipe:
        return resolve(cls.part().name, dict(cls.options), plugins=plugins, exits=cls.exits, has_teacher=has_teacher)

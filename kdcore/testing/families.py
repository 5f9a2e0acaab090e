"""How a run is made around a component of each family, beside losses: which method, and what the component replaces in it."""

from kdcore.plugins import Plugins
from kdcore.recipes import Recipe, resolve
from kdcore.testing.everything import RunTests
from kdcore.testing.weighing import FiniteChecks


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

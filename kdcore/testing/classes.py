"""Classes of checks made on the fly, for every part of a plugin: what an author's own test file says, as far as it can be guessed."""

from pathlib import Path
from typing import Any, cast

from kdcore.homes import setting
from kdcore.hookspecs import EVENTS
from kdcore.plugins import Part
from kdcore.testing.backbones import BackboneTests
from kdcore.testing.base import Kit
from kdcore.testing.families import ExitsTests, MethodTests, ScheduleTests
from kdcore.testing.losses import LossTests
from kdcore.testing.plugin import PluginTests
from kdcore.testing.standing import AnalysisTests, LoggerTests, MetricTests
from kdcore.testing.targets import SoftTargetsTests

FAMILY_KITS: dict[str, type[Kit]] = {
    "exits": ExitsTests,
    "soft_targets": SoftTargetsTests,
    "losses": LossTests,
    "schedules": ScheduleTests,
    "methods": MethodTests,
    "backbones": BackboneTests,
    "metrics": MetricTests,
    "analyses": AnalysisTests,
}


def plugin_class(name: str) -> type[PluginTests]:
    """For an installed plugin, or for a loose file."""
    if name.endswith(".py"):
        return type("TestPlugin", (PluginTests,), {"plugin": Path(name).stem, "file": name})
    return type("TestPlugin", (PluginTests,), {"plugin": name})


def logger_class(whole: type[PluginTests]) -> type[LoggerTests] | None:
    """For a plugin with event hooks, else None. Raises KdError where it does not load."""
    module = whole.module()
    if not any(hasattr(getattr(module, event, None), "kdcore_impl") for event in EVENTS):
        return None
    return type("TestEvents", (LoggerTests,), {"plugin": whole.plugin, "file": whole.file})


def class_for(part: Part, whole: type[PluginTests]) -> type[Kit]:
    """The checks of one part, run in the first method of its plugin that has it, else in a plain one (`kdcore.homes`)."""
    base = FAMILY_KITS[part.family]
    name = "Test" + "".join(word.title() for word in part.name.replace(".", "-").split("-"))
    beside = whole.plugins().parts_of(whole.plugin, "methods").values()
    own: dict[str, Any] = {"component": part.name, "file": whole.file, **setting(part, beside)}
    if part.family == "losses" and not own.keys() & {"method", "source"} and not hasattr(part.target, "reads"):
        alone = cast(type[LossTests], type(name, (LossTests,), {**own, "source": None}))
        if alone.fault() is None:  # it asks for no soft targets, though it does not say reads = ()
            return alone
    return type(name, (base,), own)

"""Classes of checks made on the fly, for every part of a plugin: what an author's own test file says, as far as it can be guessed."""

from pathlib import Path
from typing import Any, cast

from kdcore.errors import KdError
from kdcore.hookspecs import EVENTS
from kdcore.methods import Method
from kdcore.options import options_of, target_of
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


def class_for(part: Part, whole: type[PluginTests]) -> type[Kit] | None:
    """The checks of one part: run in the first method of its plugin that has it, else in a plain one. None for a family without checks."""
    base = FAMILY_KITS.get(part.family)
    if base is None:
        return None
    name = "Test" + "".join(word.title() for word in part.name.replace(".", "-").split("-"))
    own: dict[str, Any] = {"component": part.name, "file": whole.file, **_place(part, whole)}
    if part.family == "losses" and not own.keys() & {"method", "source"} and not hasattr(part.target, "reads"):
        alone = cast(type[LossTests], type(name, (LossTests,), {**own, "source": None}))
        if alone.fault() is None:  # it asks for no soft targets, though it does not say reads = ()
            return alone
    return type(name, (base,), own)


def _place(part: Part, whole: type[PluginTests]) -> dict[str, Any]:
    if part.family not in ("losses", "soft_targets", "exits", "schedules"):
        return {}
    for name, method in _methods(whole).items():
        if any(target_of(component) is part.target for component in _components(method)):
            return {"method": name}
    if part.family == "losses" and getattr(part.target, "reads", None) == ():
        return {"source": None}
    return {}


def _components(method: Method) -> list[Any]:
    found = [method.exits, method.schedule, *method.sources.values(), *(term.loss for term in method.terms.values())]
    return [component for component in found if component is not None]


def _methods(whole: type[PluginTests]) -> dict[str, Method]:
    """The plugin's methods with their defaults; without those that need an option, or fail."""
    found = {}
    for part in whole.plugins().parts_of(whole.plugin, "methods").values():
        try:
            if not any(option.required for option in options_of(part.target).values()):
                made = part.target()
                if isinstance(made, Method):
                    found[part.name] = made
        except (KdError, Exception):
            continue
    return found

"""Plugins: found in the metadata of distributions without being imported (kdcore/installed.py), and imported only when a run names them."""

import importlib
import importlib.util
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy

from kdcore import API, hookspecs
from kdcore.errors import FileError, KdError, NotInstalled, nearest
from kdcore.hookspecs import EVENTS, FAMILIES
from kdcore.installed import CORE, GROUP, PluginInfo, blocked_by, fault_of, how_to_install, installed
from kdcore.mending import mended_by, reason_of
from kdcore.tracing import import_aloud, trace_hooks

__all__ = ["CORE", "FAMILIES", "GROUP", "ONE", "SINGULAR", "Part", "PluginInfo", "Plugins", "family_keyword", "installed"]

SINGULAR = {
    "exits": "exits",
    "soft_targets": "soft targets",
    "losses": "loss",
    "schedules": "schedule",
    "methods": "method",
    "backbones": "backbone",
    "metrics": "metric",
    "analyses": "analysis",
}
ONE = SINGULAR | {"exits": "exit attachment", "soft_targets": "source of soft targets"}
"""What one part of a family is, where there is none."""


@dataclass(frozen=True)
class Part:
    """One component under its full name, with the plugin that it came from."""

    name: str
    family: str
    plugin: PluginInfo
    target: Any

    @property
    def label(self) -> str:
        return f"{SINGULAR[self.family]} '{self.name}' ({self.plugin.label})"


class Plugins:
    """The plugins of one process: what is installed, loose files, and what has been imported of them."""

    def __init__(self, extra: Iterable[str] = ()) -> None:
        self.manager = pluggy.PluginManager("kdcore")
        self.manager.add_hookspecs(hookspecs)
        trace_hooks(self.manager)
        self.infos: dict[str, list[PluginInfo]] = {}
        self.blocked: dict[str, PluginInfo] = {}
        for info in installed(blocked=True):
            if blocked_by(info) is not None:
                self.blocked[info.name] = info
            elif info.name != CORE:
                self.infos.setdefault(info.name, []).append(info)
        self.loaded: dict[str, PluginInfo] = {}
        self._broken: dict[str, str] = {}
        self.extra = list(extra)
        for name in self.extra:
            self.add(name)

    def add(self, name: str) -> PluginInfo:
        """Brings a loose file (`./my_idea.py`), or an installed plugin by its name (a logger, say)."""
        if not name.endswith(".py"):
            return self.load(name)
        path = Path(name).expanduser().resolve()
        if not path.is_file():
            raise FileError(f"-p {name}: there is no such file")
        plugin = path.stem
        if plugin in self.loaded and self.loaded[plugin].module == str(path):
            return self.loaded[plugin]
        if plugin == CORE or plugin in self.infos:
            owner = self.infos[plugin][0].label if plugin in self.infos else CORE
            raise KdError(f"-p {name}: the name '{plugin}' belongs to {owner}; rename the file")
        if "." in plugin:
            raise KdError(f"-p {name}: a plugin's name has no dot, which parts it from its parts; rename the file")
        info = PluginInfo(plugin, path.name, "", str(path), summary="a loose file")
        spec = importlib.util.spec_from_file_location(f"kdcore_file_{plugin}", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        try:
            with import_aloud(info):
                spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            del sys.modules[spec.name]
            raise KdError(f"plugin '{plugin}' ({name}) cannot be imported: {reason_of(error)}") from error
        self._register(info, module)
        self.infos[plugin] = [info]
        return info

    def load(self, name: str) -> PluginInfo:
        """Imports a plugin and registers its hooks. Raises KdError that names the distribution and the reason."""
        if name in self.loaded:
            return self.loaded[name]
        if name == CORE:
            from kdcore import builtin

            info = PluginInfo(CORE, CORE, metadata.version(CORE), "kdcore.builtin", "the core's own parts", FAMILIES[:5], API)
            self._register(info, builtin)
            return info
        claims = self.infos.get(name)
        if not claims:
            raise self.missing(name, "plugin", f"{nearest(name, self.infos)} (kd plugins lists them)")
        info = claims[0]
        if (fault := fault_of(info, claims)) is not None:
            raise KdError(fault[1])
        self.load(CORE)  # and with it torch, for whose import no plugin is to be blamed
        self._broken[name] = _verdict(info)
        try:
            with import_aloud(info):
                module = importlib.import_module(info.module)
        except (Exception, SystemExit) as error:
            reason = f"cannot be imported: {reason_of(error)}"
            self._is_broken(info, reason)
            raise KdError(f"plugin '{name}' ({info.label}) {reason}; {mended_by(info, error)}, or run without it") from error
        self._register(info, module)
        if not self._broken[name].startswith("its hook"):
            self._is_broken(info, "")
        return info

    def missing(self, plugin: str, what: str, hint: str) -> KdError:
        """What is said of a plugin that is not there: who blocks it, or its pip line where kdcore knows of it."""
        if plugin in self.blocked:
            info = self.blocked[plugin]
            return NotInstalled(
                f"plugin '{plugin}' ({info.label}) is blocked by {blocked_by(info)}; leave that out, or run without the plugin"
            )
        if line := how_to_install(plugin):
            return NotInstalled(f"plugin '{plugin}' is not installed; {line}")
        return KdError(f"there is no {what}{hint}" if what != "plugin" else f"there is no plugin '{plugin}'{hint}")

    def _is_broken(self, info: PluginInfo, reason: str) -> None:
        """Keeps for `kd plugins` what a run found out about an installed plugin; "" where it is well again."""
        former, self._broken[info.name] = self._broken.get(info.name, ""), reason
        if reason != former and not info.module.endswith(".py"):
            from kdcore import verdicts

            found = verdicts.read(info)
            verdicts.write(info, broken=reason, failed=found.failed if found else None)

    def _register(self, info: PluginInfo, module: ModuleType) -> None:
        try:
            self.manager.register(module, name=info.name)
            self.manager.check_pending()
            wrappers = [caller.name for caller in self.manager.get_hookcallers(module) or [] if _wraps(caller, module)]
            if wrappers:
                raise pluggy.PluginValidationError(
                    module, f"hook '{wrappers[0]}' is a wrapper, and wrappers would change what others answer"
                )
        except Exception as error:
            if self.manager.has_plugin(info.name):
                self.manager.unregister(name=info.name)
            reason = _hook_fault(error)
            self._is_broken(info, reason)
            raise KdError(f"plugin '{info.name}' ({info.label}): {reason}; hooks are {', '.join(FAMILIES + EVENTS)}") from error
        self.loaded[info.name] = info

    def parts_of(self, plugin: str, family: str) -> dict[str, Part]:
        """The plugin's parts of one family, by full name: `<plugin>.<part>`, or `<plugin>` for the part that is called as it is."""
        info = self.load(plugin)
        hook, answer = f"its hook {family}()", self._answer(plugin, family)
        separator = "/" if family == "backbones" else "."
        taken = self.parts_of(CORE, family) if plugin != CORE else {}
        parts = {}
        for name, target in answer.items():
            if not isinstance(name, str) or not callable(target):
                raise self._nonsense(info, f"{hook} must map names to classes or functions, not {name!r} to {target!r}")
            if not re.fullmatch(r"[^\s@:=/,'\"]+", name):
                raise self._nonsense(info, f"{hook} names a part {name!r}, which cannot be typed: a name has letters, digits, . _ and -")
            full = name if plugin == CORE or (name == plugin and name not in taken) else f"{plugin}{separator}{name}"
            parts[full] = Part(full, family, info, target)
        if self._broken.get(plugin, "").startswith(hook):
            self._is_broken(info, "")
        return parts

    def _answer(self, plugin: str, family: str) -> dict[Any, Any]:
        """What the plugin's hook returns, {} where it has none. Raises KdError for a hook that fails, and for anything but a dict."""
        info, hook = self.loaded[plugin], f"its hook {family}()"
        others = [module for name, module in self.manager.list_name_plugin() if name != plugin and module is not None]
        try:
            answers = self.manager.subset_hook_caller(family, others)()
        except (Exception, SystemExit) as error:
            raise self._nonsense(info, f"{hook} failed: {reason_of(error)}") from error
        if answers and not isinstance(answers[0], dict):
            raise self._nonsense(info, f"{hook} must return a dict of names, not {type(answers[0]).__name__}")
        return answers[0] if answers else {}

    def _nonsense(self, info: PluginInfo, reason: str) -> KdError:
        self._is_broken(info, reason)
        return KdError(f"plugin '{info.name}' ({info.label}): {reason}")

    def part(self, family: str, name: str) -> Part:
        """A part by its name: `kl`, `byot`, `byot.hint`; `plugin` alone where it has one part of the family.

        Imports the plugin that the name says and no other.
        """
        core = self.parts_of(CORE, family)
        if name in core:
            return core[name]
        plugin = name.partition("/" if family == "backbones" else ".")[0]
        if plugin not in self.infos:
            known = set(core) | {
                n for n, claims in self.infos.items() if not claims[0].families or family_keyword(family) in claims[0].families
            }
            near = nearest(name, known)
            raise self.missing(
                plugin, f"{ONE[family]} '{name}'", near if "did you mean" in near else f"{near} (kd plugins lists the plugins)"
            )
        parts = self.parts_of(plugin, family)
        if name in parts:
            return parts[name]
        if name == plugin and len(parts) == 1:
            return next(iter(parts.values()))
        hint = f"; there is: {', '.join(sorted(parts))}" if name == plugin and parts else nearest(name, parts) or "; it has none"
        if not parts and callable(vars(self.manager.get_plugin(plugin)).get(family)) and family not in self._hooks_of(plugin):
            hint = f"; its {family}() is not called: write @kdcore.hookimpl above it"
        raise KdError(f"plugin '{plugin}' ({self.infos[plugin][0].label}) has no {ONE[family]} '{name}'{hint}")

    def _hooks_of(self, plugin: str) -> set[str]:
        """Names of the hooks that a plugin implements, in pluggy's eyes."""
        return {caller.name for caller in self.manager.get_hookcallers(self.manager.get_plugin(plugin)) or ()}

    def name_of(self, family: str, target: Any) -> Part | None:
        """The part, among the plugins imported so far, that is this class or function."""
        for plugin in [CORE, *self.loaded]:
            for part in self.parts_of(plugin, family).values():
                if part.target is target:
                    return part
        return None


def family_keyword(family: str) -> str:
    """How a distribution's Keywords say a family (`kdcore:loss`, `kdcore:soft-targets`), as `PluginInfo.families` has it."""
    return SINGULAR[family].replace(" ", "_")


def _verdict(info: PluginInfo) -> str:
    """Why the plugin, as it is now, was found broken before; "" where it was not."""
    from kdcore import verdicts

    found = verdicts.read(info)
    return found.broken if found else ""


def _wraps(caller: Any, module: ModuleType) -> bool:
    return any(one.plugin is module and (one.wrapper or one.hookwrapper) for one in caller.get_hookimpls())


def _hook_fault(error: Exception) -> str:
    """Why pluggy, or the module's own attributes, refused a registration, in one line."""
    if not isinstance(error, pluggy.PluginValidationError):
        return f"its hooks cannot be read: {reason_of(error)}"
    lines = str(error).splitlines()
    reason = re.sub(r" in plugin <module.*>", "", lines[0] if len(lines) == 1 else f"{lines[0]}: {lines[-1]}")
    if unknown := re.match(r"unknown hook '(\w+)'$", reason):
        close = nearest(unknown[1], FAMILIES + EVENTS)
        reason += close if "did you mean" in close else ""
    return reason

"""Plugins: found in the metadata of distributions without being imported, and imported only when a run names them."""

import importlib
import importlib.util
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from email.message import Message
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import pluggy

from kdcore import API, hookspecs
from kdcore.errors import FileError, KdError, nearest
from kdcore.hookspecs import EVENTS, FAMILIES

GROUP = "kdcore"
CORE = "kdcore"
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
class PluginInfo:
    """What metadata says of a plugin, before anything of it is imported."""

    name: str
    distribution: str
    version: str
    module: str
    summary: str = ""
    families: tuple[str, ...] = ()
    api: int | None = None
    paper: str = ""

    @property
    def label(self) -> str:
        return f"{self.distribution} {self.version}".strip()


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


def installed() -> list[PluginInfo]:
    """Every plugin that some distribution claims, sorted by name; a name that two claim stands there twice."""
    found = {}
    for entry in metadata.entry_points(group=GROUP):
        about = cast(Message, entry.dist.metadata) if entry.dist else None
        keywords = re.split(r"[,\s]+", (about.get("Keywords") or "") if about else "")
        families = tuple(word.partition(":")[2].replace("-", "_") for word in keywords if word.startswith("kdcore:"))
        apis = [word.partition(":")[2] for word in keywords if word.startswith("kdcore-api:")]
        links = [
            link.partition(",")[2].strip()
            for link in (about.get_all("Project-URL") or [] if about else [])
            if link.lower().startswith("paper")
        ]
        info = PluginInfo(
            name=entry.name,
            distribution=(about.get("Name") if about else None) or "?",
            version=(about.get("Version") if about else None) or "",
            module=entry.value,
            summary=(about.get("Summary") or "") if about else "",
            families=families,
            api=int(apis[0]) if apis and apis[0].isdigit() else None,
            paper=links[0] if links else "",
        )
        found[info.name, info.distribution.lower().replace("_", "-")] = info
    return sorted(found.values(), key=lambda info: (info.name, info.distribution))


class Plugins:
    """The plugins of one process: what is installed, loose files, and what has been imported of them."""

    def __init__(self, extra: Iterable[str] = ()) -> None:
        self.manager = pluggy.PluginManager("kdcore")
        self.manager.add_hookspecs(hookspecs)
        self.infos: dict[str, list[PluginInfo]] = {}
        for info in installed():
            self.infos.setdefault(info.name, []).append(info)
        self.loaded: dict[str, PluginInfo] = {}
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
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            del sys.modules[spec.name]
            raise KdError(f"plugin '{plugin}' ({name}) cannot be imported: {_reason(error)}") from error
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
            raise KdError(
                f"there is no plugin '{name}'{nearest(name, self.infos)} (kd plugins lists them){how_to_install(name, self.infos)}"
            )
        if len(claims) > 1:
            raise KdError(
                f"two distributions claim the plugin name '{name}': {' and '.join(c.label for c in claims)}; pip uninstall {claims[-1].distribution}"
            )
        info = claims[0]
        if info.api is not None and info.api != API:
            raise KdError(
                f"plugin '{name}' ({info.label}) was written for kdcore API {info.api} and this is API {API}; "
                f"pip install --upgrade {info.distribution if info.api < API else CORE}"
            )
        try:
            module = importlib.import_module(info.module)
        except (Exception, SystemExit) as error:
            raise KdError(
                f"plugin '{name}' ({info.label}) cannot be imported: {_reason(error)}; pip install --force-reinstall {info.distribution}, or run without it"
            ) from error
        self._register(info, module)
        return info

    def _register(self, info: PluginInfo, module: ModuleType) -> None:
        try:
            self.manager.register(module, name=info.name)
            self.manager.check_pending()
        except pluggy.PluginValidationError as error:
            self.manager.unregister(name=info.name)
            lines = str(error).splitlines()
            reason = re.sub(r" in plugin <module.*>", "", lines[0] if len(lines) == 1 else f"{lines[0]}: {lines[-1]}")
            if unknown := re.match(r"unknown hook '(\w+)'$", reason):
                close = nearest(unknown[1], FAMILIES + EVENTS)
                reason += close if "did you mean" in close else ""
            raise KdError(f"plugin '{info.name}' ({info.label}): {reason}; hooks are {', '.join(FAMILIES + EVENTS)}") from error
        self.loaded[info.name] = info

    def parts_of(self, plugin: str, family: str) -> dict[str, Part]:
        """The plugin's parts of one family, by full name: `<plugin>.<part>`, or `<plugin>` for the part that is called as it is."""
        info = self.load(plugin)
        others = [module for name, module in self.manager.list_name_plugin() if name != plugin and module is not None]
        try:
            answers = self.manager.subset_hook_caller(family, others)()
        except Exception as error:
            raise KdError(f"plugin '{plugin}' ({info.label}): its hook {family}() failed: {_reason(error)}") from error
        if answers and not isinstance(answers[0], dict):
            raise KdError(
                f"plugin '{plugin}' ({info.label}): its hook {family}() must return a dict of names, not {type(answers[0]).__name__}"
            )
        separator = "/" if family == "backbones" else "."
        taken = self.parts_of(CORE, family) if plugin != CORE else {}
        parts = {}
        for name, target in (answers[0] if answers else {}).items():
            if not isinstance(name, str) or not callable(target):
                raise KdError(
                    f"plugin '{plugin}' ({info.label}): its hook {family}() must map names to classes or functions, not {name!r} to {target!r}"
                )
            full = name if plugin == CORE or (name == plugin and name not in taken) else f"{plugin}{separator}{name}"
            parts[full] = Part(full, family, info, target)
        return parts

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
            raise KdError(f"there is no {ONE[family]} '{name}'{nearest(name, known)}{how_to_install(plugin, known)}")
        parts = self.parts_of(plugin, family)
        if name in parts:
            return parts[name]
        if name == plugin and len(parts) == 1:
            return next(iter(parts.values()))
        hint = f"; there is: {', '.join(sorted(parts))}" if name == plugin and parts else nearest(name, parts) or "; it has none"
        raise KdError(f"plugin '{plugin}' ({self.infos[plugin][0].label}) has no {ONE[family]} '{name}'{hint}")

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


def how_to_install(plugin: str, known: Iterable[str]) -> str:
    """What to type for a plugin that may exist elsewhere; nothing where the name is a slip of the pen, or none that a plugin has.

    No distribution is named: whoever took that name on an index would be installed by everyone who mistypes.
    """
    if "did you mean" in nearest(plugin, known) or not re.fullmatch(r"[A-Za-z][\w-]*", plugin):
        return ""
    return f"; a plugin is installed with pip (one of kdcore's own, from a clone: pip install -e plugins/{plugin})"


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"

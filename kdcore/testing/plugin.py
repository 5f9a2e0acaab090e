"""Checks of a plugin as a whole: its metadata, its hooks and its names."""

import inspect
import re
from collections.abc import Mapping
from importlib import metadata
from typing import Any, ClassVar

import pytest

from kdcore import API, __version__, hookspecs
from kdcore.errors import KdError
from kdcore.hookspecs import EVENTS, FAMILIES
from kdcore.installed import PluginInfo, installed, normal
from kdcore.plugins import CORE, Part, Plugins, family_keyword
from kdcore.testing.base import Kit, fail, plugins_with

WITH_PAPER = ("exits", "soft_targets", "losses", "schedules", "methods")
"""Families that are somebody's idea, which a reader wants to look up."""

AGAIN = "; pip install -e . reads it anew"
"""What follows on advice about pyproject.toml: what an editable install was made from is not looked at again."""


class PluginTests(Kit):
    """`plugin`: the entry point's name, as a user writes it before the dot."""

    plugin: ClassVar[str] = ""

    @classmethod
    def about(cls) -> str:
        return f"plugin '{cls.plugin}'"

    @classmethod
    def plugins(cls) -> Plugins:
        return plugins_with(cls.file)

    @classmethod
    def info(cls) -> PluginInfo:
        """What metadata says. Fails where no distribution, or more than one, claims the name; skips for a loose file."""
        if cls.file is not None:
            pytest.skip("a loose file has no metadata; kd new --from FILE makes a package of it")
        claims = [info for info in installed() if info.name == cls.plugin]
        if not claims:
            fail(
                f"no distribution brings a plugin '{cls.plugin}': write [project.entry-points.kdcore] in pyproject.toml and pip install -e ."
            )
        if len(claims) > 1:
            fail(f"{' and '.join(claim.label for claim in claims)} both claim the plugin name '{cls.plugin}'; rename one")
        return claims[0]

    @classmethod
    def module(cls) -> Any:
        """The plugin's module, imported and registered. Raises KdError."""
        known = cls.plugins()
        if cls.file is None:
            known.load(cls.plugin)
        module = known.manager.get_plugin(cls.plugin)
        if module is None:
            raise KdError(f"there is no plugin '{cls.plugin}' in {cls.file}; a loose file's plugin is called as the file is")
        return module

    @classmethod
    def limits(cls) -> dict[str, str]:
        """Also those that the plugin's module declares, which kd plugins check reads without a test file."""
        try:
            own = getattr(cls.module(), "cannot", {})
        except KdError:
            own = {}
        return {**(own if isinstance(own, Mapping) else {}), **cls.cannot}

    @classmethod
    def parts(cls) -> list[Part]:
        """Everything that it registers. Raises KdError."""
        known = cls.plugins()
        cls.module()
        return [part for family in FAMILIES for part in known.parts_of(cls.plugin, family).values()]

    def test_metadata(self) -> None:
        """A summary, a version, this API's number, a dependency on kdcore, and Keywords that name the families which its hooks bring."""
        info = self.info()
        if not info.summary or not info.version:
            fail(f"{info.label}: write a version and a description of one sentence in pyproject.toml, which kd plugins shows{AGAIN}")
        if info.api != API:
            fail(f'{info.label}: write "kdcore-api:{API}" among the keywords in pyproject.toml (it says {info.api or "none"}){AGAIN}')
        if not needs_kdcore(info.distribution):
            fail(f'{info.label} does not depend on kdcore: write dependencies = ["kdcore>={__version__}"] in pyproject.toml{AGAIN}')
        if unneeded := [family for family in info.families if family not in _keywords(FAMILIES) and family not in ("log", "logger")]:
            fail(
                f"{info.label}: the keyword 'kdcore:{unneeded[0]}' is no family; there is: "
                f"{', '.join(sorted(_keywords(FAMILIES).values()))}{AGAIN}"
            )
        try:
            parts = self.parts()
        except KdError:
            return  # test_hook_signatures or test_names says why
        brought = {family_keyword(part.family) for part in parts}
        for family in sorted(brought - set(info.families)):
            fail(f'{info.label} brings a {family}: write "{_as_keyword(family)}" among the keywords in pyproject.toml{AGAIN}')
        for family in sorted(set(info.families) - brought - {"log", "logger"}):
            fail(f'{info.label} has the keyword "{_as_keyword(family)}" and registers none: take it out{AGAIN}; or write the hook')

    def test_paper(self) -> None:
        """A link to the paper, where the plugin is somebody's idea."""
        info = self.info()
        ideas = {family_keyword(family) for family in WITH_PAPER} & set(info.families)
        if not ideas and "paper" not in self.limits():
            pytest.skip("it brings no method or part of one, so it needs no paper")
        if info.paper.endswith("/0000.00000"):
            pytest.skip(
                "its paper is still the one that kd new made up: put the link into pyproject.toml (Paper), or take that line out and write "
                f"cannot = {{'paper': 'unpublished'}} into the module{AGAIN}"
            )
        with self.advising(limit="paper"):
            if not re.match(r"https?://\S+\.\S+", info.paper):
                fail(
                    f'{info.label} links no paper: write [project.urls] Paper = "https://arxiv.org/abs/..." in pyproject.toml, or declare '
                    f"cannot = {{'paper': 'unpublished'}} in the module{AGAIN}"
                )

    def test_hook_signatures(self) -> None:
        """It imports, and every hook is a plain function with the parameters of its specification."""
        try:
            module = self.module()
        except KdError as error:
            fail(error)
        hooks = 0
        for name, function in vars(module).items():
            if not inspect.isroutine(function) or name not in FAMILIES + EVENTS:
                continue
            marked = hasattr(function, f"{hookspecs.hookimpl.project_name}_impl")
            if not marked and getattr(function, "__module__", None) == module.__name__:
                fail(f"{self.about()}: {name}() stands there without @kdcore.hookimpl, so nobody calls it; add that, or rename it")
            if not marked:
                continue
            hooks += 1
            allowed = tuple(inspect.signature(getattr(hookspecs, name)).parameters)
            wanted = f"def {name}({', '.join(allowed)})"
            if inspect.isgeneratorfunction(function) or inspect.iscoroutinefunction(function):
                fail(f"{self.about()}: its hook {name} is a generator or a coroutine; write {wanted} with a return")
            for parameter in inspect.signature(function).parameters.values():
                if parameter.default is not inspect.Parameter.empty:
                    fail(
                        f"{self.about()}: its hook {name}() gives '{parameter.name}' a default, which pluggy never passes on; write {wanted}"
                    )
                if parameter.kind is not inspect.Parameter.POSITIONAL_OR_KEYWORD:
                    fail(f"{self.about()}: its hook {name}() has '{parameter}', which pluggy cannot pass; write {wanted}")
                if parameter.name not in allowed:
                    fail(f"{self.about()}: its hook {name}() takes '{parameter.name}', which nobody gives; write {wanted}")
        if not hooks:
            fail(f"{self.about()} has no hook: write @kdcore.hookimpl over a function called {', '.join(FAMILIES + EVENTS)}")

    def test_names(self) -> None:
        """Names that can be typed, each found again under its full name, and none that the core's own part takes away."""
        try:
            self.module()
        except KdError:
            pytest.skip("it does not load: test_hook_signatures says why")
        if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", self.plugin) and self.file is None:
            fail(f"{self.about()}: a plugin's name is small letters, digits and single hyphens; change its entry point")
        try:
            parts = self.parts()
        except KdError as error:
            fail(error)
        known = self.plugins()
        targets: dict[tuple[str, Any], str] = {}
        for part in parts:
            short = re.split(r"[./]", part.name)[-1]
            if not re.fullmatch(r"[a-z0-9]+([-_][a-z0-9]+)*", short):
                fail(f"{part.label}: a part's name is small letters, digits and hyphens, so that it can be typed; call it {_plain(short)}")
            if short in known.parts_of(CORE, part.family) and part.plugin.name != CORE:
                fail(f"{part.label} has the name of the core's own '{short}', which is easily mistaken for it; rename it")
            twin = targets.setdefault((part.family, id(part.target)), part.name)
            if twin != part.name:
                fail(f"{part.label} and '{twin}' are one class or function: a run's files could not tell which was meant; register it once")
            if known.part(part.family, part.name).target is not part.target:
                fail(f"{part.label} is not what its name finds; rename it")


def needs_kdcore(distribution: str) -> bool:
    """Whether a distribution's metadata asks for the core, extras aside, so that who installs it gets both."""
    from packaging.requirements import InvalidRequirement, Requirement  # which pytest brings

    for line in metadata.requires(distribution) or []:
        try:
            wanted = Requirement(line)
        except InvalidRequirement:
            continue
        if normal(wanted.name) == CORE and (wanted.marker is None or wanted.marker.evaluate({"extra": ""})):
            return True
    return False


def _keywords(families: tuple[str, ...]) -> dict[str, str]:
    """What `PluginInfo.families` may hold, and how Keywords write it."""
    return {family_keyword(family): _as_keyword(family_keyword(family)) for family in families}


def _as_keyword(family: str) -> str:
    return f"kdcore:{family.replace('_', '-')}"


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "mine"

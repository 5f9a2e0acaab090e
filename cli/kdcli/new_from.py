"""A loose file as `kd new --from` packages it: its families, parts, options, paper and dependencies. Torch is imported where the file does."""

import ast
import dataclasses
import inspect
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from kdcli.new_families import BY_HOOK, Found, Row
from kdcli.new_trial import tried, value_for
from kdcore.errors import FileError, KdError
from kdcore.homes import home_of, methods_of
from kdcore.hookspecs import EVENTS
from kdcore.hookspecs import FAMILIES as HOOKS
from kdcore.methods import declared
from kdcore.options import Option, options_of
from kdcore.plugins import CORE, Part, Plugins

BROUGHT = (
    "kdcore",
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "annotated_types",
    "pydantic",
    "matplotlib",
    "sklearn",
    "scipy",
    "torchmetrics",
)
"""Packages that come with kdcore."""


@dataclass(frozen=True)
class Loose:
    """A file that is a plugin. `paper`: "" where it names none. `requires`: requirements beside kdcore. `beside`: modules in its folder that
    it imports, which a package of it lacks."""

    code: str
    parts: tuple[Found, ...]
    summary: str
    paper: str
    requires: tuple[str, ...]
    beside: tuple[str, ...] = ()


def read_loose(path: Path) -> Loose:
    """What there is to package. The file is imported, as `kd train -p` does. Raises KdError or FileError for one that is no plugin."""
    if path.suffix != ".py":
        raise KdError(f"--from {path}: a plugin is a Python file, whose name ends in .py")
    if not path.is_file():
        raise FileError(f"--from {path}: there is no such file")
    plugin = path.stem
    if plugin == CORE or "." in plugin:
        raise KdError(f"--from {path}: a plugin cannot be called '{plugin}'; rename the file")
    code = path.read_text(encoding="utf-8")
    plugins = Plugins()
    plugins.infos.pop(plugin, None)  # an installed plugin may be called as the file is: the package will have another name
    plugins.add(str(path))
    there = [part for hook in HOOKS for part in plugins.parts_of(plugin, hook).values()]
    parts = with_methods([found(part, plugin) for part in there], there)
    callers = [getattr(plugins.manager.hook, event).get_hookimpls() for event in EVENTS]
    if any(implementation.plugin_name == plugin for implementations in callers for implementation in implementations):
        parts.append(Found("logger", ""))
    if not parts:
        raise KdError(
            f"--from {path}: it has no hook that gives a part; write @kdcore.hookimpl above def losses(): return {{'mine': Mine}}, "
            f"or another of {', '.join(HOOKS + EVENTS)}"
        )
    parts = tried(parts, plugin, plugins)
    tree = ast.parse(code)
    return Loose(code, tuple(parts), first_sentence(ast.get_docstring(tree)), paper_of(code), requires(tree), beside(tree, path.parent))


def found(part: Part, plugin: str) -> Found:
    """A part as its hook names it, with what its README says of it."""
    separator = "/" if part.family == "backbones" else "."
    known = options_of(part.target) if part.family not in ("backbones", "metrics") else {}
    text = inspect.getdoc(part.target) or ""
    reads = getattr(part.target, "reads", None)
    return Found(
        BY_HOOK[part.family],
        part.name.removeprefix(f"{plugin}{separator}"),
        tuple(row(option, text) for option in known.values()),
        tuple(option.name for option in known.values() if option.required),
        declared(part.target),
        reads if isinstance(reads, tuple) else None,
        given=tuple(pair for option in known.values() if option.required for pair in value_for(option)),
    )


def with_methods(parts: list[Found], there: list[Part]) -> list[Found]:
    """The same, each part knowing the first of the file's methods that has it: there it is at home, and its tests run it there."""
    methods = methods_of(there)
    keys = {part.name: one.part for part, one in zip(there, parts, strict=True) if part.family == "methods"}
    homes = [home_of(part, methods) for part in there]
    return [dataclasses.replace(one, method=keys[home] if home else "") for one, home in zip(parts, homes, strict=True)]


def row(option: Option, text: str) -> Row:
    """A line of the table. The meaning is what the docstring says after `name:`, up to the full stop."""
    meaning = re.search(rf"(?<![\w.]){re.escape(option.name)}`?: (.+?)(?:\.(?=\s|$)|$)", " ".join(text.split()))
    default = "required" if option.required else repr(option.default)
    return Row(option.name, option.type_name, default, meaning[1] if meaning else "")


def first_sentence(docstring: str | None) -> str:
    """Of a module's docstring, without the full stop; "" where there is none."""
    paragraph = " ".join((docstring or "").split("\n\n")[0].split())
    return re.split(r"\.(?=\s+[A-Z]|$)", paragraph)[0]


def paper_of(code: str) -> str:
    """The first link to a paper: an address at arXiv or DOI, or arXiv:NNNN.NNNNN; "" where there is none."""
    if link := re.search(r"https?://(?:\S*arxiv\.org|\S*doi\.org|openreview\.net)/[^\s\"'`)>\]]+", code):
        return link[0].rstrip(".,;")
    number = re.search(r"(?i)\barxiv[:\s]+(\d{4}\.\d{4,5})", code)
    return f"https://arxiv.org/abs/{number[1]}" if number else ""


def requires(tree: ast.AST) -> tuple[str, ...]:
    """Requirements, with a lower bound, for what a file imports that neither Python nor kdcore brings."""
    others = imported(tree)
    owners: Mapping[str, Any] = metadata.packages_distributions() if others else {}
    named = [owners[name][0] for name in others if name in owners]
    return tuple(f"{name}>={'.'.join(metadata.version(name).split('.')[:2])}" for name in dict.fromkeys(named))


def beside(tree: ast.AST, folder: Path) -> tuple[str, ...]:
    """Modules and packages that lie in the file's folder and that no distribution brings."""
    there = [name for name in imported(tree) if (folder / f"{name}.py").is_file() or (folder / name / "__init__.py").is_file()]
    owners: Mapping[str, Any] = metadata.packages_distributions() if there else {}
    return tuple(name for name in there if name not in owners)


def imported(tree: ast.AST) -> list[str]:
    """Top-level packages that a file imports and that neither Python nor kdcore brings."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return sorted(names - set(sys.stdlib_module_names) - set(BROUGHT))

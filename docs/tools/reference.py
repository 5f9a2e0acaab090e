"""Writes docs/authors/hooks.md and docs/plugins.md from the code and the plugins' metadata: `python docs/tools/reference.py`.

A test compares the files with what this gives, so that they cannot fall behind.
"""

import ast
import inspect
import tomllib
from collections.abc import Iterator
from pathlib import Path

from kdcore import hookspecs
from kdcore.hookspecs import EVENTS, FAMILIES
from kdcore.plugins import Plugins

ROOT = Path(__file__).parents[2]
WRITTEN = "<!-- Written by docs/tools/reference.py: change the code, then run it. -->"

FAMILY_PAGES = {
    "exits": "exits.md",
    "soft_targets": "soft-targets.md",
    "losses": "losses.md",
    "schedules": "schedules.md",
    "methods": "methods.md",
    "backbones": "backbones.md",
    "metrics": "metrics.md",
    "analyses": "analyses.md",
}
CLASSES = {
    "What passes in a step": ("vocabulary", ("Batch", "Outputs", "SoftTargets", "Step")),
    "What a method is made of": ("methods", ("Method", "Term", "Linear", "Cosine", "Sigmoid", "Taught")),
    "What a component is told": ("context", ("Context", "Shapes")),
    "What a schedule yields and is sent": ("phases", ("Phase", "PhaseResult", "Where")),
    "What exits are attached to": ("taps", ("Tap",)),
    "What an analysis returns": ("analysis", ("Analysis",)),
}
SEVERAL = 8
"""Parts of a family that are named in the directory; of more, the number."""


def hooks_page() -> str:
    """Every hook with its signature and docstring, and every field of the dataclasses that pass between parts."""
    lines = [
        "# Hook reference",
        "",
        WRITTEN,
        "",
        "A plugin is a module with some of these functions, each marked with `kdcore.hookimpl` and written with exactly this signature: no defaults, no",
        "parameters after a star, no generators. An event hook may leave parameters out.",
        "",
        "## Families",
        "",
        "Each returns a dict from part name to class or function.",
        "",
    ]
    for name in FAMILIES:
        lines += [*_hook(name), f"The contract, with an example: [{FAMILY_PAGES[name]}]({FAMILY_PAGES[name]}).", ""]
    lines += ["## Events", "", "What a run calls. [Loggers](loggers.md) says what is in `record` and `results`.", ""]
    for name in EVENTS:
        lines += _hook(name)
    for heading, (module, classes) in CLASSES.items():
        lines += [f"## {heading}", "", f"In `kdcore.{module}`.", ""]
        for name in classes:
            lines += [f"### {name}", "", *_fields(module, name), ""]
    return "\n".join(lines).rstrip() + "\n"


def _hook(name: str) -> list[str]:
    function = getattr(hookspecs, name)
    return [
        f"### {name}",
        "",
        "```text",
        f"@hookimpl\ndef {name}{inspect.signature(function)}:",
        "```",
        "",
        inspect.getdoc(function) or "",
        "",
    ]


def _fields(module: str, name: str) -> Iterator[str]:
    """A dataclass's docstring and a table of its fields, read from the syntax tree: torch is not imported."""
    tree = ast.parse((ROOT / "kdcore" / f"{module}.py").read_text(encoding="utf-8"))
    body = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    yield inspect.cleandoc(ast.get_docstring(body) or "")
    yield ""
    yield "| field | type | default |"
    yield "|---|---|---|"
    for field in body.body:
        if isinstance(field, ast.AnnAssign):
            default = "" if field.value is None else f"`{_default(field.value)}`"
            cells = [f"`{ast.unparse(field.target)}`", f"`{ast.unparse(field.annotation)}`", default]
            yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _default(value: ast.expr) -> str:
    """`field(default_factory=list)` as `[]`; anything else as it is written."""
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "field":
        factory = next(word.value for word in value.keywords if word.arg == "default_factory")
        return {"list": "[]", "dict": "{}"}.get(ast.unparse(factory), f"{ast.unparse(factory)}()")
    return ast.unparse(value)


def plugins_page() -> str:
    """The plugins of this repository, by their metadata; their parts, by importing them."""
    lines = [
        "# Plugins",
        "",
        WRITTEN,
        "",
        "The plugins that live in this repository. `kd plugins` lists those that are installed, `kd show NAME` explains one, and",
        "[For authors](authors/index.md) says how to write another. A plugin of somebody else's is found in the same way, wherever it comes from.",
        "",
    ]
    plugins = Plugins()
    for path in sorted(ROOT.glob("plugins/*/pyproject.toml")):
        about = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
        (name,) = about["entry-points"]["kdcore"]
        families = [word.partition(":")[2] for word in about["keywords"] if word.startswith("kdcore:")]
        paper = about.get("urls", {}).get("Paper")
        lines += [
            f"## {name}",
            "",
            f"{about['description']}.",
            "",
            f"- distribution: [`{about['name']}`](../{path.parent.relative_to(ROOT).as_posix()}/README.md)",
            f"- families: {', '.join(families)}",
        ]
        for family in FAMILIES:
            parts = list(plugins.parts_of(name, family))
            if parts:
                named = ", ".join(f"`{part}`" for part in parts[:SEVERAL]) + (
                    f" and {len(parts) - SEVERAL} more" if len(parts) > SEVERAL else ""
                )
                lines.append(f"- {family.replace('_', ' ')}: {named}")
        lines += [*([f"- paper: <{paper}>"] if paper else []), ""]
    return "\n".join(lines).rstrip() + "\n"


PAGES = {"docs/authors/hooks.md": hooks_page, "docs/plugins.md": plugins_page}


if __name__ == "__main__":
    for page, text in PAGES.items():
        (ROOT / page).write_text(text(), encoding="utf-8", newline="\n")
        print(f"wrote {page}")

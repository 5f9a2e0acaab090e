"""The text of every file that `kd new` writes, by its path in the plugin's folder. Templates lie in kdcli/templates. Imports no torch."""

import json
import re
import time
from collections.abc import Iterable, Sequence
from importlib import metadata, resources
from string import Template

from kdcli.new_families import FAMILIES, TINY, Found, Row, full_name
from kdcore import API
from kdcore.homes import DEEPEST, source_of

NO_PAPER = "https://arxiv.org/abs/0000.00000"
"""Stands where the author's own goes."""


def template(file: str, **values: str) -> str:
    return Template(resources.files("kdcli").joinpath("templates", file).read_text(encoding="utf-8")).substitute(values)


def from_template(name: str, family: str, author: str) -> dict[str, str]:
    """A plugin with the template of one family."""
    part = template_part(name, family)
    names = naming(name, part)
    return {
        **around(name, author, FAMILIES[family].summary, NO_PAPER, [part]),
        f"{names['package']}/__init__.py": template(f"{family}/code.py.tmpl", part=part.part, paper=NO_PAPER, **names),
        f"tests/test_{module_name(name)}.py": template(f"{family}/test.py.tmpl", **names),
    }


def from_code(
    name: str, author: str, code: str, parts: Sequence[Found], summary: str = "", paper: str = "", requires: Sequence[str] = ()
) -> dict[str, str]:
    """A plugin whose module is given, as it is; one conformance class for each of its parts."""
    return {
        **around(name, author, summary or f"The plugin {name} of kdcore", paper or NO_PAPER, parts, requires),
        f"kdcore_{module_name(name)}/__init__.py": code,
        f"tests/test_{module_name(name)}.py": conformance(name, parts),
    }


def template_part(name: str, family: str) -> Found:
    """The part that a family's template has in a plugin of this name."""
    return Found(family, FAMILIES[family].part or name, FAMILIES[family].options)


def around(name: str, author: str, summary: str, paper: str, parts: Sequence[Found], requires: Sequence[str] = ()) -> dict[str, str]:
    """What a plugin has beside its code and its conformance tests. requires: beside kdcore."""
    first = {part.family: part for part in reversed(parts)}
    families = list(dict.fromkeys(part.family for part in parts))
    keywords = ["knowledge distillation", *(f"kdcore:{family}" for family in families), f"kdcore-api:{API}"]
    values = {
        "name": name,
        "distribution": f"kdcore-{name}",
        "package": f"kdcore_{module_name(name)}",
        "summary": summary,
        "summary_quoted": quoted(summary),
        "author": author,
        "author_quoted": quoted(author),
        "paper": paper,
        "year": time.strftime("%Y"),
        "keywords": ", ".join(map(quoted, keywords)),
        "dependencies": ", ".join(map(quoted, ["kdcore>=0.1,<1", *requires])),
        "repository": repository(),
        "use": uses(name, [first[family] for family in families]),
        "options": options_tables(name, parts),
    }
    written = {
        "pyproject.toml": "pyproject.toml.tmpl",
        "README.md": "README.md.tmpl",
        "LICENSE": "LICENSE.tmpl",
        ".gitignore": "gitignore.tmpl",
        ".github/workflows/test.yml": "test.yml.tmpl",
        "tests/test_readme.py": "test_readme.py.tmpl",
    }
    return {path: template(file, **values) for path, file in written.items()}


def naming(name: str, part: Found) -> dict[str, str]:
    """The names that a part's texts use: plugin, package, component, term (for --loss), and the command that tries it."""
    component = full_name(name, FAMILIES[part.family].hook, part.part)
    taught = "teacher" in part.needs or "able_teacher" in part.needs
    wanted = source_of(part.reads, part.needs)
    source = "" if wanted is None else f"@{wanted}" + (":shallow" if wanted == DEEPEST else "")
    names = {"name": name, "package": f"kdcore_{module_name(name)}", "component": component, "term": f"{component}{source}"}
    trial = Template(FAMILIES[part.family].trial).substitute(names)
    if taught:
        trial = f"kd train {TINY} --run runs/teacher && {trial} --teacher runs/teacher"
    return names | {"trial": trial}


def module_name(name: str) -> str:
    return name.replace("-", "_")


def quoted(text: str) -> str:
    """A TOML string: JSON's are."""
    return json.dumps(text, ensure_ascii=False)


def repository() -> str:
    """kdcore's main as pip takes it, by the metadata of the installed one; "" where that does not say."""
    for link in metadata.metadata("kdcore").get_all("Project-URL") or []:
        label, _, address = link.partition(",")
        if label.strip().lower() in ("repository", "source", "source code"):
            return f"git+{address.strip()}"
    return ""


def uses(name: str, parts: Sequence[Found]) -> str:
    """How each part is used, under its name where there are several."""
    texts = [usage(name, part).strip() for part in parts]
    if len(parts) > 1:
        titles = [f"### {FAMILIES[part.family].what.capitalize()}: `{naming(name, part)['component']}`" for part in parts]
        texts = [f"{title}\n\n{text}" for title, text in zip(titles, texts, strict=True)]
    return "\n\n".join(texts)


def usage(name: str, part: Found) -> str:
    """How a part is used: its family's text, without the snippet where values would have to be made up."""
    names = naming(name, part)
    if part.required or not set(part.needs) <= {"teacher", "index", "views", "maps", "hard_labels", "exits>=2"}:
        return f"On real data:\n\n```sh\n{names['trial']}\n```\n"
    taught = "teacher" in part.needs
    extra = ', teacher=timm.create_model("test_resnet", num_classes=4)' if taught else ""
    text = template(f"{part.family}/use.md.tmpl", **names, extra=extra, index=", torch.arange(8)" if "index" in part.needs else "")
    return text.replace("import kdcore\nimport torch\n", "import kdcore\nimport timm\nimport torch\n") if taught else text


def options_tables(name: str, parts: Iterable[Found]) -> str:
    """The README's tables of options, one for each part that has some."""
    tables = [
        options_table(f"{FAMILIES[p.family].what.partition(' ')[2]} `{naming(name, p)['component']}`", p.options)
        for p in parts
        if p.options
    ]
    return "\n\n".join(tables) or "None."


def options_table(component: str, rows: Iterable[Row]) -> str:
    """component: what has these options, as `loss `mine.gap``."""
    lines = [f"Of the {component}:", "", "| option | type | default | meaning |", "|---|---|---|---|"]
    lines += [f"| `{row.name}` | {cell(row.type)} | `{cell(row.default)}` | {cell(row.meaning)} |" for row in rows]
    return "\n".join(lines)


def cell(text: str) -> str:
    return text.replace("|", "\\|")


def conformance(name: str, parts: Sequence[Found]) -> str:
    """A test file with a class for the plugin, and one for each part."""
    kinds = sorted({"PluginTests", *(FAMILIES[part.family].tests for part in parts)})
    lines = [
        '"""kdcore\'s conformance kit, for every part of this plugin."""',
        "",
        f"from kdcore.testing import {', '.join(kinds)}",
        "",
        "",
    ]
    lines += ["class TestPlugin(PluginTests):", f'    plugin = "{name}"']
    taken = {"TestPlugin"}
    for part in parts:
        kind = FAMILIES[part.family].tests
        title = "Test" + ("".join(word[0].upper() + word[1:] for word in re.findall(r"[A-Za-z0-9]+", part.part)) or "Logger")
        if title in taken:
            title += kind.removesuffix("Tests")
        taken.add(title)
        named = f'plugin = "{name}"' if part.family == "logger" else f'component = "{naming(name, part)["component"]}"'
        lines += ["", "", f"class {title}({kind}):", f"    {named}", *attributes(name, part)]
    return "\n".join(lines) + "\n"


def attributes(name: str, part: Found) -> Iterable[str]:
    """What a conformance class has to be told beside the component, as lines."""
    if part.required:
        given = ", ".join(f'"{name}": ...' for name in part.required)
        yield f"    options = {{{given}}}  # they have no default: put values that make sense"
    if part.method:
        yield f'    method = "{full_name(name, "methods", part.method)}"'
    elif part.family == "loss" and (source := source_of(part.reads, part.needs)) != DEEPEST:
        yield f"    source = {quoted(source) if source else source}"

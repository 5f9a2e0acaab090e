"""The text of every file that `kd new` writes, by its path in the plugin's folder. Templates lie in kdcli/templates. Imports no torch."""

import json
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata, resources
from string import Template
from typing import Any

from kdcli.new_families import FAMILIES, TINY, Found, Row, full_name
from kdcore import API
from kdcore.homes import DEEPEST, source_of

NO_PAPER = "https://arxiv.org/abs/0000.00000"
"""Stands where the author's own goes."""

NO_PAPER_YET = """
<!-- The link above is not the paper's yet: put yours here and into pyproject.toml (Paper), which kd show and kd methods print. A plugin without
a paper: take both out, and the citation below, and write `cannot = {"paper": "unpublished"}` into the plugin's module, for the kit's test_paper. -->
"""


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
        "paperless": NO_PAPER_YET if paper == NO_PAPER else "",
        "paper_note": "\n# Not the paper's yet; the README says what to do where there is none." if paper == NO_PAPER else "",
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
    wanted = source_of(part.reads, part.needs)
    source = "" if wanted is None else f"@{wanted}" + (":shallow" if wanted == DEEPEST else "")
    option = "" if part.family in ("method", "analysis") else f"{component}."
    names = {
        "name": name,
        "package": f"kdcore_{module_name(name)}",
        "component": component,
        "term": f"{component}{source}",
        "option": option,
    }
    return names | {"trial": trial_of(name, part, names)}


def trial_of(name: str, part: Found, names: Mapping[str, str]) -> str:
    """The command that tries a part: in the plugin's own method where it does not fit into another; what it says of itself where it fits nowhere."""
    if part.refused:
        return naming(name, part.home)["trial"] if part.home else f"kd show {names['component']}"
    trial = Template(FAMILIES[part.family].trial).substitute(names)
    for option, value in part.given:
        trial += f" -o {names['option']}{option}={json.dumps(value).strip(chr(34))}"
    if part.taught:
        trial = f"kd train {TINY} --run runs/teacher && {trial} --teacher runs/teacher"
    return trial


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
    if part.refused:
        where = f"As the method `{naming(name, part.home)['component']}` has it:" if part.home else "What it asks for, and its options:"
        return f"{where}\n\n```sh\n{names['trial']}\n```\n"
    if (part.required and part.family in ("exits", "analysis")) or len(part.given) < len(part.required):
        return f"On real data:\n\n```sh\n{names['trial']}\n```\n"
    given = {names["option"] + option: value for option, value in part.given}
    extra = f", options={{{literal(given, given)}}}" if given else ""
    extra += ", teacher=teacher" if part.taught else ""
    extra += ", num_samples=8" if "index" in part.needs else ""  # as many as the snippet has; a memory has a row for each
    text = template(f"{part.family}/use.md.tmpl", **names, extra=extra, index=", torch.arange(8)" if "index" in part.needs else "")
    if not part.taught:
        return text
    teacher = 'teacher = timm.create_model("test_resnet", num_classes=4)  # a trained one, as a rule\n'
    return text.replace("import torch\n", "import timm\nimport torch\n").replace("composed = ", f"{teacher}composed = ", 1)


def literal(values: Mapping[str, Any], names: Iterable[str]) -> str:
    """The inside of a dictionary as ruff would write it; ... for a name that has no value."""
    texts = {name: quoted(value) if isinstance(value, str) else repr(value) for name, value in values.items()}
    return ", ".join(f"{quoted(name)}: {texts.get(name, '...')}" for name in names)


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
        yield f"    options = {{{literal(dict(part.given), part.required)}}}  # no default: put what makes sense"
    if part.method:
        yield f'    method = "{full_name(name, "methods", part.method)}"'
    elif part.family == "loss" and (source := source_of(part.reads, part.needs)) != DEEPEST:
        yield f"    source = {quoted(source) if source else source}"

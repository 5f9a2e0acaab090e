"""`kd new`: a plugin that works and is tested from the start, written from a template of its family or from a loose file."""

import os
import re
import shlex
import subprocess
from collections.abc import Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import click

from kdcli.new_families import CORE_PARTS, FAMILIES, Found
from kdcli.new_files import from_code, from_template, naming, repository, template_part
from kdcore.errors import KdError
from kdcore.plugins import CORE, installed

NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


@click.command()
@click.argument("name", required=False)
@click.option("--family", type=click.Choice(list(FAMILIES)), help="what it brings; default: loss")
@click.option("--from", "source", metavar="FILE", help="package a loose plugin file as it is; NAME is by default the file's")
@click.option("--dir", "where", metavar="DIR", default=".", help="the folder to write it into; default: this one")
@click.option("--author", metavar="WHO", help="who stands in the licence; default: git's user.name")
def new(name: str | None, family: str | None, source: str | None, where: str, author: str | None) -> None:
    """Write the plugin NAME, which works and is tested: the package kdcore-NAME with a part, its tests, a README and CI.

    \b
    kd new mine                            a loss, to put your own into
    kd new mine --family soft-targets      another family
    kd new --from my_idea.py               the file that you tried with kd train -p ./my_idea.py
    """
    if source is not None and family is not None:
        raise KdError(f"--family {family}: the families of {source} are found in it; leave --family out")
    if name is None and source is None:
        raise KdError("the plugin has no name: kd new NAME, or kd new --from FILE")
    name = name or Path(source or "").stem.replace("_", "-")
    check_name(name, f"kd new {suggested(name)} --from {source}" if source else "")
    folder = Path(where).expanduser() / name
    if os.path.lexists(folder):
        raise KdError(f"{folder} exists already, and nothing of it is overwritten; choose another name, or another --dir")
    author = author or git_user() or f"the authors of kdcore-{name}"
    if source is None:
        parts = [template_part(name, family or "loss")]
        files = from_template(name, family or "loss", author)
    else:
        from kdcli.new_from import read_loose

        loose = read_loose(Path(source).expanduser())
        parts = list(loose.parts)
        files = from_code(name, author, loose.code, parts, loose.summary, loose.paper, loose.requires)
    write(folder, files)
    report(folder, name, parts, None if source is None else loose.paper)
    for module in () if source is None else loose.beside:
        moved = f"copy it into {folder / naming(name, parts[0])['package']}, and import it from {naming(name, parts[0])['package']}"
        click.echo(f"The file imports '{module}', which lies beside it and is not in the package: {moved}.")


def check_name(name: str, advice: str = "") -> None:
    """Raises KdError for a name that a plugin cannot have, or that somebody has. advice: what to type in place of `kd new`."""
    better = advice or f"kd new {suggested(name)}"
    if "." in name:
        raise KdError(f"'{name}': a plugin's name has no dot, which parts it from its parts; {better}")
    if name.startswith(("kdcore-", "kdcore_")):
        raise KdError(f"'{name}': the package is called kdcore-NAME by itself; {better}")
    if not NAME.fullmatch(name):
        raise KdError(f"'{name}' cannot be a plugin's name: small letters, digits and single hyphens; {better}")
    if name == CORE or name in CORE_PARTS:
        raise KdError(f"the name '{name}' belongs to {CORE}; choose another")
    for info in installed():
        if info.name.replace("_", "-") == name:
            raise KdError(f"the plugin name '{info.name}' belongs to {info.label}, which is installed; choose another")
    try:
        version = metadata.version(f"kdcore-{name}")
    except metadata.PackageNotFoundError:
        return
    raise KdError(f"'{name}' would make the distribution kdcore-{name}, and {version} of it is installed; choose another name")


def suggested(name: str) -> str:
    """The nearest name that a plugin can have."""
    words = re.findall(r"[a-z0-9]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name).lower())
    kept = "-".join(words[1:] if words[:1] == ["kdcore"] else words).lstrip("0123456789-")
    return kept or "NAME"


def git_user() -> str:
    """git's user.name; "" where there is no git, or it knows none."""
    try:
        line = ["git", "config", "user.name"]
        done = subprocess.run(line, capture_output=True, encoding="utf-8", errors="replace", timeout=10)  # git's own, whatever the locale's
    except (OSError, subprocess.SubprocessError):
        return ""
    return " ".join(done.stdout.split())


def quote(word: str) -> str:
    """A word of a command, for the shell of this system: single quotes mean nothing to Windows'."""
    return subprocess.list2cmdline([word]) if os.name == "nt" else shlex.quote(word)


def write(folder: Path, files: dict[str, str]) -> None:
    """All files, in a folder that is new."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir()
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")


def report(folder: Path, name: str, parts: Sequence[Found], paper: str | None) -> None:
    """What was written, the next three commands, and what only the author knows. paper: of a loose file, "" where it names none."""
    what = ", ".join(f"{FAMILIES[part.family].what} '{naming(name, part)['component']}'" for part in parts)
    fit = [part for part in parts if not part.refused] or parts
    whole = next((part for part in fit if part.family == "method"), fit[0])
    extra = "" if find_spec("pytest") else "[test]"
    click.echo(f"{folder}: a plugin that works, with its tests: {what}. Next:\n")
    for line in (f"pip install -e {quote(f'{folder}{extra}')}", f"pytest {quote(str(folder))}", naming(name, whole)["trial"]):
        click.echo(f"  {line}")
    for part in parts:
        if part.refused and part.home is None:
            click.echo(
                f"\nNo step could be trained with '{naming(name, part)['component']}', so the README does not show one: {part.refused}"
            )
    code = folder / naming(name, whole)["package"] / "__init__.py"
    click.echo("")
    if paper is None:
        renamed = f" (rename '{parts[0].part}' there, in tests/ and in README.md)" if parts[0].part not in ("", name) else ""
        click.echo(f"Then put your idea into {code}{renamed}, and run pytest again.")
    else:
        click.echo(f"The file is now {code}, word for word.")
    where = "the README's second line" if paper else "Paper in pyproject.toml, the docstring's first line, the README's second"
    click.echo(f"What only you know: the paper ({where}), and its citation at the README's end. Without one, see the README.")
    if not repository():
        click.echo(
            "CI tests against kdcore's main once the repository's variable KDCORE_MAIN says where that is: git+https://HOST/OWNER/kdcore"
        )
    click.echo("When pyproject.toml has changed, pip install -e again: what is installed does not look at it by itself.")

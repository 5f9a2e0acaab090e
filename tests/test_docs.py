"""Every snippet of the README and the docs runs, in order, in a folder of its own; every link and anchor leads somewhere."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "cli/README.md", *sorted(ROOT.glob("docs/*.md"))]
AUTHORS = sorted(ROOT.glob("docs/authors/*.md"))
LONG = {"docs/tutorial.md", "docs/comparing.md"}
"""Pages that train for longer than the others: in the slow tier."""
RUN_WHOLE = {"first-plugin", "metrics", "analyses"}
"""Pages for authors whose commands really train in the fast tests; of the others, names and options of each command are resolved."""
BLOCK = re.compile(r"^```(\w+)(?: title=(\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path) -> list[tuple[str, str | None, str]]:
    return [(language, title or None, text) for language, title, text in BLOCK.findall(page.read_text())]


def run_kd(words: list[str]) -> None:
    from kdcli.main import kd

    with pytest.raises(SystemExit) as stop:
        kd.main(words, prog_name="kd")
    assert stop.value.code in (0, None), f"kd {' '.join(words)} ended with {stop.value.code}"


def run_shell(line: str) -> None:
    """A line a reader would type: kd is run; make's targets and pip's folders must exist."""
    words = shlex.split(line, comments=True)
    if not words or words == ["python3", "-m", "venv", ".venv"]:
        return
    if words[:3] == [".venv/bin/python", "-m", "pip"]:
        words = words[2:]
    if words[0] == "kd":
        run_kd(words[1:])
    elif words[0] == "make":
        targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        assert set(words[1:]) <= targets, line
    elif words[:2] == ["pip", "install"]:
        for word in words[2:]:
            if not word.startswith("-"):
                assert (ROOT / word / "pyproject.toml").exists() or Path(word, "pyproject.toml").exists(), line
    elif words[0] == "pytest":
        assert list(Path(words[1]).glob("tests/test_*.py")), line
    elif words[0] == "python":
        assert (ROOT / words[1]).exists(), line
    else:
        raise AssertionError(f"the test does not know how to check: {line}")


def resolve_only(line: str) -> None:
    """Instead of running `kd train` or `kd plan`: every name, option and term of it is found and checked, without data."""
    from kdcli import flags
    from kdcli.train import train
    from kdcore.plugins import Plugins
    from kdcore.preparing import resolve_recipe

    words = shlex.split(line, comments=True)
    assert words[:2] in (["kd", "train"], ["kd", "plan"]), f"the test does not know how to check: {line}"
    values = train.make_context("kd train", words[2:]).params
    settings = {name: values[name] for name in values if name not in ("run", "resume", "file", "quiet", "as_json", "json_lines")}
    config = flags.read_config(flags.read_settings(settings, None, "train"))
    resolve_recipe(config, Plugins(config.plugin))


def run_page(page: Path, folder: Path, shell) -> None:
    """The blocks of a page in order: files are written, Python shares one namespace as in a reader's session, commands go to `shell`."""
    names = {"__name__": "snippet"}
    for language, title, text in blocks(page):
        if title is not None:
            (folder / title).parent.mkdir(parents=True, exist_ok=True)
            (folder / title).write_text(text)
        elif language == "python":
            exec(compile(text, str(page), "exec"), names)
        elif language in ("sh", "bash"):
            for line in text.replace("\\\n", " ").splitlines():
                shell(line)
        else:
            assert language in ("bibtex", "toml", "text"), f"{page}: a block of {language} is not run"


def named(pages: list[Path]) -> list:
    """Parameters of a test, by their names; what takes long is in the slow tier."""
    names = {page: page.relative_to(ROOT).as_posix() for page in pages if blocks(page)}
    return [pytest.param(page, id=name, marks=[pytest.mark.slow] * (name in LONG)) for page, name in names.items()]


@pytest.mark.parametrize("page", named(PAGES))
def test_snippets(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run_page(page, tmp_path, run_shell)


@pytest.mark.parametrize("page", [p for p in AUTHORS if blocks(p)], ids=lambda p: p.stem)
def test_snippets_for_authors(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run_page(page, tmp_path, run_shell if page.stem in RUN_WHOLE else resolve_only)


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in AUTHORS if blocks(p) and p.stem not in RUN_WHOLE], ids=lambda p: p.stem)
def test_snippets_for_authors_as_a_reader_runs_them(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run_page(page, tmp_path, run_shell)


def anchors(page: Path) -> set[str]:
    """Of the headings of a page, as GitHub makes them: the site is told to make the same."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return {re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-") for title in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}


def test_links_and_anchors_lead_somewhere():
    for page in [*PAGES, *AUTHORS, *ROOT.glob("plugins/*/README.md"), ROOT / "CONTRIBUTING.md"]:
        for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)", page.read_text()):
            aim = page.parent / target if target else page
            assert aim.exists(), f"{page.relative_to(ROOT)} links to {target}"
            assert not anchor or anchor in anchors(aim), (
                f"{page.relative_to(ROOT)} links to #{anchor} of {aim.name}, which has no such heading"
            )


def test_every_hook_stands_in_the_docs():
    from kdcore.hookspecs import EVENTS, FAMILIES

    for page in ("docs/design.md", "docs/authors/hooks.md"):
        text = (ROOT / page).read_text()
        assert not [name for name in (*FAMILIES, *EVENTS) if f"`{name}`" not in text and f"def {name}(" not in text], page


def test_the_demo_is_what_make_runs():
    assert "kd demo" in (ROOT / "Makefile").read_text()
    listed = subprocess.run([sys.executable, "-m", "kdcli", "--help"], capture_output=True, text=True, check=True)
    assert "demo" in listed.stdout

"""Every snippet of the README, the docs and the plugins' READMEs runs, in order, in a folder of its own."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "cli/README.md", *sorted(ROOT.glob("docs/*.md"))]
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
                assert (ROOT / word / "pyproject.toml").exists(), line
    elif words[0] == "python":
        assert (ROOT / words[1]).exists(), line
    else:
        raise AssertionError(f"the test does not know how to check: {line}")


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p)], ids=lambda p: str(p.relative_to(ROOT)))
def test_snippets(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for language, title, text in blocks(page):
        if title is not None:
            (tmp_path / title).write_text(text)
        elif language == "python":
            exec(compile(text, str(page), "exec"), {"__name__": "snippet"})
        elif language in ("sh", "bash"):
            for line in text.replace("\\\n", " ").splitlines():
                run_shell(line)
        else:
            assert language in ("bibtex", "toml", "text"), f"{page}: a block of {language} is not run"


def test_links_between_pages_exist():
    for page in [*PAGES, *ROOT.glob("plugins/*/README.md"), ROOT / "CONTRIBUTING.md"]:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"


def test_every_hook_stands_in_the_docs():
    from kdcore.hookspecs import EVENTS, FAMILIES

    text = (ROOT / "docs/design.md").read_text()
    assert not [name for name in (*FAMILIES, *EVENTS) if f"`{name}`" not in text]


def test_the_demo_is_what_make_runs():
    assert "kd demo" in (ROOT / "Makefile").read_text()
    listed = subprocess.run([sys.executable, "-m", "kdcli", "--help"], capture_output=True, text=True, check=True)
    assert "demo" in listed.stdout

"""docs/timm-flags.md against the command: no flag of `kd train` is missing there, and none is there that `kd train` lacks."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs/timm-flags.md"
ELSEWHERE = {"--data", "--run", "--config", "--quiet", "--json", "--json-lines", "--help", "--no-channels-last", "--aug", "-h"}


def command_flags() -> set[str]:
    from kdcli.train import train

    return {name for parameter in train.params for name in (*parameter.opts, *parameter.secondary_opts) if name.startswith("-")}


def cells() -> list[list[str]]:
    rows = [line.strip("|").split("|") for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row] for row in rows]


def flags_in(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", text))


def said_to_be_here() -> set[str]:
    """The flags of a row's second cell, or of its first where the second says "the same" or the row has only two cells."""
    found = set()
    for row in cells():
        there = row[1] if len(row) == 3 else row[0]
        found |= flags_in(row[0] if there == "the same" else there)
    return found


def test_every_flag_in_the_table_is_a_flag():
    unknown = said_to_be_here() - command_flags()
    assert not unknown


def test_every_flag_is_in_the_table():
    text = said_to_be_here() | flags_in(" ".join(cell for row in cells() for cell in row[1:]))
    positive = {name for name in command_flags() if name.startswith("--") and not name.startswith("--no-")}
    assert not positive - text - ELSEWHERE

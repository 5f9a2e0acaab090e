"""Writes `kdcore/directory.toml`: the plugins of this repository with their distributions. `python plugins/directory.py` after adding one."""

import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
FILE = HERE.parent / "kdcore" / "directory.toml"


def text() -> str:
    """What the file holds: one line for each entry point of the group `kdcore`, sorted."""
    lines = ["# Plugins that kdcore names where one is missing: plugin = distribution. Written by plugins/directory.py, not by hand."]
    for path in sorted(HERE.glob("*/pyproject.toml")):
        project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
        lines += [f'{name} = "{project["name"]}"' for name in project["entry-points"]["kdcore"]]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8", newline="\n")

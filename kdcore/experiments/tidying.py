"""What stays of a smoke test that went through: its table and the records of its runs. Their weights are worth nothing. Imports no torch."""

import shutil
from pathlib import Path
from typing import Any

from kdcore.errors import KdError
from kdcore.experiments.folders import STATE
from kdcore.files import read_json, remove_quietly, write_json

THROUGH = "through"
"""A key of experiment.json: the smoke test went through, so that its runs cannot go on."""

MADE = ("cells", "teachers", "compare.toml")
"""What a smoke test that is given again makes anew; all else that it writes is written over."""


def went_through(place: Path) -> bool:
    try:
        stored = read_json(place / STATE)
    except KdError:
        return False
    return isinstance(stored, dict) and stored.get(THROUGH) is True


def tidy(place: Path, state: dict[str, Any]) -> int:
    """Deletes checkpoints, students and made-up weights. state: what experiment.json holds. Returns bytes that are free again."""
    write_json(place / STATE, {**state, THROUGH: True})  # first: what is deleted by half must not go on
    weights = [place / "weights"]
    for run in [*(place / "cells").iterdir(), *(place / "teachers").glob("*")]:
        weights += [run / "checkpoints", run / "timm", run / "student.safetensors"]
    size = sum(path.stat().st_size for one in weights for path in (one, *one.rglob("*")) if path.is_file())
    for path in weights:
        shutil.rmtree(path, ignore_errors=True)
        remove_quietly(path)
    return size


def clear(place: Path) -> None:
    """Makes room for a smoke test to begin anew where one went through. What else lies there stays."""
    for name in MADE:
        shutil.rmtree(place / name, ignore_errors=True)
        remove_quietly(place / name)

"""What stays of a smoke test that went through: its table and the records of its runs. Their weights are worth nothing. Imports no torch."""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kdcore.errors import KdError
from kdcore.experiments.folders import STATE
from kdcore.files import file_errors, read_json, remove_quietly, write_json

THROUGH = "through"
"""A key of experiment.json: the smoke test went through, so that its runs cannot go on."""


def went_through(place: Path) -> bool:
    try:
        stored = read_json(place / STATE)
    except KdError:
        return False
    return isinstance(stored, dict) and stored.get(THROUGH) is True


def is_tidied(run: Path) -> bool:
    """Whether a run has its results and no student any more: it cannot go on."""
    return (run / "results.json").is_file() and not (run / "student.safetensors").exists()


def tidy(place: Path, state: dict[str, Any], runs: Iterable[Path], weights: Iterable[str]) -> int:
    """Deletes the checkpoints and students of these runs, and made-up weights. state: what experiment.json holds. Returns bytes that are free again.

    What lies elsewhere, or is linked to from here, is somebody else's.
    """
    write_json(place / STATE, {**state, THROUGH: True})  # first: what is deleted by half must not go on
    doomed = [Path(file) for file in weights if Path(file).resolve().parent == (place / "weights").resolve()]
    for run in _own(runs):
        doomed += [run / "checkpoints", run / "timm", run / "student.safetensors"]
    size = sum(path.stat().st_size for one in doomed for path in (one, *one.rglob("*")) if path.is_file())
    for path in doomed:
        shutil.rmtree(path, ignore_errors=True)
        remove_quietly(path)
    return size


def clear(runs: Iterable[Path]) -> None:
    """Deletes runs of a smoke test that begins anew. Raises FileError where one stays."""
    for run in _own(runs):
        if run.exists():
            with file_errors(run, "delete"):
                shutil.rmtree(run)


def _own(runs: Iterable[Path]) -> list[Path]:
    return [run for run in runs if not run.is_symlink() and not run.parent.is_symlink()]

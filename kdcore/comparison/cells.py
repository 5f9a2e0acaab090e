"""Cells: one run each of a comparison's grid, where it stands, and who is at work on it. Imports no torch."""

import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdcore.comparison.grid import Grid, Row
from kdcore.errors import FileError
from kdcore.runs import Run


@dataclass(frozen=True)
class Cell:
    """A row under a seed, and the folder of its run. `settings` as `kdcore.train` takes them; empty where they were not asked for."""

    row: str
    seed: int
    path: Path
    settings: dict[str, Any] = field(default_factory=dict, compare=False)

    def __str__(self) -> str:
        return f"{self.row}, seed {self.seed}"


@dataclass(frozen=True)
class Outcome:
    """How a cell ended: finished, failed (`error`: why, in one line), or taken: another process is at work on it."""

    state: str
    error: str = ""
    traceback: str = ""


def cell_path(folder: Path, row: Row, seed: int) -> Path:
    return folder / "cells" / f"{row.folder}-s{seed}"


def cells_of(folder: Path, grid: Grid) -> list[Cell]:
    """All cells of the grid, seed by seed, so that an early look at the folder finds every row."""
    return [Cell(row.name, seed, cell_path(folder, row, seed)) for seed in grid.seeds for row in grid.rows]


def is_finished(path: Path) -> bool:
    """Whether the run in this folder has its results: such a cell is never run again."""
    return (path / "results.json").is_file() and (path / "student.safetensors").is_file()


@contextmanager
def taken(path: Path, by: str = "") -> Iterator[bool]:
    """The cell for this process alone within the block; False where another one has it.

    The system gives the lock back when its process dies, however it dies. The file says who had it last: process, host, and `by`.
    """
    from filelock import FileLock, Timeout

    file = path.with_name(f"{path.name}.lock")
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(file)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        yield False
        return
    try:
        with suppress(OSError):  # Windows lets nobody write into a locked file
            file.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "by": by}), encoding="utf-8", newline="\n")
        yield True
    finally:
        lock.release()


def holder(path: Path) -> dict[str, Any]:
    """Who has, or had last, the cell: `pid`, `host`, `by`; {} where nobody has said."""
    try:
        found = json.loads(path.with_name(f"{path.name}.lock").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def clear_unbegun(path: Path) -> None:
    """Removes what a run left that died before its config.toml was written: nothing of it was trained. Raises FileError for anything else."""
    if not path.is_dir() or (path / "config.toml").exists():
        return
    others = [place.name for place in path.iterdir() if place.name not in ("checkpoints", "plugins") and not place.name.startswith(".")]
    if others or any((path / "checkpoints").rglob("*.safetensors")):
        raise FileError(f"{path} holds what is no run of this comparison ({(others or ['checkpoints'])[0]}): move it away")
    shutil.rmtree(path)


def where(path: Path) -> tuple[int, int | None, float | None]:
    """Of a cell under way: finished epochs, the epochs of its phases so far (None before the first), and dev top-1 of the deepest exit in percent."""
    records = Run(path).metrics()
    if not records:
        return 0, None, None
    phases = {record["phase_number"]: record["epochs"] for record in records}
    return len(records), sum(phases.values()), records[-1]["dev"].get("top1")

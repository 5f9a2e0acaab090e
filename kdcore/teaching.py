"""Runs that can teach: finished ones, and whom each has taught. Imports no torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdcore.comparing import summary
from kdcore.errors import KdError
from kdcore.runs import Run


def teachers(folder: str | Path) -> list[dict[str, Any]]:
    """The finished runs in a folder, however deep, as `comparing.summary` has them, with `taught`: how many of the runs there name each as their teacher.

    By data, then from the highest test top-1 (dev, where there is no test split). Raises KdError where there is no such folder.
    """
    root = Path(folder)
    if not root.is_dir():
        raise KdError(f"there is no folder {folder}: give the folder that holds your runs")
    places = sorted(path.parent for path in root.rglob("config.toml"))
    given = [_teacher_of(place) for place in places]
    rows = []
    for place in places:
        if (place / "results.json").is_file() and (place / "student.safetensors").is_file():
            row = summary(place, root=root)
            if row["state"] == "finished":
                whole = place.resolve()
                rows.append({**row, "taught": sum(path is not None and (path == whole or whole in path.parents) for path in given)})
    return sorted(rows, key=lambda row: (str(row["data"]), -_top1(row), row["run"]))


def _teacher_of(place: Path) -> Path | None:
    """The run or file that a run names as its teacher, as a whole path."""
    try:
        teacher = Run(place).config().get("teacher")
    except KdError:  # a damaged run taught nobody anything that could be read
        return None
    return Path(teacher).resolve() if isinstance(teacher, str) else None


def _top1(row: Mapping[str, Any]) -> float:
    return next((row[split] for split in ("test", "dev") if row[split] is not None), 0.0)

"""Runs in a list: what each came to, in a row. Imports no torch. (What differs between them: kdcore/comparison/side_by_side.py.)"""

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdcore.ending import why_stopped
from kdcore.errors import KdError
from kdcore.files import read_json
from kdcore.runs import Run

COLUMNS = {
    "run": "its folder",
    "model": "the backbone",
    "method": "the method",
    "data": "the data set",
    "seed": "the seed",
    "epochs": "epochs done, of those planned",
    "state": "finished, running, or stopped",
    "dev": "top-1 on dev, deepest exit",
    "test": "top-1 on test, deepest exit",
    "exit": "the best exit on dev",
    "test@exit": "top-1 on test of the best exit on dev",
    "minutes": "of the epochs, and of the end where it is finished",
    "date": "when it began",
}
"""What a row holds. dev and test are percentages of the delivered checkpoint; a value that is not there is None."""

REPORTED = frozenset(("exit", "top1", "top5", "nll", "ece", "not_finite", "recall", "confusion", "weights"))
"""What an exit's or an ensemble's entry in a report holds by itself; the rest are metrics of plugins."""

HIGH_FIRST = ("dev", "test", "test@exit", "date")


def best_exit(results: Mapping[str, Any]) -> int:
    """The exit with the highest top-1 on dev at the delivered checkpoint, from 1; of equals the cheapest by multiply-accumulates.

    Without a dev split it is the deepest exit of the test report: the test set selects nothing. -1, the deepest, where there is neither.
    """
    delivered = results["best"]
    if "dev" in delivered:
        macs = {cost["exit"]: cost["macs"] for cost in results.get("costs", [])}
        return max(delivered["dev"]["exits"], key=lambda e: (e["top1"], -macs.get(e["exit"], 0), -e["exit"]))["exit"]
    return delivered["test"]["exits"][-1]["exit"] if "test" in delivered else -1


def checkpoint_label(results: Mapping[str, Any], which: str) -> str:
    """Which checkpoint, and how it was chosen. which: best or last."""
    epoch = results[which]["epoch"]
    if "dev" not in results[which]:
        return f"last (epoch {epoch}); there is no dev split to select on"
    if results["best"]["epoch"] == results["last"]["epoch"]:
        return f"best on dev and last (epoch {epoch})"
    return {"best": f"best on dev (epoch {epoch})", "last": f"last (epoch {epoch})"}[which]


def plugin_numbers(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What metrics of plugins say of an exit or an ensemble, as far as it is numbers: `{"mango.grades mean_error": 0.31}`; None is not finite."""
    found: dict[str, Any] = {}
    for name in sorted(entry.keys() - REPORTED):
        values = entry[name]
        numbers = {f"{name} {inner}": value for inner, value in values.items()} if isinstance(values, Mapping) else {name: values}
        found |= {title: value for title, value in numbers.items() if value is None or isinstance(value, int | float)}
    return found


def find_runs(folder: str | Path) -> list[Path]:
    """The run folders in a folder and in its subfolders, or the folder itself if it is a run. Raises KdError where there is no such folder."""
    folder = Path(folder)
    if not folder.is_dir():
        raise KdError(f"there is no folder {folder}: give the folder that holds your runs")
    places = [folder, *_folders(folder), *(inner for outer in _folders(folder) for inner in _folders(outer))]
    return [place for place in places if (place / "config.toml").exists() or (place / "checkpoints").is_dir()]


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(place for place in folder.iterdir() if place.is_dir() and not place.name.startswith("."))
    except OSError:
        return []


def summary(path: Path, *, root: Path | None = None) -> dict[str, Any]:
    """One run as a row of `COLUMNS`. A damaged one has None there, and why under `problem`; `reason` is what broke it off, where it says so."""
    row: dict[str, Any] = dict.fromkeys(COLUMNS)
    row["run"] = path.relative_to(root).as_posix() if root and path != root else str(path)
    row["problem"] = row["reason"] = None
    try:
        _fill(row, Run.open(path))
    except (KdError, OSError) as error:
        row |= {"state": "damaged", "problem": str(error)}
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        row |= {"state": "damaged", "problem": f"{path} holds what kd does not write: {type(error).__name__} {error}"}
    return row


def _fill(row: dict[str, Any], run: Run) -> None:
    config = run.config()
    row |= {"model": config["model"], "method": config.get("method", "deep-supervision"), "data": config["data"]}
    row["seed"] = config.get("seed", 0)
    environment = run.path / "environment.json"
    row["date"] = began(read_json(environment)) if environment.exists() else None
    records = run.metrics()
    row["epochs"] = f"{len(records)}/{planned(records, config)}"
    row["minutes"] = round(sum(record.get("minutes", 0.0) for record in records), 2)
    results = run.results()
    if results is None:
        row["reason"] = why_stopped(run)
        row["state"] = "stopped" if row["reason"] is not None or not _alive(run, records) else "running"
        return
    row["state"] = "finished"
    row["minutes"] = results.get("minutes", row["minutes"])
    exit = best_exit(results)
    row["exit"] = exit if exit > 0 else None
    for split in ("dev", "test"):
        if split in results["best"]:
            top1 = {entry["exit"]: entry["top1"] for entry in results["best"][split]["exits"]}
            row[split] = top1[max(top1)]
            if split == "test":
                row["test@exit"] = top1[exit]


def began(environment: Mapping[str, Any]) -> str:
    """When a run was started first, before it was resumed."""
    return (environment.get("earlier") or [environment])[0]["date"]


def planned(records: Sequence[Mapping[str, Any]], config: Mapping[str, Any]) -> int:
    """Epochs of the phases that have begun; of the configuration before the first epoch."""
    phases = {record["phase_number"]: record["epochs"] for record in records}
    return sum(phases.values()) if phases else config.get("epochs", 30)


def _alive(run: Run, records: Sequence[Mapping[str, Any]]) -> bool:
    """Of a run that left no mark, whether something was written lately: within two of its longest epochs and two minutes."""
    newest = max((path.stat().st_mtime for path in run.path.iterdir()), default=0.0)
    longest = max((record.get("minutes", 0.0) for record in records), default=0.0)
    return time.time() - newest < 60 * (2 * longest + 2)


def sort_rows(rows: Iterable[dict[str, Any]], column: str) -> list[dict[str, Any]]:
    """By a column: accuracies and dates from the highest, all else from the lowest; rows without a value last. Raises KdError for no column."""
    if column not in COLUMNS:
        from kdcore.errors import nearest

        raise KdError(f"--sort {column}: there is no such column{nearest(column, COLUMNS)}")
    rows = list(rows)
    known = [row for row in rows if row[column] is not None]
    known.sort(key=lambda row: int(row[column].partition("/")[0]) if column == "epochs" else row[column], reverse=column in HIGH_FIRST)
    return known + [row for row in rows if row[column] is None]

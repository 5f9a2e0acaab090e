"""A run's losses and accuracies for TensorBoard, in RUN/tensorboard.

Event hooks alone: the core reads the values from the device by itself at its log interval, so that this plugin makes no run wait for more.
Off by default: a run gets it with `-p tensorboard`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcore import hookimpl


@dataclass
class Open:
    """The writer of a run under way, and how many epochs of it are finished, over all phases."""

    writer: Any
    finished: int
    steps: int  # of an epoch


_open: dict[Path, Open] = {}


@hookimpl
def run_start(run: Any) -> None:
    """Begins anew also where a run in this process was stopped (a notebook); where TensorBoard is missing, it is said now."""
    import torch.utils.tensorboard  # noqa: F401

    if former := _open.pop(run.path, None):
        former.writer.close()


@hookimpl
def log(run: Any, record: Mapping[str, Any]) -> None:
    """`train/loss`, `train/<term>` (before its weight) and `train/lr`; the steps count on over epochs, phases and resumed runs."""
    now = _open.get(run.path) or _begin(run, record["steps"])
    for name, value in record.items():
        if name not in ("epoch", "step", "steps"):
            now.writer.add_scalar(f"train/{name}", value, now.finished * now.steps + record["step"])


@hookimpl
def epoch_end(run: Any, record: Mapping[str, Any]) -> None:
    """`dev/exit1/top1`, `dev/ensemble/nll` and so on, and `phase`, at the last step of the epoch."""
    now = _open[run.path]
    now.finished += 1
    for name, value in {**{f"dev/{name}": value for name, value in record["dev"].items()}, "phase": record["phase_number"]}.items():
        now.writer.add_scalar(name, value, now.finished * now.steps)
    now.writer.flush()


@hookimpl
def run_end(run: Any, results: Mapping[str, Any]) -> None:
    """`test/last/exit1/top1` and `test/best/...`: one point each."""
    now = _open.pop(run.path, None) or _begin(run, None)
    for which in ("last", "best"):
        for table in results[which].get("test", {}).get("exits", []):
            for name in ("top1", "nll", "ece"):
                now.writer.add_scalar(f"test/{which}/exit{table['exit']}/{name}", table[name], results[which]["epoch"])
    now.writer.close()
    _open.pop(run.path, None)


def _begin(run: Any, steps: int | None) -> Open:
    """A writer that goes on after the epochs that are kept: what a stopped run had logged beyond them is purged. steps: None where none follow."""
    from torch.utils.tensorboard import SummaryWriter

    finished = len(run.metrics())
    writer = SummaryWriter(str(run.path / "tensorboard"), purge_step=finished * steps + 1 if finished and steps else None)
    writer.add_text("config.toml", "\n".join(f"    {line}" for line in (run.path / "config.toml").read_text(encoding="utf-8").splitlines()))
    _open[run.path] = Open(writer, finished, steps or 1)
    return _open[run.path]

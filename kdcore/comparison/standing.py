"""Where a comparison stands, read from its folder: what is done, what runs now, and how long the rest will take. Imports no torch."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kdcore.comparison.cells import Cell, Outcome, holder, where
from kdcore.errors import KdError


@dataclass(frozen=True)
class Running:
    """A cell under way: finished epochs of all (as far as known), and dev top-1 of the last one in percent."""

    cell: Cell
    epoch: int
    epochs: int
    dev: float | None


@dataclass
class Standing:
    """total: cells of the grid. todo: those that this process began with. seconds: of a whole cell of each row, as it was estimated; empty where nothing was."""

    total: int
    todo: Sequence[Cell]
    seconds: Mapping[str, float]
    jobs: int
    by: str
    ended: dict[Cell, Outcome] = field(default_factory=dict)
    begin: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self._before = {cell: self._share(cell) for cell in self.todo}

    @property
    def finished(self) -> int:
        return self.total - len(self.todo) + sum(outcome.state == "finished" for outcome in self.ended.values())

    @property
    def failed(self) -> list[Cell]:
        return [cell for cell, outcome in self.ended.items() if outcome.state == "failed"]

    @property
    def expected(self) -> float | None:
        """Seconds that all cells to do take from where they stand, at the beginning; None without an estimate."""
        if not self.seconds:
            return None
        return sum(self.seconds[cell.row] * (1 - self._before[cell]) for cell in self.todo) / min(self.jobs, max(len(self.todo), 1))

    def running(self) -> list[Running]:
        """The cells that somebody of this comparison is at work on."""
        found = []
        for cell in self.todo:
            if cell not in self.ended and holder(cell.path).get("by") == self.by:
                epoch, epochs, dev = _where(cell)
                found.append(Running(cell, epoch, epochs or _planned(cell), dev))
        return found

    def left(self) -> float | None:
        """Seconds until the end, by the pace so far; by the estimate before there is one; None without an estimate."""
        if (expected := self.expected) is None:
            return None
        weights = {cell: self.seconds[cell.row] * (1 - self._before[cell]) for cell in self.todo}
        whole, done = sum(weights.values()), sum(weights[cell] for cell in self.ended)
        for running in self.running():
            done += self.seconds[running.cell.row] * max(running.epoch / max(running.epochs, 1) - self._before[running.cell], 0.0)
        passed = time.monotonic() - self.begin
        if done <= 0.02 * whole or passed < 1:  # both are 0 where all epochs are done, and only the reports are not
            return max(expected - passed, 0.0)
        return (whole - done) * passed / done

    def _share(self, cell: Cell) -> float:
        epoch, epochs, _ = _where(cell)
        return min(epoch / max(epochs or _planned(cell), 1), 1.0)


def _where(cell: Cell) -> tuple[int, int | None, float | None]:
    try:
        return where(cell.path)
    except (KdError, OSError, KeyError, TypeError):  # it is being written, or gone: this is only for looking on
        return 0, None, None


def _planned(cell: Cell) -> int:
    epochs: Any = cell.settings.get("epochs", 30)
    return int(epochs)

"""Who looks on while a comparison runs: a line for each cell, or a live view on a terminal; all on stderr."""

import shlex
from pathlib import Path
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from kdcli.progress import clock
from kdcore.comparison.cells import Cell, Outcome
from kdcore.comparison.grid import Grid
from kdcore.comparison.measures import DEEPEST, Measure, delivered, measured
from kdcore.comparison.run import CompareWatch
from kdcore.comparison.standing import Standing
from kdcore.errors import KdError
from kdcore.estimate import counted, spoken
from kdcore.runs import Run


def follow(quiet: bool) -> "Quiet":
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    return Quiet(console) if quiet else LiveView(console) if console.is_terminal else Lines(console)


class Quiet(CompareWatch):
    """Says nothing, and knows how to go on."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.folder: Path | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def started(self, folder: Path, grid: Grid, standing: Standing) -> None:
        self.folder = folder

    def stopped(self) -> str:
        """What to say after Ctrl-C."""
        if self.folder is None:
            return "kd: stopped before the first cell began; nothing was written"
        return f"kd: stopped; all is kept up to each cell's last finished epoch. To go on: kd compare --dir {shlex.quote(str(self.folder))} --resume"


class Lines(Quiet):
    """A line for each cell: what logs and pipes get."""

    def note(self, text: str) -> None:
        self.console.print(f"  {text}")

    def started(self, folder: Path, grid: Grid, standing: Standing) -> None:
        super().started(folder, grid, standing)
        self.console.print(f"{headline(grid, standing)}; {folder}")

    def ended(self, cell: Cell, outcome: Outcome, standing: Standing) -> None:
        done = f"[{standing.finished + len(standing.failed)}/{standing.total}] {cell}: "
        if outcome.state == "failed":
            self.console.print(f"{done}failed: {outcome.error}")
            return
        left = standing.left()
        more = f"; {clock(left)} left" if left is not None and standing.finished + len(standing.failed) < standing.total else ""
        self.console.print(done + came_to(cell) + more)


class LiveView(Lines):
    """A bar, and the cells under way, drawn again and again on a terminal."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        columns = (TextColumn("{task.description}"), BarColumn(30), TextColumn("{task.fields[rest]}"))
        self.bar = Progress(*columns, console=console)
        self.task = self.bar.add_task("looking at what is there", total=None, rest="")
        self.standing: Standing | None = None
        self.live = Live(self, console=console, refresh_per_second=1, transient=True)

    def __enter__(self) -> Self:
        self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.live.stop()

    def composing(self, row: str) -> None:
        self.bar.update(self.task, description=f"trying row {row}")

    def started(self, folder: Path, grid: Grid, standing: Standing) -> None:
        super().started(folder, grid, standing)
        self.standing = standing

    def __rich__(self) -> Group:
        if self.standing is None:
            return Group(self.bar)
        standing = self.standing
        done = standing.finished + len(standing.failed)
        failed = f", {len(standing.failed)} failed" if standing.failed else ""
        left = standing.left()
        rest = f"{clock(left)} left" if left is not None else ""
        self.bar.update(self.task, description=f"cells {done}/{standing.total}{failed}", completed=done, total=standing.total, rest=rest)
        table = Table(box=None, padding=(0, 1), show_header=False)
        for running in standing.running():
            dev = "" if running.dev is None else f"dev top-1 {running.dev:.1f} %"
            table.add_row(str(running.cell), f"epoch {min(running.epoch + 1, running.epochs)}/{running.epochs}", dev)
        return Group(table, self.bar)


def headline(grid: Grid, standing: Standing) -> str:
    """How many cells there are, what is done, and how long the rest takes."""
    cells = f"{counted(standing.total, 'cell')}: {counted(len(grid.rows), 'row')} x {counted(len(grid.seeds), 'seed')}"
    done = standing.total - len(standing.todo)
    at_once = f" with {standing.jobs} at once" if standing.jobs > 1 else ""
    threads = f", {counted(grid.threads, 'thread')} each"
    takes = f"about {spoken(standing.expected)}" if standing.expected is not None else "some seconds each"
    return f"{cells}{f', {done} done' if done else ''}; {takes}{at_once}{threads}"


def came_to(cell: Cell) -> str:
    """Dev and test top-1 of the deepest exit in percent, at the delivered checkpoint, and how long it took."""
    try:
        results = Run(cell.path).results() or {}
        found, checkpoint = measured(results), delivered(results)
    except (KdError, KeyError, IndexError, TypeError):
        return "finished"
    values = {split: found.get(Measure(checkpoint, split, DEEPEST, "", "top1")) for split in ("dev", "test")}
    pieces = [f"{split} {value:.1f} %" for split, value in values.items() if value is not None]
    return ", ".join([*pieces, spoken(60 * results.get("minutes", 0.0))])

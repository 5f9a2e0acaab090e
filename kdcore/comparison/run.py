"""`compare`: a grid of runs, begun or gone on with, and its table. What it knows stands in its folder, so that being killed changes nothing.

Imports torch only where there is something to compose; the workers import it where they are.
"""

import dataclasses
import os
import uuid
from collections.abc import Container, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kdcore.comparison.arms import BASELINES
from kdcore.comparison.asking import (
    add_what_was_asked,
    cores,
    devices_of_workers,
    listed,
    make_folder,
    stored_grid,
    threads_of_a_cell,
    whole_pattern,
)
from kdcore.comparison.cells import Cell, Outcome, cells_of, holder, is_finished
from kdcore.comparison.entries import Entry
from kdcore.comparison.existing import finished_runs, join
from kdcore.comparison.grid import Grid, agree, check_shared, read_grid, resolved, stored_text, write_grid
from kdcore.comparison.local import Ended, run_local
from kdcore.comparison.ray_engine import check_ray, run_ray
from kdcore.comparison.standing import Standing
from kdcore.config import read_config
from kdcore.errors import KdError
from kdcore.files import remove_quietly, write_text
from kdcore.named_recipes import with_recipe

if TYPE_CHECKING:
    from kdcore.comparison.aggregate import Comparison


class CompareWatch:
    """What a comparison tells whoever looks on. Every method may be overridden; these say nothing."""

    def note(self, text: str) -> None: ...

    def composing(self, row: str) -> None: ...

    def started(self, folder: Path, grid: Grid, standing: Standing) -> None: ...

    def tick(self, standing: Standing) -> None:
        """Now and then."""

    def ended(self, cell: Cell, outcome: Outcome, standing: Standing) -> None: ...


@dataclass
class Compared:
    """A comparison that is through: its folder, its table, and why cells failed, in one line each."""

    folder: Path
    comparison: "Comparison"
    entries: list[Entry]
    failed: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def compare(
    model: str | Sequence[str] | None = None,
    data: str | None = None,
    *,
    method: str | Sequence[str] = (),
    seeds: int | str | Sequence[int] | None = None,
    baselines: bool = True,
    baseline: str | None = None,
    recipe: str | None = None,
    folder: str | Path | None = None,
    resume: bool = False,
    tried: bool = True,
    runs: Sequence[str | Path] = (),
    engine: Literal["local", "ray"] = "local",
    jobs: int | None = None,
    threads: int | None = None,
    ray_address: str | None = None,
    cpus_per_cell: float | None = None,
    gpus_per_cell: float | None = None,
    watch: CompareWatch | None = None,
    **settings: Any,
) -> Compared:
    """Compares methods over paired seeds: `compare("resnet18_32px", "digits", method=["byot", "byot:preset=final"], seeds=5)`.

    method: as typed after `--method` (see `kdcore.comparison.arms`); the baselines plain and deep-supervision come with it. folder: a new one, by
    default runs/compare-N, or one that is there: finished cells stay, rows and seeds are added. runs: finished runs that join the table. baseline: the
    row that the others are set against. tried: whether every row is composed and timed before the first cell runs. settings: as in `Config`, for all
    cells. Raises KdError, DataError or FileError in one line; a cell that
    fails is in `failed` and does not keep the others from running.
    """
    watch = watch or CompareWatch()
    notes: list[str] = []

    def told(text: str) -> None:
        notes.append(text)
        watch.note(text)

    typed = with_recipe(recipe, {name: value for name, value in {"data": data, **settings}.items() if value is not None}, told)
    models = listed(model) or listed(typed.get("model"))
    methods = [method] if isinstance(method, str) else list(method)
    methods = methods or ([typed["method"]] if "method" in typed else [])
    typed = {
        name: value for name, value in typed.items() if name not in ("model", "method") and not (name == "seed" and name not in settings)
    }
    check_shared(typed)
    if engine == "ray":
        check_ray()
    devices, typed = devices_of_workers(typed, engine)
    place = Path(folder) if folder is not None else None
    known = stored_text(place)
    stored = stored_grid(place, resume)
    grid = stored or Grid()
    if grid.rows and place is not None:
        agree(grid.shared, typed, place)
    else:
        read_config({"model": "any", "data": "digits", **typed})
        grid.shared = {"test_every_epoch": True, **resolved(typed, "any", only=typed)} if models or methods else typed
    earlier, asked = list(grid.runs), [whole_pattern(str(run)) for run in runs]
    grid.runs = list(dict.fromkeys([*earlier, *asked]))
    begun = bool(grid.rows)
    add_what_was_asked(grid, models, methods, seeds, baselines)
    if not grid.rows and not grid.runs:
        raise KdError("there is nothing to compare: write kd compare resnet18_32px --data digits --method byot, or --runs FOLDER")
    if without := [name for name in BASELINES if grid.rows and not any(row.is_baseline and row.method == name for row in grid.rows)]:
        told(f"without the baseline{'s' if len(without) > 1 else ''} {' and '.join(without)}")
    jobs = (jobs or 1) if engine == "local" else jobs
    grid.threads = threads_of_a_cell(grid, begun, threads, jobs or 1, cpus_per_cell, place)
    finished = finished_runs(grid.runs, told, [pattern for pattern in earlier if pattern not in asked])
    composed = _composed(grid, place, devices, watch, tried)
    place = make_folder(place)
    write_grid(place, grid, known)
    grid = read_grid(place)  # with the folder's own copies of loose files
    failed: dict[str, str] = {}
    if todo := _todo(grid, place, composed):
        at_once = jobs or (len(todo) if ray_address else max(cores() // max(int(cpus_per_cell or grid.threads), 1), 1))
        seconds = {name: row.seconds for name, row in composed.items() if row.seconds is not None}
        standing = Standing(len(grid.rows) * len(grid.seeds), todo, seconds, at_once, by=uuid.uuid4().hex)
        watch.started(place, grid, standing)
        if engine == "ray":
            on: dict[str, Any] = {"address": ray_address, "cpus": cpus_per_cell, "gpus": gpus_per_cell}
            ended = run_ray(todo, jobs=jobs, threads=grid.threads, by=standing.by, **on)
        else:
            log = place / "workers.log"
            ended = run_local(todo, jobs=jobs or 1, threads=grid.threads, log=log, by=standing.by, devices=devices)
        failed = run_through(ended, standing, watch)
    entries = [Entry(cell.row, cell.seed, cell.path) for cell in cells_of(place, grid) if is_finished(cell.path)]
    entries = _in_order(grid, join(entries, finished, told))
    if not entries:
        raise KdError(f"no cell of {place} was finished: {next(iter(failed.values()), 'there is nothing for a table')}")
    from kdcore.comparison.tables import write_tables

    table = write_tables(entries, place, baseline=_baseline(baseline, entries, {row.name for row in grid.rows}))
    return Compared(place, table, entries, failed, notes)


def _composed(grid: Grid, place: Path | None, devices: Sequence[str], watch: CompareWatch, tried: bool) -> dict[str, Any]:
    """Every row that has a cell to run, composed. Nothing is composed, or imported for it, where all cells are finished."""
    todo = [cell for cell in cells_of(place or Path("runs"), grid) if not is_finished(cell.path)]
    if not todo:
        if grid.rows:
            watch.note(f"all {len(grid.rows) * len(grid.seeds)} cells are finished")
        return {}
    from kdcore.comparison.composing import compose_rows

    wanted = {cell.row for cell in todo}
    near = place if place is not None and place.is_dir() else Path("runs")
    first = f"cuda:{devices[0]}" if devices and "CUDA_VISIBLE_DEVICES" not in os.environ else None
    return compose_rows(grid, [row for row in grid.rows if row.name in wanted], device=first, place=near, told=watch.composing, tried=tried)


def _todo(grid: Grid, place: Path, composed: dict[str, Any]) -> list[Cell]:
    """The cells that are not finished, with the settings of their runs."""
    plugins = {"plugin": grid.shared["plugin"]} if "plugin" in grid.shared else {}
    return [
        dataclasses.replace(cell, settings={**composed[cell.row].settings, **plugins, "seed": cell.seed})
        for cell in cells_of(place, grid)
        if not is_finished(cell.path)
    ]


def run_through(ended: Iterator[Ended | None], standing: Standing, watch: CompareWatch) -> dict[str, str]:
    """Runs an engine to its end, and tells. Returns why cells failed; a traceback lies beside the cell's folder."""
    busy = set[Cell]()
    with closing(ended) as events:  # type: ignore[type-var]
        for event in events:
            if event is None:
                watch.tick(standing)
                continue
            cell, outcome = event
            if outcome.state == "taken":
                if cell not in busy:
                    who = holder(cell.path)
                    watch.note(f"{cell}: process {who.get('pid', '?')} on {who.get('host', '?')} is at work on it; it is asked for again")
                busy.add(cell)
                continue
            standing.ended[cell] = outcome
            log = cell.path.with_name(f"{cell.path.name}.log")
            if outcome.traceback:
                write_text(log, outcome.traceback)
            else:
                remove_quietly(log)
            watch.ended(cell, outcome, standing)
    return {str(cell): standing.ended[cell].error for cell in standing.failed}


def _in_order(grid: Grid, entries: list[Entry]) -> list[Entry]:
    """By row as the grid has them, then the rows of other runs; by seed within a row."""
    rows = list(dict.fromkeys([*(row.name for row in grid.rows), *(entry.row for entry in entries)]))
    return sorted(entries, key=lambda entry: (rows.index(entry.row), entry.seed))


def _baseline(wanted: str | None, entries: list[Entry], planned: Container[str]) -> str | None:
    """The row that others are set against: the one asked for, else plain, else deep-supervision. With several backbones each has its own.

    planned: rows of the grid; one of them that was asked for may have failed. Raises KdError for one that is nowhere.
    """
    rows = list(dict.fromkeys(entry.row for entry in entries))
    if wanted in planned and wanted not in rows:
        wanted = None
    there = [name for name in ([wanted] if wanted else BASELINES) if any(row == name or row.endswith(f" {name}") for row in rows)]
    if wanted and not there:
        raise KdError(f"--baseline {wanted}: there is no such row; there is: {', '.join(rows)}")
    return there[0] if there else None

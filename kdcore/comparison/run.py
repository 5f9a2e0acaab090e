"""`compare`: a grid of runs, begun or gone on with, and its table. What it knows stands in its folder, so that being killed changes nothing.

Imports torch only where there is something to compose; the workers import it where they are.
"""

import dataclasses
import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Literal

from kdcore.comparison.arms import BASELINES, parse_arms, parse_seeds, split
from kdcore.comparison.cells import Cell, Outcome, cells_of, is_finished
from kdcore.comparison.entries import Entry
from kdcore.comparison.existing import finished_runs, join
from kdcore.comparison.grid import NAME, Grid, agree, check_shared, read_grid, resolved, write_grid
from kdcore.comparison.local import Ended, run_local, visible_devices
from kdcore.comparison.ray_engine import run_ray
from kdcore.comparison.standing import Standing
from kdcore.comparison.tables import Comparison, write_tables
from kdcore.config import read_config
from kdcore.errors import KdError
from kdcore.files import file_errors, remove_quietly, write_text
from kdcore.named_recipes import with_recipe

SEEDS = 3


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
    comparison: Comparison
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
    row that the others are set against. settings: as in `Config`, for all cells. Raises KdError, DataError or FileError in one line; a cell that
    fails is in `failed` and does not keep the others from running.
    """
    watch = watch or CompareWatch()
    notes: list[str] = []

    def told(text: str) -> None:
        notes.append(text)
        watch.note(text)

    typed = with_recipe(recipe, {name: value for name, value in {"data": data, **settings}.items() if value is not None})
    models = _listed(model) or _listed(typed.get("model"))
    methods = [method] if isinstance(method, str) else list(method)
    methods = methods or ([typed["method"]] if "method" in typed else [])
    typed = {
        name: value for name, value in typed.items() if name not in ("model", "method") and not (name == "seed" and name not in settings)
    }
    check_shared(typed)
    devices, typed = _devices(typed, engine)
    place = Path(folder) if folder is not None else None
    grid = _stored(place, resume)
    new = grid is None
    grid = grid or Grid()
    if not new and place is not None:
        agree(grid.shared, typed, place)
    else:
        read_config({"model": "any", "data": "digits", **typed})
        grid.shared = {"test_every_epoch": True, **resolved(typed, "any", only=typed)} if models or methods else typed
    grid.runs = list(dict.fromkeys([*grid.runs, *(_whole(str(run)) for run in runs)]))
    _fill(grid, models, methods, seeds, baselines)
    if not grid.rows and not grid.runs:
        raise KdError("there is nothing to compare: write kd compare resnet18_32px --data digits --method byot, or --runs FOLDER")
    if without := [name for name in BASELINES if grid.rows and not any(row.is_baseline and row.method == name for row in grid.rows)]:
        told(f"without the baseline{'s' if len(without) > 1 else ''} {' and '.join(without)}")
    jobs = (jobs or 1) if engine == "local" else jobs
    grid.threads = _threads(grid, new, threads, jobs or 1, cpus_per_cell, place)

    finished = finished_runs(grid.runs, told)
    todo = [cell for cell in cells_of(place or Path("runs"), grid) if not is_finished(cell.path)]
    composed: dict[str, Any] = {}
    if grid.rows and not todo:
        watch.note(f"all {len(grid.rows) * len(grid.seeds)} cells are finished")
    if todo:
        from kdcore.comparison.composing import compose_rows

        wanted = {cell.row for cell in todo}
        near = place if place is not None and place.is_dir() else Path("runs")
        first = f"cuda:{devices[0]}" if devices and "CUDA_VISIBLE_DEVICES" not in os.environ else None
        composed = compose_rows(grid, [row for row in grid.rows if row.name in wanted], device=first, place=near, told=watch.composing)
    place = _folder(place)
    write_grid(place, grid)
    grid = read_grid(place)  # with the folder's own copies of loose files

    failed: dict[str, str] = {}
    if todo:
        plugins = {"plugin": grid.shared["plugin"]} if "plugin" in grid.shared else {}
        todo = [
            dataclasses.replace(cell, settings={**composed[cell.row].settings, **plugins, "seed": cell.seed})
            for cell in cells_of(place, grid)
            if not is_finished(cell.path)
        ]
        by = uuid.uuid4().hex
        standing = Standing(len(grid.rows) * len(grid.seeds), todo, {n: c.seconds for n, c in composed.items()}, jobs or len(todo), by)
        watch.started(place, grid, standing)
        log = place / "workers.log"
        if engine == "ray":
            options: dict[str, Any] = {"address": ray_address, "cpus": cpus_per_cell, "gpus": gpus_per_cell}
            ended = run_ray(todo, jobs=jobs, threads=grid.threads, by=by, **options)
        else:
            ended = run_local(todo, jobs=jobs or 1, threads=grid.threads, log=log, by=by, devices=devices)
        failed = _through(ended, standing, watch)
    entries = [Entry(cell.row, cell.seed, cell.path) for cell in cells_of(place, grid) if is_finished(cell.path)]
    entries = _in_order(grid, join(entries, finished, told))
    if not entries:
        raise KdError(f"no cell of {place} was finished: {next(iter(failed.values()), 'there is nothing for a table')}")
    table = write_tables(entries, place, baseline=_baseline(baseline, entries))
    return Compared(place, table, entries, failed, notes)


def _through(ended: Iterator[Ended | None], standing: Standing, watch: CompareWatch) -> dict[str, str]:
    """Runs the engine to its end, and tells. Returns why cells failed."""
    with closing(ended) as events:  # type: ignore[type-var]
        for event in events:
            if event is None:
                watch.tick(standing)
                continue
            cell, outcome = event
            standing.ended[cell] = outcome
            log = cell.path.with_name(f"{cell.path.name}.log")
            if outcome.traceback:
                write_text(log, outcome.traceback)
            else:
                remove_quietly(log)
            watch.ended(cell, outcome, standing)
    return {str(cell): standing.ended[cell].error for cell in standing.failed}


def _listed(text: str | Sequence[str] | None) -> list[str]:
    texts = [text] if isinstance(text, str) else list(text or ())
    return list(dict.fromkeys(piece for one in texts for piece in split(one, ",")))


def _whole(pattern: str) -> str:
    return Path(pattern).expanduser().absolute().as_posix()


def _stored(place: Path | None, resume: bool) -> Grid | None:
    """The grid of a comparison that is there. Raises KdError where something else is, or nothing and there ought to be."""
    if resume and place is None:
        raise KdError("--resume needs the comparison's folder: add --dir DIR")
    if place is None:
        return None
    if (place / NAME).is_file():
        return read_grid(place)
    if resume:
        raise KdError(f"there is no comparison in {place}: it has no {NAME}")
    with file_errors(place, "read"):
        if place.exists() and (not place.is_dir() or any(place.iterdir())):
            raise KdError(f"{place} is not empty, and holds no comparison; choose another --dir")
    return None


def _fill(grid: Grid, models: list[str], methods: list[str], seeds: Any, baselines: bool) -> None:
    """Adds the rows and seeds that were asked for."""
    if models or methods:
        arms = parse_arms(methods)
        if not models:
            models = list(dict.fromkeys(row.model for row in grid.rows))
        if not models:
            raise KdError("BACKBONE is missing: write kd compare resnet18 --data SPEC --method byot (any timm name)")
        if "data" not in grid.shared:
            raise KdError(f"--data is missing: write kd compare {','.join(models)} --data digits, --data FILE.npz or --data FOLDER")
        typed = {arm.text for arm in arms}
        extra = parse_arms(name for name in BASELINES if name not in typed) if baselines and not grid.rows else []
        if not arms and not extra and not grid.rows:
            raise KdError("without the baselines nothing is left to compare: add --method NAME")
        if baselines and not grid.rows:
            arms = [*extra, *arms]
        elif baselines:
            arms = [*arms, *(arm for arm in parse_arms(BASELINES) if arm.text not in typed)]
        grid.add_rows(models, arms)
    if seeds is not None:
        grid.add_seeds(parse_seeds(seeds))
    elif not grid.seeds:
        grid.add_seeds(range(SEEDS))


def _threads(grid: Grid, new: bool, typed: int | None, jobs: int, cpus: float | None, place: Path | None) -> int:
    """Threads of torch in every cell: one number for the whole comparison, as sums are rounded by how they are divided."""
    if new or not grid.rows:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return typed or max(int(cpus) if cpus is not None else cores // jobs, 1)
    if typed is not None and typed != grid.threads:
        raise KdError(f"--threads {typed}: {place} was begun with {grid.threads}, and its cells are to be comparable; leave it out")
    return grid.threads


def _devices(typed: dict[str, Any], engine: str) -> tuple[list[str], dict[str, Any]]:
    """`--device cuda:0,cuda:1` as what the workers see, and the settings with `cuda` in its place."""
    device = typed.get("device")
    if not isinstance(device, str) or "," not in device:
        return [], typed
    if engine == "ray":
        raise KdError(f"--device {device}: Ray hands out GPUs itself: write --device cuda, and --gpus-per-cell")
    return visible_devices(device.split(",")), {**typed, "device": "cuda"}


def _folder(place: Path | None) -> Path:
    """The comparison's folder, made where it is not there; of two processes, only one gets a new number."""
    with file_errors(place or "runs", "make a folder at"):
        if place is not None:
            place.mkdir(parents=True, exist_ok=True)
            return place
        Path("runs").mkdir(exist_ok=True)
        for n in count(1):
            try:
                (made := Path("runs") / f"compare-{n}").mkdir()
                return made
            except FileExistsError:
                continue
    raise AssertionError("unreachable")


def _in_order(grid: Grid, entries: list[Entry]) -> list[Entry]:
    """By row as the grid has them, then the rows of other runs; by seed within a row."""
    rows = list(dict.fromkeys([*(row.name for row in grid.rows), *(entry.row for entry in entries)]))
    return sorted(entries, key=lambda entry: (rows.index(entry.row), entry.seed))


def _baseline(wanted: str | None, entries: list[Entry]) -> str | None:
    """The row that others are set against: the one asked for, else plain, else deep-supervision. With several backbones each has its own.

    Raises KdError for one that is not there.
    """
    rows = list(dict.fromkeys(entry.row for entry in entries))
    there = [name for name in ([wanted] if wanted else BASELINES) if any(row == name or row.endswith(f" {name}") for row in rows)]
    if wanted and not there:
        raise KdError(f"--baseline {wanted}: there is no such row; there is: {', '.join(rows)}")
    return there[0] if there else None

"""The networks of [teachers], trained first: ordinary runs in DIR/teachers/NAME, resumable, and never trained again once they are finished."""

import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdcore.comparison.cells import Cell, is_finished
from kdcore.comparison.grid import Grid
from kdcore.comparison.local import run_local
from kdcore.comparison.ray_engine import run_ray
from kdcore.comparison.run import CompareWatch, run_through
from kdcore.comparison.standing import Standing
from kdcore.config import read_config
from kdcore.errors import KdError
from kdcore.experiments.planning import Plan, teacher_folder

SEED = 0
"""Of every teacher: one teaches the students of all seeds."""


def train_teachers(
    plan: Plan,
    place: Path,
    settings: Mapping[str, dict[str, Any]],
    *,
    threads: int,
    jobs: int | None,
    engine: str,
    devices: Sequence[str],
    watch: CompareWatch,
    tried: bool = True,
) -> None:
    """Trains those that are not finished. settings: of every row, by name. tried: whether each is composed and timed first. Raises KdError where one fails: its students cannot begin."""
    missing = [row for row in plan.teachers if not is_finished(teacher_folder(place, row.folder))]
    if not missing:
        return
    from kdcore.comparison.composing import named, seconds_of
    from kdcore.comparison.composing import threads as with_threads

    seconds = {}
    with with_threads(threads):
        for row in missing if tried else ():
            watch.composing(row.name)
            with named(row):
                seconds[row.name] = seconds_of(read_config({**settings[row.name], "seed": SEED}), place)
    cells = [Cell(row.name, SEED, teacher_folder(place, row.folder), {**settings[row.name], "seed": SEED}) for row in missing]
    standing = Standing(len(cells), cells, seconds, jobs or 1, by=uuid.uuid4().hex)
    watch.note(f"first the {'teachers' if len(cells) > 1 else 'teacher'}: {', '.join(row.folder for row in missing)}")
    watch.started(place, Grid(missing, [SEED], {}, threads), standing)
    if engine == "ray":
        ended = run_ray(cells, jobs=jobs, threads=threads, by=standing.by, address=None, cpus=None, gpus=None)
    else:
        ended = run_local(cells, jobs=jobs or 1, threads=threads, log=place / "workers.log", by=standing.by, devices=devices)
    run_through(ended, standing, watch)
    if standing.failed:
        first = standing.failed[0]
        raise KdError(f"{first.row} of {place} failed, and its students need it: {standing.ended[first].error}")

"""What was asked of a comparison, on top of what its folder holds already: rows, seeds, threads, devices. Imports no torch."""

import os
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

from kdcore.comparison.arms import BASELINES, parse_arms, parse_seeds, split
from kdcore.comparison.grid import NAME, Grid, read_grid
from kdcore.comparison.local import visible_devices
from kdcore.errors import KdError
from kdcore.files import file_errors

SEEDS = 3
"""Of a new comparison where nobody says how many."""


def listed(text: str | Sequence[str] | None) -> list[str]:
    texts = [text] if isinstance(text, str) else list(text or ())
    return list(dict.fromkeys(piece for one in texts for piece in split(one, ",")))


def whole_pattern(pattern: str) -> str:
    return Path(pattern).expanduser().absolute().as_posix()


def stored_grid(place: Path | None, resume: bool) -> Grid | None:
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


def add_what_was_asked(grid: Grid, models: list[str], methods: list[str], seeds: Any, baselines: bool) -> None:
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
        missing = [arm for arm in parse_arms(BASELINES) if baselines and arm.text not in typed]
        if not arms and not missing and not grid.rows:
            raise KdError("without the baselines nothing is left to compare: add --method NAME")
        grid.add_rows(models, [*arms, *missing] if grid.rows else [*missing, *arms])
    if seeds is not None:
        grid.add_seeds(parse_seeds(seeds))
    elif not grid.seeds:
        grid.add_seeds(range(SEEDS))


def threads_of_a_cell(grid: Grid, begun: bool, typed: int | None, jobs: int, cpus: float | None, place: Path | None) -> int:
    """Threads of torch in every cell: one number for the whole comparison, as sums are rounded by how they are divided."""
    if not begun:
        return typed or max(int(cpus) if cpus is not None else cores() // jobs, 1)
    if typed is not None and typed != grid.threads:
        raise KdError(f"--threads {typed}: {place} was begun with {grid.threads}, and its cells are to be comparable; leave it out")
    return grid.threads


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def devices_of_workers(typed: dict[str, Any], engine: str) -> tuple[list[str], dict[str, Any]]:
    """`--device cuda:0,cuda:1` as what the workers see, and the settings with `cuda` in its place."""
    device = typed.get("device")
    if not isinstance(device, str) or "," not in device:
        return [], typed
    if engine == "ray":
        raise KdError(f"--device {device}: Ray hands out GPUs itself: write --device cuda, and --gpus-per-cell")
    return visible_devices(device.split(",")), {**typed, "device": "cuda"}


def make_folder(place: Path | None) -> Path:
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

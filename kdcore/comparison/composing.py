"""Before the first cell runs: what was given to all methods finds those that know it, and every row is composed once, so that a slip in the last row
is said at once and not after hours."""

from collections.abc import Callable, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kdcore.comparison.grid import PER_METHOD, Grid, Row
from kdcore.config import Config, read_config
from kdcore.errors import KdError, nearest
from kdcore.idle import asks_for_a_teacher
from kdcore.methods import declared
from kdcore.options import options_of, target_of
from kdcore.plugins import CORE, Plugins
from kdcore.preparing import resolve_recipe
from kdcore.recipes import Recipe
from kdcore.starting import make_ready


@dataclass
class Composed:
    """The settings of a row's cells but for the seed, and what one cell takes here, in seconds; None where that was not asked for."""

    settings: dict[str, Any]
    seconds: float | None


def compose_rows(
    grid: Grid,
    rows: Iterable[Row],
    *,
    device: str | None = None,
    place: Path | None = None,
    told: Callable[[str], None] = lambda _: None,
    tried: bool = True,
) -> dict[str, Composed]:
    """Composes each row under the first seed, by name; raises what `kd plan` would, with the row in front. told: hears which row it is.

    tried: False looks at names, settings and options alone: the cells take seconds, and say themselves what does not fit.
    """
    settings = route(grid)
    found: dict[str, Composed] = {}
    if not tried:
        return {row.name: Composed(settings[row.name], None) for row in rows}
    with threads(grid.threads):
        for row in rows:
            told(row.name)
            with named(row):
                config = read_config({**settings[row.name], "seed": grid.seeds[0], **({"device": device} if device else {})})
                found[row.name] = Composed(settings[row.name], seconds_of(config, place))
            if torch.cuda.is_initialized():
                torch.cuda.empty_cache()  # the workers need it
    return found


def seconds_of(config: Config, place: Path | None) -> float:
    """What a run takes here, composed and timed. Raises KdError, DataError or FileError in one line."""
    expected = make_ready(config, place=place).expected
    assert expected is not None
    return expected.seconds


def route(grid: Grid) -> dict[str, dict[str, Any]]:
    """The settings of each row's cells but for the seed, by name. Raises KdError for what no row has a use for: an option, a teacher,
    another loss.

    Options go to the methods and parts that know them; a teacher to the rows that may use one; `PER_METHOD` past the baselines as they come.
    """
    shared = dict(grid.shared)
    options = shared.pop("options", {})
    teacher = shared.pop("teacher", None)
    unclaimed = dict(options)
    settings, taught, choices = {}, False, set[str]()
    plugins = Plugins(shared.get("plugin", []))
    for row in grid.rows:
        with named(row):
            base = {name: value for name, value in shared.items() if not (row.is_baseline and name in PER_METHOD)}
            part = plugins.part("methods", row.method)
            own = {name: value for name, value in options.items() if name in options_of(part.target)}
            choices |= {*options_of(part.target)}
            config = read_config(grid.row_settings(row, {**base, "options": own}))
            recipe = resolve_recipe(config, plugins, has_teacher=teacher is not None or config.teacher is not None)
            known = own | {name: value for name, value in options.items() if "." in name and _has(recipe, name)}
            choices |= {f"{place.partition(' ')[2]}.{name}" for place, name in _part_options(recipe)}
            unclaimed = {name: value for name, value in unclaimed.items() if name not in known}
            use = teacher is not None and _may_use_a_teacher(recipe)
            taught |= use
            wanted = {**base, "options": known, **({"teacher": teacher} if use else {})}
            settings[row.name] = grid.row_settings(row, wanted)
    if unclaimed:
        name, value = next(iter(unclaimed.items()))
        raise KdError(f"-o {name}={value}: no row of this comparison has that option{nearest(name, choices)}")
    if teacher is not None and not taught:
        raise KdError(f"--teacher {teacher}: no row of this comparison uses a teacher; add --method kd, or leave it out")
    idle = next((name for name in PER_METHOD if name in shared), None)
    if idle is not None and all(row.is_baseline for row in grid.rows):
        first = shared[idle] if isinstance(shared[idle], str) else shared[idle][0]
        flag = f"--{idle.replace('_', '-')}"
        raise KdError(
            f"{flag} {first}: plain and deep-supervision are left as they are, and there is no other row; make it one: "
            f"--method 'mine=deep-supervision:{flag}=\"{first}\"'"
        )
    return settings


def _has(recipe: Recipe, name: str) -> bool:
    """Whether a part of the recipe has this option, by the part's full name or that of its term or source."""
    part, _, option = name.rpartition(".")
    places = [place for place, own in _part_options(recipe) if own == option]
    return any(place.partition(" ")[2] == part or (place in recipe.parts and recipe.parts[place].name == part) for place in places)


def _part_options(recipe: Recipe) -> list[tuple[str, str]]:
    """Pairs of a place and an option of the component there."""
    return [(place, name) for place, component in recipe.components().items() for name in options_of(target_of(component))]


def _may_use_a_teacher(recipe: Recipe) -> bool:
    """False where it is certain that no part would: composition says the rest."""
    schedule = recipe.parts.get("schedule")
    plain_schedule = schedule is not None and schedule.plugin.name == CORE
    weighed = any(asks_for_a_teacher(term.weight) for term in recipe.method.terms.values())
    asked = any("teacher" in declared(component) for component in recipe.components().values())
    return asked or weighed or recipe.method.teacher_exits is not None or not plain_schedule


@contextmanager
def named(row: Row):
    """Errors within the block say which row they are about."""
    try:
        yield
    except KdError as error:
        raise type(error)(f"row '{row.name}': {error}") from error


@contextmanager
def threads(count: int):
    """torch on so many threads within the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)

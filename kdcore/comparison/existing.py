"""Runs that are there already, as rows of a table: those that differ in the seed alone are one row. Imports no torch."""

import glob
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdcore.comparing import find_runs
from kdcore.comparison.cells import is_finished
from kdcore.comparison.entries import Entry
from kdcore.comparison.settings import WITHOUT_EFFECT, compared_settings
from kdcore.errors import KdError
from kdcore.runs import Run


def finished_runs(patterns: Iterable[str], told: Callable[[str], None], earlier: Iterable[str] = ()) -> list[Path]:
    """The finished runs in folders, or in what patterns match; the others are told by name. Raises KdError where there is none at all.

    earlier: patterns of which `compare.toml` knows; where one's runs are gone since, that is told, and the rest goes on.
    """
    found: dict[Path, Path] = {}
    for pattern in patterns:
        if pattern in earlier and not glob.glob(str(Path(pattern).expanduser())):
            told(f"--runs {pattern}, of an earlier command, is gone: the table is without its runs")
            continue
        places = sorted(glob.glob(str(Path(pattern).expanduser()))) if glob.has_magic(pattern) else [pattern]
        runs = [run for place in places if Path(place).is_dir() or place == pattern for run in find_runs(Path(place).expanduser())]
        if not runs:
            raise KdError(f"--runs {pattern}: there is no run in it")
        found |= {run.resolve(): run for run in runs}
    for run in found.values():
        if not is_finished(run):
            told(f"{run} is not finished, and left out")
    return [run for run in found.values() if is_finished(run)]


def join(cells: Sequence[Entry], paths: Iterable[Path], told: Callable[[str], None]) -> list[Entry]:
    """The entries of the grid's cells, and those of other runs: in the row that has their settings, else in one of their own.

    A run whose settings and seed another one has already is told, and left out.
    """
    rows: dict[str, dict[str, Any]] = {}
    for entry in cells:
        rows.setdefault(entry.row, essence(entry.run))
    groups: list[tuple[dict[str, Any], list[tuple[int, Path]]]] = []
    entries = list(cells)
    there = {(entry.row, entry.seed): entry.run for entry in cells}
    own = {entry.run.resolve() for entry in cells}
    for path in paths:
        if path.resolve() in own:
            continue
        settings, seed = essence(path), int(Run(path).config().get("seed", 0))
        row = next((name for name, known in rows.items() if known == settings), None)
        if row is not None:
            if (row, seed) in there:
                told(f"{path} has the settings and the seed of {there[row, seed]}, and is left out")
                continue
            there[row, seed] = path
            entries.append(Entry(row, seed, path))
            continue
        members = next((members for known, members in groups if known == settings), None)
        if members is None:
            groups.append((settings, members := []))
        if twin := next((other for number, other in members if number == seed), None):
            told(f"{path} has the settings and the seed of {twin}, and is left out")
        else:
            members.append((seed, path))
    for name, (_, members) in zip(names(rows, [settings for settings, _ in groups]), groups, strict=True):
        entries += [Entry(name, seed, path) for seed, path in sorted(members)]
    return entries


def essence(path: Path) -> dict[str, Any]:
    """What makes a run the experiment that it is: its settings but for the seed and what follows from it or from the machine."""
    return {name: value for name, value in compared_settings(Run.open(path)).items() if name not in WITHOUT_EFFECT}


def names(taken: Mapping[str, Mapping[str, Any]], groups: Sequence[Mapping[str, Any]]) -> list[str]:
    """What to call each group, as `--method` would be typed: the method, its options, and the settings that tell it from others of that name."""
    several = len({settings["model"] for settings in [*taken.values(), *groups]}) > 1
    everyone = [*taken.values(), *groups]
    found: list[str] = []
    for settings in groups:
        alike = [other for other in everyone if _base(other, several) == _base(settings, several)]
        differ = [name for name in settings if name != "options" and any(other.get(name) != settings[name] for other in alike)]
        name = _base(settings, several) + "".join(f":--{name.replace('_', '-')}={_written(settings[name])}" for name in differ)
        while name in taken or name in found:  # a grid's row that was typed in another way
            name += "+"
        found.append(name)
    return found


def _base(settings: Mapping[str, Any], several: bool) -> str:
    options = "".join(f":{name}={_written(value)}" for name, value in sorted(settings.get("options", {}).items()))
    return (f"{settings['model']} " if several else "") + settings["method"] + options


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))

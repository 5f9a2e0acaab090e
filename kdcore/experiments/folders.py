"""The folder of a reproduction: what it is called, which experiment it is of and how that was begun, and the numbers in it. Imports no torch."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from kdcore.comparison.cells import cells_of, is_finished
from kdcore.comparison.entries import Entry
from kdcore.comparison.grid import NAME, read_grid
from kdcore.errors import FileError, KdError, nearest
from kdcore.experiments.claims import judge
from kdcore.experiments.finding import FoundExperiment, find_experiment
from kdcore.experiments.planning import Choices, Facts
from kdcore.experiments.reading import Experiment
from kdcore.files import file_errors, read_json

STATE = "experiment.json"


def default_folder(name: str, choices: Choices) -> Path:
    """`runs/reproduce-byot-table1`, and what was chosen: other choices are another folder."""
    pieces = [name.replace("/", "-"), *(["smoke"] if choices.smoke else [])]
    pieces += [f"{word}{value:g}" for word, value in (("epochs", choices.epochs), ("subset", choices.subset)) if value is not None]
    return Path("runs") / ("reproduce-" + "-".join(pieces))


def read_state(place: Path) -> tuple[str, Choices, Facts]:
    """Which experiment a folder is of, and how it was begun. Raises FileError where that is damaged."""
    stored = read_json(place / STATE)
    try:
        return str(stored["experiment"]), Choices(**stored["choices"]), Facts(**stored["facts"])
    except (KeyError, TypeError) as error:
        raise FileError(f"{place / STATE} is damaged, or not what kd reproduce writes: {type(error).__name__} {error}") from error


def go_on(place: Path, found: FoundExperiment, typed: Choices) -> tuple[Choices, Facts, bool]:
    """The choices and facts of a folder that is there, and whether more of its rows are asked for now. Raises KdError where it is another experiment's, or was begun otherwise than is typed."""
    name, choices, facts = read_state(place)
    if name != found.name:
        raise KdError(f"{place} holds a reproduction of {name}, not of {found.name}: choose another --dir")
    asked = {"--data": (typed.data, choices.data), "--subset": (typed.subset, choices.subset), "--epochs": (typed.epochs, choices.epochs)}
    for flag, (wanted, has) in asked.items():
        if wanted is not None and wanted != has:
            raise KdError(
                f"{flag} {wanted}: {place} was begun {f'with {has}' if has is not None else 'without it'}; leave it out, or choose another --dir"
            )
    if typed.smoke and not choices.smoke:
        raise KdError(f"--smoke: {place} was begun without it; leave it out, or choose another --dir")
    before = choices.rows
    if choices.rows is not None and typed.rows is not None:
        choices.rows = [row.name for row in found.read().runnable if row.name in {*choices.rows, *typed.rows}]
    elif not choices.smoke and typed.rows is None:
        choices.rows = None  # all of them now
    return choices, facts, choices.rows != before


def check_empty(place: Path) -> None:
    with file_errors(place, "read"):
        if place.exists() and (not place.is_dir() or any(path.name != "smoke.npz" for path in place.iterdir())):
            raise KdError(f"{place} is not empty, and holds no reproduction; choose another --dir")


def chosen_rows(experiment: Experiment, patterns: str | Sequence[str]) -> list[str] | None:
    """Names of the rows that fit one of the patterns; None without any. Raises KdError for a pattern that none fits."""
    names = [row.name for row in experiment.runnable]
    chosen = set[str]()
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        if not (fits := [name for name in names if fnmatchcase(name.lower(), pattern.lower())]):
            raise KdError(f"--row {pattern}: the experiment has no such row that can be run{nearest(pattern, names)}")
        chosen |= set(fits)
    return [name for name in names if name in chosen] if patterns else None


def stored_comparison(place: Path) -> tuple[list[int], Any]:
    """The seeds of a folder, and the numbers of its finished cells; None where there is none yet."""
    from kdcore.comparison.aggregate import aggregate

    grid = read_grid(place)
    entries = [Entry(cell.row, cell.seed, cell.path) for cell in cells_of(place, grid) if is_finished(cell.path)]
    return grid.seeds, aggregate(entries, baseline=None) if entries else None


def claims_of(place: Path) -> dict[str, Any]:
    """The claims of a reproduction that is there, judged on the cells that are finished, and in words what those are."""
    name, choices, _ = read_state(place)
    experiment = find_experiment(name).read()
    seeds, numbers = stored_comparison(place) if (place / NAME).is_file() else ([], None)
    runs = sum(len(row.runs) for row in numbers.rows) if numbers else 0
    chosen = {"epochs": choices.epochs, "subset": choices.subset, "data": choices.data}
    words = [f"{runs} finished runs", f"{len(seeds)} seeds", *(f"{key} {value}" for key, value in chosen.items() if value is not None)]
    return {"runs": ", ".join(words), "claims": [one.to_json() for one in judge(experiment, numbers)]}

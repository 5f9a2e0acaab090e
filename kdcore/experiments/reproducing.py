"""`reproduce`: an experiment through a comparison's cells, begun or gone on with, and its numbers beside the paper's.

```
DIR/experiment.json       which experiment, what was chosen, what was found out about the data
DIR/teachers/NAME         the networks of [teachers]: an ordinary run each
DIR/compare.toml, cells/  a comparison, as kd compare keeps it
DIR/reproduction.md, .csv, .json
```
Imports torch only where there is something to compose or to read.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from kdcore.comparison.arms import BASELINES, parse_seeds
from kdcore.comparison.asking import cores, devices_of_workers, threads_of_a_cell
from kdcore.comparison.cells import cells_of, is_finished
from kdcore.comparison.grid import NAME, Grid, read_grid, stored_text, write_grid
from kdcore.comparison.ray_engine import check_ray
from kdcore.comparison.run import CompareWatch, compare
from kdcore.config import read_config
from kdcore.errors import KdError
from kdcore.experiments.beginning import about, begin, single
from kdcore.experiments.finding import FoundExperiment, find_experiment
from kdcore.experiments.folders import STATE, check_empty, chosen_rows, default_folder, go_on
from kdcore.experiments.outcome import Outcome, outcome, write_outcome
from kdcore.experiments.planning import Choices, Plan, check_choices, differing_row, make_plan, to_json
from kdcore.experiments.reading import Experiment
from kdcore.experiments.teachers import train_teachers
from kdcore.experiments.tidying import clear, is_tidied, tidy, went_through
from kdcore.files import write_json

SMOKE_JOBS = 4
"""Runs of a smoke test at once, at most, where as many cores are there: each holds one to three gigabytes."""


@dataclass
class Reproduced:
    """A reproduction that is through: its folder, what it came to, and why cells failed, in one line each."""

    folder: Path
    outcome: Outcome
    failed: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def reproduce(
    name: str,
    *,
    seeds: int | str | Sequence[int] | None = None,
    smoke: bool = False,
    data: str | None = None,
    subset: float | None = None,
    epochs: int | None = None,
    baselines: bool = True,
    rows: str | Sequence[str] = (),
    folder: str | Path | None = None,
    engine: Literal["local", "ray"] = "local",
    jobs: int | None = None,
    threads: int | None = None,
    download: bool = False,
    watch: CompareWatch | None = None,
    **machine: Any,
) -> Reproduced:
    """Runs a paper's table: `reproduce("byot/table1", epochs=20, subset=0.1)`. A folder that is there goes on; finished cells are never run again.

    name: as `kd reproduce` lists it. seeds: as in `compare`; by default as many as the paper has. data: in place of the file's own. subset: a share of
    the training images. epochs: in place of the file's, all that counts in epochs in proportion. smoke: one epoch on a few small images;
    one that went through keeps no weights, and begins anew when it is given again. rows: those to run, as patterns (`ResNet18*`); by default all.
    machine: settings of the machine, as in `Config`. Raises KdError, DataError or FileError in one line; a cell that fails is in `failed`.
    """
    watch = watch or CompareWatch()
    found = find_experiment(name)
    experiment = found.read()
    typed_machine = {key: value for key, value in machine.items() if value is not None}
    whole = read_config({"model": "any", "data": data}).data if data is not None else None
    if engine == "ray":
        check_ray()
    elif smoke and jobs is None:  # a few small images keep no more than one thread busy
        jobs = min(cores(), SMOKE_JOBS)
    devices, settled = devices_of_workers(typed_machine, engine)
    choices = Choices(smoke, whole, subset, epochs, baselines, chosen_rows(experiment, rows), settled)
    check_choices(choices)
    place = Path(folder) if folder is not None else default_folder(name, choices)
    if not experiment.runnable:
        raise KdError(f"experiment {found.about} has no row that can be run here: {experiment.rows[0].needs}")
    through = (place / STATE).is_file() and went_through(place)
    anew = smoke and through
    if through and not anew:
        raise KdError(
            f"{place} holds a smoke test that went through: its table is {place / 'reproduction.md'}, and its weights are gone. "
            "Begin it anew with --smoke, or choose another --dir"
        )
    if (place / STATE).is_file():
        asked = choices.rows
        choices, facts, grown = go_on(place, found, choices)
        if anew:
            choices = replace(choices, rows=asked)
            facts = begin(experiment, found, choices, place, download, watch)
        elif grown and choices.baselines:
            facts.single = single(experiment, found, choices, watch)
    else:
        check_empty(place)
        facts = begin(experiment, found, choices, place, download, watch)
    plan = make_plan(experiment, choices, facts, place)
    stored = read_grid(place) if (place / NAME).is_file() else Grid()
    known = stored_text(place)
    of_plan = {row.name for row in plan.rows}
    former: list[Path] = []
    if anew:
        before = cells_of(place, stored)
        ours = of_plan | {cell.row for cell in before if is_tidied(cell.path)}  # rows that are not asked for now, or have another name
        former = [cell.path for cell in before if cell.row in ours]
        kept = [row for row in stored.rows if row.name not in ours]
        stored = replace(stored, rows=kept, seeds=stored.seeds if kept else [])
    grid = _grid(experiment, choices, plan, stored, seeds, place, found)
    todo = [cell for cell in cells_of(place, grid) if cell.path in former or not is_finished(cell.path)]
    settings: dict[str, dict[str, Any]] = {}
    _check_not_moved(place, grid, {cell.row for cell in todo})
    if todo:
        from kdcore.experiments.composing import claimed, routed

        with about(found):
            settings = routed(plan, whole=choices.rows is None)
            grid.shared = claimed(plan.rows, plan.shared)
    if not stored.rows:
        grid.threads = threads_of_a_cell(grid, False, threads or (1 if choices.smoke else None), jobs or 1, None, place)
    teachers = [place / "teachers" / row.folder for row in plan.teachers]
    if anew:
        clear([*former, *teachers])
    state = {"experiment": name, "distribution": found.distribution, "choices": to_json(choices), "facts": to_json(facts)}
    write_json(place / STATE, state)
    write_grid(place, grid, known)
    if facts.generated:
        watch.note(f"RANDOM IMAGES: the data of {name} is not here, so that --smoke made some; {experiment.data.get}")
    for text in plan.said if choices.epochs is not None else []:
        watch.note(f"in proportion: {text}")
    if todo and plan.teachers:
        on: dict[str, Any] = {"threads": grid.threads, "jobs": jobs, "engine": engine, "devices": devices}
        train_teachers(plan, place, settings, watch=watch, tried=not choices.smoke, **on)
    done = compare(
        folder=place,
        resume=True,
        tried=not choices.smoke,  # its runs take seconds, and say themselves what does not fit
        baseline=_baseline(plan),
        engine=engine,
        jobs=jobs,
        threads=threads,
        watch=_without_baseline_notes(watch),
        **choices.of_cells(typed_machine),
    )
    came = outcome(name, experiment, choices, facts, plan, grid.seeds, done.comparison, place)
    write_outcome(came, place)
    runs = [cell.path for cell in cells_of(place, grid) if cell.row in of_plan]
    over = choices.smoke and all(map(is_finished, runs))
    if over and (freed := tidy(place, state, [*runs, *teachers], facts.weights.values())):
        watch.note(f"all of it runs; what was trained is deleted, {freed / 1e6:.0f} MB: given again with --smoke, it begins anew")
    return Reproduced(place, came, done.failed, [note for note in done.notes if not _about_baselines(note)])


def _grid(experiment: Experiment, choices: Choices, plan: Plan, stored: Grid, seeds: Any, place: Path, found: FoundExperiment) -> Grid:
    """The plan's rows, over those that the folder has. Raises KdError where the experiment's file has changed what a row is since."""
    before = {row.name: row for row in stored.rows}
    for row in plan.rows:
        if row.name in before and (changed := differing_row(before[row.name], row)):
            raise KdError(
                f"the file of {found.about} has changed since {place} was begun: row '{row.name}': {changed}; choose another --dir"
            )
    if stored.rows:
        for name in {**plan.shared, **stored.shared}:
            was, now = stored.shared.get(name), plan.shared.get(name)
            if name == "options":  # those that no row knew were left out
                now = {option: value for option, value in (now or {}).items() if option in (was or {})}
            if (was or None) != (now or None):
                raise KdError(
                    f"the file of {found.about} has changed since {place} was begun: {name} was {was!r} and is {now!r}; choose another --dir"
                )
    rows = [before.get(row.name, row) for row in plan.rows]
    grid = Grid(
        [*rows, *(row for row in stored.rows if row.name not in {one.name for one in rows})],
        list(stored.seeds),
        stored.shared or plan.shared,
        stored.threads,
        stored.runs,
    )
    wanted = parse_seeds(seeds) if seeds is not None else [] if stored.seeds else list(range(1 if choices.smoke else experiment.seeds))
    grid.add_seeds(wanted)
    return grid


def _check_not_moved(place: Path, grid: Grid, todo: set[str]) -> None:
    """Raises KdError where a row that goes on names a teacher of the folder where that lay before: its runs would differ in more than the seed."""
    for row in grid.rows:
        teacher = Path(row.settings.get("teacher") or "/")
        if row.name in todo and teacher.parent.name == "teachers" and teacher.parent.parent != place.resolve():
            raise KdError(
                f"{place} was at {teacher.parent.parent} when it began, where row '{row.name}' has its teacher: move it back to go on"
            )


def _baseline(plan: Plan) -> str | None:
    """The row that a comparison's own tables set the others against, where the experiment has one backbone."""
    plain = [row.name for row in plan.rows if row.method == BASELINES[0]]
    return plain[0] if plain and len({row.model for row in plan.rows}) == 1 else None


def _about_baselines(note: str) -> bool:
    """What `compare` says of baselines that the experiment has under names of its own, or that were told about already."""
    return note.startswith("without the baseline")


def _without_baseline_notes(watch: CompareWatch) -> CompareWatch:
    told = watch.note
    watch.note = lambda text: None if _about_baselines(text) else told(text)  # type: ignore[method-assign]
    return watch

"""`reproduce`: an experiment through a comparison's cells, begun or gone on with, and its numbers beside the paper's.

```
DIR/experiment.json       which experiment, what was chosen, what was found out about the data
DIR/teachers/NAME         the networks of [teachers]: an ordinary run each
DIR/compare.toml, cells/  a comparison, as kd compare keeps it
DIR/reproduction.md, .csv, .json
```
Imports torch only where there is something to compose or to read.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from kdcore.comparison.arms import BASELINES, parse_seeds
from kdcore.comparison.asking import devices_of_workers, threads_of_a_cell
from kdcore.comparison.cells import cells_of, is_finished
from kdcore.comparison.entries import Entry
from kdcore.comparison.grid import NAME, Grid, read_grid, stored_text, write_grid
from kdcore.comparison.run import CompareWatch, compare
from kdcore.config import Config, read_config
from kdcore.errors import DataError, FileError, KdError, nearest
from kdcore.experiments.claims import judge
from kdcore.experiments.finding import FoundExperiment, find_experiment
from kdcore.experiments.outcome import Outcome, outcome, write_outcome
from kdcore.experiments.planning import Choices, Facts, Plan, check_choices, differing_row, make_plan, own_settings, to_json
from kdcore.experiments.reading import Experiment
from kdcore.experiments.teachers import train_teachers
from kdcore.files import file_errors, read_json, write_json

STATE = "experiment.json"


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
    the training images. epochs: in place of the file's, all that counts in epochs in proportion. smoke: one epoch on a few small images. rows: those to run,
    as patterns (`ResNet18*`); by default all. machine:
    settings of the machine, as in `Config`. Raises KdError, DataError or FileError in one line; a cell that fails is in `failed`.
    """
    watch = watch or CompareWatch()
    found = find_experiment(name)
    experiment = found.read()
    typed_machine = {key: value for key, value in machine.items() if value is not None}
    whole = read_config({"model": "any", "data": data}).data if data is not None else None
    devices, settled = devices_of_workers(typed_machine, engine)
    choices = Choices(smoke, whole, subset, epochs, baselines, chosen_rows(experiment, rows), settled)
    check_choices(choices)
    place = Path(folder) if folder is not None else default_folder(name, choices)
    if not experiment.runnable:
        raise KdError(f"experiment {found.about} has no row that can be run here: {experiment.rows[0].needs}")
    begun = (place / STATE).is_file()
    if begun:
        choices, facts = go_on(place, found, choices)
    else:
        _check_empty(place)
        facts = _begin(experiment, found, choices, place, download, watch)
    plan = make_plan(experiment, choices, facts, place)
    stored = read_grid(place) if (place / NAME).is_file() else Grid()
    known = stored_text(place)
    grid = _grid(experiment, choices, plan, stored, seeds, place, found)
    todo = [cell for cell in cells_of(place, grid) if not is_finished(cell.path)]
    settings: dict[str, dict[str, Any]] = {}
    _check_not_moved(place, grid, {cell.row for cell in todo})
    if todo:
        from kdcore.experiments.composing import routed

        with _of(found):
            settings = routed(plan)
    if not stored.rows:
        grid.threads = threads_of_a_cell(grid, False, threads, jobs or 1, None, place)
    write_json(
        place / STATE, {"experiment": name, "distribution": found.distribution, "choices": to_json(choices), "facts": to_json(facts)}
    )
    write_grid(place, grid, known)
    if facts.generated:
        watch.note(f"RANDOM IMAGES: the data of {name} is not here, so that --smoke made some; {experiment.data.get}")
    for text in plan.said if choices.epochs is not None else []:
        watch.note(f"in proportion: {text}")
    if todo and plan.teachers:
        train_teachers(plan, place, settings, threads=grid.threads, jobs=jobs, engine=engine, devices=devices, watch=watch)
    done = compare(
        folder=place,
        resume=True,
        baseline=_baseline(plan),
        engine=engine,
        jobs=jobs,
        threads=threads,
        watch=_without_baseline_notes(watch),
        **typed_machine,
    )
    came = outcome(name, experiment, choices, facts, plan, grid.seeds, done.comparison, place)
    write_outcome(came, place)
    return Reproduced(place, came, done.failed, [note for note in done.notes if not _about_baselines(note)])


@dataclass
class Planned:
    """What a reproduction would run: every row composed, without data. needs: what the other rows wait for; runs: without teachers."""

    heading: str
    fits: list[Any]
    runs: int
    seeds: int
    images: int | str
    data: str
    said: list[str]
    open: list[str]
    needs: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def dry_run(
    name: str,
    *,
    seeds: int | str | Sequence[int] | None = None,
    smoke: bool = False,
    subset: float | None = None,
    epochs: int | None = None,
    baselines: bool = True,
    rows: str | Sequence[str] = (),
) -> Planned:
    """Composes every row of an experiment without its data and without weights. Raises KdError that names row, file and distribution."""
    found = find_experiment(name)
    experiment = found.read()
    choices = Choices(smoke, None, subset, epochs, baselines, chosen_rows(experiment, rows))
    check_choices(choices)
    own, data = own_settings(experiment), experiment.data
    from kdcore.experiments.composing import compose_all, single_exit_models, smoke_rows

    with _of(found):
        if smoke:
            choices.rows = smoke_rows(experiment, choices.rows)
        facts = Facts(data.name or "digits", data.classes, data.image_size, data.train or 0, data.test)
        if data.train is not None:
            facts.held_out = _held_out(data.train, own)
            facts.limit = _limit(facts, choices, own)
        if baselines:
            facts.single = single_exit_models(experiment, _trained(experiment, choices), own.get("img_size"))
        plan = make_plan(experiment, choices, facts, Path("runs"))
        fits = compose_all(experiment, plan)
    count = len(parse_seeds(seeds)) if seeds is not None else 1 if smoke else experiment.seeds
    images = facts.limit or own.get("train_limit") or data.train or "unknown"
    needs = {row.name: row.needs for row in experiment.rows if row.needs}
    heading = f"{experiment.paper}, {experiment.table}: {experiment.title}"
    return Planned(heading, fits, len(plan.rows) * count, count, images, data.get, plan.said, experiment.open, needs)


def claims_of(place: Path) -> dict[str, Any]:
    """The claims of a reproduction that is there, judged on the cells that are finished, and in words what those are."""
    name, choices, _ = read_state(place)
    experiment = find_experiment(name).read()
    seeds, numbers = stored_comparison(place) if (place / NAME).is_file() else ([], None)
    runs = sum(len(row.runs) for row in numbers.rows) if numbers else 0
    chosen = {"epochs": choices.epochs, "subset": choices.subset, "data": choices.data}
    words = [f"{runs} finished runs", f"{len(seeds)} seeds", *(f"{key} {value}" for key, value in chosen.items() if value is not None)]
    return {"runs": ", ".join(words), "claims": [one.to_json() for one in judge(experiment, numbers)]}


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


def go_on(place: Path, found: FoundExperiment, typed: Choices) -> tuple[Choices, Facts]:
    """The choices and facts of a folder that is there. Raises KdError where it is another experiment's, or was begun otherwise than is typed."""
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
    if choices.rows is not None and typed.rows is not None:
        choices.rows = [row.name for row in found.read().runnable if row.name in {*choices.rows, *typed.rows}]
    elif not choices.smoke and typed.rows is None:
        choices.rows = None  # all of them now
    return choices, facts


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


# -- beginning ------------------------------------------------------------------------------------------------------------------


def _check_empty(place: Path) -> None:
    with file_errors(place, "read"):
        if place.exists() and (not place.is_dir() or any(path.name != "smoke.npz" for path in place.iterdir())):
            raise KdError(f"{place} is not empty, and holds no reproduction; choose another --dir")


def _begin(experiment: Experiment, found: FoundExperiment, choices: Choices, place: Path, download: bool, watch: CompareWatch) -> Facts:
    """Reads the data, and finds out what follows from it; for a smoke test makes a small set in the folder."""
    from kdcore.experiments.composing import single_exit_models, smoke_rows
    from kdcore.experiments.smoke import few_images, random_images, random_weights

    own = own_settings(experiment)
    read = None
    try:
        read = _read_data(experiment, found, choices, own, download)
    except DataError:
        if not choices.smoke or choices.data is not None:
            raise
    weights: dict[str, str] = {}
    facts = Facts("", experiment.data.classes, experiment.data.image_size, 0, None)
    if read is not None:
        spec, images = read
        size = min(images.image_size) if images.image_size else None
        held_out = _held_out(len(images.train), own) if images.dev is None else 0
        test = len(images.test) if images.test is not None else None
        facts = Facts(spec, images.num_classes, size, len(images.train), test, held_out)
        facts.limit = _limit(facts, choices, own)
    if choices.smoke:
        with _of(found):
            choices.rows = smoke_rows(experiment, choices.rows)
        path = place / "smoke.npz"
        few_images(read[1], path) if read is not None else random_images(experiment.data, path)
        networks = {row.model for row in experiment.runnable if row.name in choices.rows and row.model}
        networks |= {experiment.teachers[row.teacher].model for row in experiment.runnable if row.name in choices.rows and row.teacher}
        if own.get("pretrained") or any(row.arm.settings.get("pretrained") for row in experiment.runnable):
            folder, channels = place / "weights", experiment.data.channels
            weights = {model: str(random_weights(model, channels, folder).absolute()) for model in sorted(networks)}
        facts = dataclasses.replace(facts, data=str(path.absolute()), generated=read is None, limit=None, weights=weights)
    if choices.baselines:
        with _of(found):
            trained = dict.fromkeys(
                row.model for row in experiment.runnable if row.model and (choices.rows is None or row.name in choices.rows)
            )
            facts.single = single_exit_models(experiment, trained, own.get("img_size"))
        for model in facts.single:
            watch.note(f"no deep supervision on {model}: it takes one exit only")
    return facts


def _read_data(experiment: Experiment, found: FoundExperiment, choices: Choices, own: dict[str, Any], download: bool) -> tuple[str, Any]:
    """What the cells will read as --data, and the data. Raises DataError that says what to get, and what to type."""
    from kdcore.run_data import load_config_data

    spec = choices.data or experiment.data.name
    get = f"{experiment.data.get}; then: kd reproduce {found.name} --data FILE|FOLDER"
    if spec is None:
        raise DataError(f"the data of {found.name} cannot be downloaded by kd. Get {get}")
    settings = {
        **own,
        **choices.machine,
        "data": spec,
        "dev_fraction": 0.0,
        "train_limit": None,
        "labels_per_class": None,
        "download": download,
    }
    if "/" not in spec or Path(spec).expanduser().exists():
        settings.pop("download")
    config = read_config({**settings, "model": "any"})
    try:
        return config.data, load_config_data(config)
    except (DataError, FileError) as error:
        if choices.data is not None:
            raise
        raise DataError(f"the data of {found.name} is not here: {error}. Or get {get}") from error


def _held_out(images: int, own: dict[str, Any]) -> int:
    """Training images that are put aside for dev, where the data has no val split."""
    fraction = own.get("dev_fraction", Config.model_fields["dev_fraction"].default)
    return max(1, round(fraction * images)) if fraction else 0


def _trained(experiment: Experiment, choices: Choices) -> list[str]:
    """The networks of the rows that are run."""
    rows = [row for row in experiment.runnable if choices.rows is None or row.name in choices.rows]
    return list(dict.fromkeys(row.model for row in rows if row.model))


def _limit(facts: Facts, choices: Choices, own: dict[str, Any]) -> int | None:
    """Training images that --subset leaves, of those that the file trains on: stratified, at least one of each class."""
    if choices.subset is None:
        return None
    whole = facts.train - facts.held_out
    if own.get("labels_per_class"):
        whole = min(whole, own["labels_per_class"] * facts.classes)
    whole = min(whole, own.get("train_limit") or whole)
    return max(round(choices.subset * whole), facts.classes, 2)


# -- the grid -------------------------------------------------------------------------------------------------------------------


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
            if plan.shared.get(name) != stored.shared.get(name) and name not in ("data",):
                was, now = stored.shared.get(name), plan.shared.get(name)
                raise KdError(
                    f"the file of {found.about} has changed since {place} was begun: {name} was {was!r} and is {now!r}; choose another --dir"
                )
    rows = [before.get(row.name, row) for row in plan.rows]
    grid = Grid(
        [*rows, *(row for row in stored.rows if row.name not in {one.name for one in rows})],
        list(stored.seeds),
        plan.shared,
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


class _of:
    """Errors within the block say which experiment they are about, and where it comes from."""

    def __init__(self, found: FoundExperiment) -> None:
        self.found = found

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, KdError):
            raise type(error)(f"experiment {self.found.about}, {self.found.path}: {error}") from error

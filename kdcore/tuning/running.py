"""A study from its beginning, or from where it stands, to its end."""

import dataclasses
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kdcore.config import read_config
from kdcore.errors import KdError
from kdcore.named_recipes import with_recipe
from kdcore.plugins import Plugins
from kdcore.session import Watch
from kdcore.tuning.checking import check_all, how_many, settle_space
from kdcore.tuning.objectives import Objective
from kdcore.tuning.outcome import Tuned, conclude, rows_of
from kdcore.tuning.plan import FILE, LOCK, Plan, alone, differs, new_folder
from kdcore.tuning.space import DIGITS, grid_of, read_space, size_of
from kdcore.tuning.study import STRATEGIES, Drawing, Trials, import_optuna, mend, read_pruner, silent
from kdcore.tuning.trial import Paused, Trial

TRIALS = 30
_IN_A_ROW = 3
"""Failed trials with no other before them, after which it is no use to go on."""


class TuneWatch(Watch):
    """What a study tells whoever looks on: of the run under way what `Watch` has, and this. These say nothing."""

    def begun(self, folder: Path, plan: Plan, trials: int, done: int) -> None:
        """`trials`: how many there will be; `done`: how many an earlier start has finished."""

    def trial(self, row: dict[str, Any]) -> None:
        """A trial begins, or goes on; as a row of `Tuned.trials`."""

    def ended(self, row: dict[str, Any], best: dict[str, Any] | None) -> None:
        """A trial is finished, pruned or failed. best: the best so far."""

    def remark(self, text: str) -> None:
        """A line about the study."""


def tune(
    model: str | None = None,
    data: str | None = None,
    *,
    search: Sequence[str] = (),
    folder: str | Path | None = None,
    resume: bool = False,
    trials: int | None = None,
    timeout: float | None = None,
    objective: str = "deepest",
    strategy: str = "tpe",
    pruner: str = "median",
    seeds: int = 1,
    jobs: int = 1,
    recipe: str | None = None,
    watch: TuneWatch | None = None,
    **settings: Any,
) -> Tuned:
    """Searches settings and options by their dev number: `tune("resnet18", "digits", method="kd", search=["lr=0.01..1:log"], trials=20)`.

    search: `NAME=LOW..HIGH[:log][:STEP]` or `NAME=A,B,C`. folder: by default runs/tune-<n>; one that holds the same study goes on, and
    `resume` takes everything from there. trials: how many in all (30; of a grid all points). timeout: minutes. strategy: tpe, random or grid.
    seeds: paired runs of a trial, whose mean counts. jobs: processes. Raises KdError, DataError or FileError in one line.
    """
    import_optuna()
    watch = watch or TuneWatch()
    _check_numbers(trials=trials, seeds=seeds, jobs=jobs, timeout=timeout)
    there = Path(folder) if folder is not None else None
    if resume:
        if there is None:
            raise KdError("--resume needs the study's folder: add --dir DIR")
        plan = Plan.read(there)
        given = {name: value for name, value in {"model": model, "data": data, "recipe": recipe, **settings}.items() if value is not None}
        if given or search:
            raise KdError(f"--resume takes everything from {there}: leave out {', '.join([*given, *(['search'] if search else [])])}")
    else:
        values = with_recipe(
            recipe, {name: v for name, v in {"model": model, "data": data, **settings}.items() if v is not None}, watch.remark
        )
        plan = _planned(values, list(search), objective, strategy, pruner, seeds)
        if there is not None and (there / FILE).exists():
            former = Plan.read(there)
            differs(there, former, plan)
            plan, resume = former, True
        else:
            plan = dataclasses.replace(_settled(plan, watch), trials=trials)
            there = new_folder(there)
    assert there is not None
    with silent(), alone(there) as lock:
        if not resume:
            if any(entry.name != LOCK for entry in there.iterdir()):
                raise KdError(f"{there} was taken by another kd tune just now: choose another --dir")
            plan.write(there)
        elif trials is not None and trials != plan.trials:
            dataclasses.replace(plan, trials=trials).write(there)
        mend(there)
        return _go_on(there, plan, trials, timeout, jobs, watch, lock)


def _check_numbers(**numbers: float | None) -> None:
    for name, value in numbers.items():
        if value is not None and value <= 0:
            raise KdError(f"--{name} {value:g}: it is at least 1" if name != "timeout" else f"--timeout {value:g}: it is minutes, above 0")


def _planned(values: dict[str, Any], search: list[str], objective: str, strategy: str, pruner: str, seeds: int) -> Plan:
    """What was asked for, as far as it can be said without torch or plugins. Raises KdError."""
    space = read_space(search)
    if strategy not in STRATEGIES:
        raise KdError(f"--strategy {strategy}: there is {', '.join(STRATEGIES)}")
    Objective.read(objective)
    read_pruner(pruner)
    if values.get("minutes") is not None:
        raise KdError("--minutes would give trials of different lengths: set --epochs, and --timeout for all trials together")
    config = read_config(values)
    return Plan(config.model_dump(exclude_none=True), [str(d) for d in space], objective, strategy, pruner, seeds)


def _settled(plan: Plan, watch: TuneWatch) -> Plan:
    """The plan with its space typed, after everything was composed once. Raises what a trial would raise."""
    plugins = Plugins(read_config(plan.settings).plugin)
    space = settle_space(read_space(plan.search), plan.settings, plugins)
    if plan.strategy == "grid":
        grid_of(space)
    watch.remark(f"trying {how_many(space)} (every choice, and both ends of every range) before the first trial")
    check_all(space, plan.settings, plan.measure, plugins)
    return dataclasses.replace(plan, space=space)


def _go_on(folder: Path, plan: Plan, wanted: int | None, timeout: float | None, jobs: int, watch: TuneWatch, lock: int | None) -> Tuned:
    drawing = drawing_of(plan, jobs)
    trials = Trials(folder, drawing)
    size = size_of(plan.space)
    total = wanted or plan.trials or (int(size) if plan.strategy == "grid" else TRIALS)
    if plan.strategy == "grid":
        total = min(total, int(size))
    done = [row for row in rows_of(folder, plan, trials) if row["state"] != "unfinished"]
    watch.begun(folder, plan, total, len(done))
    for remark in remarks(plan, drawing, total):
        watch.remark(remark)
    until = None if timeout is None else time.time() + 60 * timeout
    notes: list[str] = []
    if jobs == 1:
        _one_by_one(folder, plan, trials, total, until, watch, notes)
    else:
        from kdcore.tuning.workers import side_by_side

        side_by_side(folder, plan, trials, total, until, watch, notes, jobs, lock)
    return conclude(folder, plan, trials, total, notes)


def _one_by_one(folder: Path, plan: Plan, trials: Trials, total: int, until: float | None, watch: TuneWatch, notes: list[str]) -> None:
    for number in numbers(folder, plan, trials, total, until, watch, notes):
        watch.trial(row_of(folder, plan, trials, number))
        try:
            Trial(folder, plan, trials, number, watch, until).run()
        except Paused:
            notes.append(_over(folder))
            return
        say_ended(folder, plan, trials, number, watch)


def numbers(folder: Path, plan: Plan, trials: Trials, total: int, until: float | None, watch: TuneWatch, notes: list[str]) -> Iterator[int]:
    """The trials to train, one after another: those that were broken off, then new ones until there are enough or the time is over.

    A new one with the settings of one that is done gets its number, and is not trained. Raises KdError where all fail.
    """
    yield from trials.broken_off()
    while True:
        rows = rows_of(folder, plan, trials)
        ended = [row for row in rows if row["state"] != "unfinished"]
        if len(ended) >= _IN_A_ROW and all(row["state"] == "failed" for row in ended):
            raise KdError(f"the first {len(ended)} trials failed, the last with: {ended[-1]['why']}; begin again with another search")
        if len(rows) >= total:
            return
        if until is not None and time.time() > until:
            notes.append(_over(folder))
            return
        number = trials.draw()
        if number is None:
            return
        settings = row_of(folder, plan, trials, number)["settings"]
        same = next((row for row in ended if row["settings"] == settings), None)
        if same is None:
            yield number
            continue
        trials.repeat(number, same["number"])
        say_ended(folder, plan, trials, number, watch)


def _over(folder: Path) -> str:
    return f"the time is over; to go on: kd tune --dir {folder} --resume"


def row_of(folder: Path, plan: Plan, trials: Trials, number: int) -> dict[str, Any]:
    return next(row for row in rows_of(folder, plan, trials) if row["number"] == number)


def say_ended(folder: Path, plan: Plan, trials: Trials, number: int, watch: TuneWatch) -> None:
    watch.ended(row_of(folder, plan, trials, number), Tuned(folder, plan, rows_of(folder, plan, trials)).best)


def drawing_of(plan: Plan, jobs: int = 1) -> Drawing:
    """How this study draws and prunes. Where --epochs is searched nothing is pruned: an epoch of a short run is not one of a long run."""
    epochs = plan.settings.get("epochs", 30)
    pruner = "none" if _epochs_searched(plan) else plan.pruner
    return Drawing(plan.space, plan.strategy, pruner, plan.measure.minimised, plan.settings.get("seed", 0), epochs, jobs)


def _epochs_searched(plan: Plan) -> bool:
    return any(dimension.place == "setting" and dimension.key == "epochs" for dimension in plan.space)


def remarks(plan: Plan, drawing: Drawing, total: int) -> Iterator[str]:
    """What a user should know before it begins."""
    seed = plan.settings.get("seed", 0)
    which = f"seed {seed}" if plan.seeds == 1 else f"the seeds {seed} to {seed + plan.seeds - 1}, and the mean counts"
    yield f"every trial trains with {which}; drawn numbers are rounded to {DIGITS} digits; the test split is not looked at"
    if _epochs_searched(plan) and plan.pruner != "none":
        yield "nothing is pruned: --epochs is searched, and an epoch of a short run cannot be compared with one of a long run"
    if plan.strategy != "grid" and (size := size_of(plan.space)) <= total:
        yield f"the search has {size:g} points and there are {total} trials: --strategy grid tries each once"

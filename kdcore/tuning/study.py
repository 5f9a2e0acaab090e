"""Optuna's side: a study in DIR/journal.log, who draws, who prunes, and which trial is next. A trial's number is its place in the journal.

The sampler is seeded anew for every trial, from --seed and the trial's number: a study that was killed draws what it would have drawn.
"""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcore.errors import FileError, KdError
from kdcore.files import file_errors, remove_quietly
from kdcore.tuning.space import Dimension, grid_of

STRATEGIES = ("tpe", "random", "grid")
PRUNERS = ("median", "hyperband", "none")
JOURNAL = "journal.log"
NAME = "kdcore"
STARTUP = 5


def import_optuna() -> Any:
    """Raises KdError with the line that installs it."""
    try:
        import optuna
    except ImportError as error:
        raise KdError("kd tune needs Optuna: pip install 'kdcore[tune]'") from error
    return optuna


@contextmanager
def quiet() -> Iterator[None]:
    """Nothing within the block is said to be experimental."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", import_optuna().exceptions.ExperimentalWarning)
        yield


@contextmanager
def silent() -> Iterator[None]:
    """Optuna logs nothing within the block: what a user should know, kd says. Warnings of training go on."""
    optuna = import_optuna()
    former = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(former)


def read_pruner(text: str) -> tuple[str, int]:
    """`median`, `median:3`, `hyperband`, `none` as name and number of finished trials before the first is pruned. Raises KdError."""
    name, colon, number = text.partition(":")
    if name not in PRUNERS or (colon and (name != "median" or not number.isdigit() or int(number) < 1)):
        raise KdError(
            f"--pruner {text}: there is {', '.join(PRUNERS)}; median:3 prunes once three trials have finished (median: {STARTUP})"
        )
    return name, int(number) if number else STARTUP


@dataclass(frozen=True)
class Drawing:
    """How trials are drawn and pruned. `epochs`: of the phase that is delivered."""

    space: Sequence[Dimension]
    strategy: str
    pruner: str
    minimised: bool
    seed: int
    epochs: int
    jobs: int = 1


class Trials:
    """The study of a folder. Only one process asks for trials; those that train report and tell."""

    def __init__(self, folder: Path, drawing: Drawing) -> None:
        optuna = self.optuna = import_optuna()
        self.drawing = drawing
        self.states = optuna.trial.TrialState
        with quiet():
            try:
                journal, path = optuna.storages.journal, str(folder / JOURNAL)
                lock = journal.JournalFileOpenLock(path)  # the other one needs symbolic links
                self.storage = optuna.storages.JournalStorage(journal.JournalFileBackend(path, lock))
                self.study = optuna.create_study(
                    storage=self.storage,
                    study_name=NAME,
                    direction="minimize" if drawing.minimised else "maximize",
                    sampler=optuna.samplers.RandomSampler(seed=drawing.seed),
                    pruner=_pruner(optuna, drawing),
                    load_if_exists=True,
                )
            except OSError as error:
                raise FileError(f"cannot write {folder / JOURNAL}: {error.strerror or error}") from error
        self.study_id = self.storage.get_study_id_from_name(NAME)

    # -- which is next ------------------------------------------------------------------------------------------------

    def all(self) -> list[Any]:
        """Those that were drawn whole, by number."""
        names = {dimension.name for dimension in self.drawing.space}
        return [trial for trial in self.study.get_trials(deepcopy=False) if set(trial.params) == names]

    def broken_off(self) -> list[int]:
        """Trials that nobody trains any more, lowest first; one that was killed while it was drawn is given up."""
        whole = {trial.number for trial in self.all()}
        running = [trial.number for trial in self.study.get_trials(deepcopy=False, states=(self.states.RUNNING,))]
        for number in running:
            if number not in whole:
                self.study.tell(number, state=self.states.FAIL)
        return [number for number in running if number in whole]

    def draw(self) -> int | None:
        """The number of a new trial; None where a grid has been walked."""
        drawing = self.drawing
        existing = self.study.get_trials(deepcopy=False)
        distributions = {dimension.name: distribution(self.optuna, dimension) for dimension in drawing.space}
        with quiet():
            self.study.sampler = _sampler(self.optuna, drawing, len(existing))
            waiting = any(trial.state == self.states.WAITING for trial in existing)
            if drawing.strategy == "grid" and not waiting:
                seen = [trial.params for trial in self.all()]
                point = next((point for point in grid_of(drawing.space) if point not in seen), None)
                if point is None:
                    return None
                self.study.enqueue_trial(point)
            return self.study.ask(distributions).number

    # -- one of them --------------------------------------------------------------------------------------------------

    def id_of(self, number: int) -> int:
        return self.storage.get_trial_id_from_study_id_trial_number(self.study_id, number)

    def get(self, number: int) -> Any:
        return self.storage.get_trial(self.id_of(number))

    def note(self, number: int, facts: Mapping[str, Any]) -> None:
        """Facts about a trial, kept beside its parameters."""
        for name, value in facts.items():
            self.storage.set_trial_user_attr(self.id_of(number), name, value)

    def report(self, number: int, epoch: int, value: float) -> None:
        self.storage.set_trial_intermediate_value(self.id_of(number), epoch, value)

    def pruned(self, number: int) -> bool:
        """Whether what was reported so far is not worth going on with."""
        with quiet():
            return bool(self.study.pruner.prune(self.study, self.get(number)))

    def complete(self, number: int, value: float) -> None:
        self.study.tell(number, value)

    def prune(self, number: int) -> None:
        self.study.tell(number, state=self.states.PRUNED)

    def repeat(self, number: int, former: int) -> None:
        """Ends a trial as the finished one did that has the same settings."""
        source = self.get(former)
        self.note(number, {**source.user_attrs, "same_as": source.user_attrs.get("same_as", former), "minutes": 0.0})
        for epoch, value in source.intermediate_values.items():
            self.report(number, epoch, value)
        if source.state == self.states.COMPLETE:
            self.complete(number, source.value)
        elif source.state == self.states.PRUNED:
            self.prune(number)
        else:
            self.fail(number, source.user_attrs.get("reason", ""))

    def fail(self, number: int, reason: str) -> None:
        self.note(number, {"reason": reason})
        self.study.tell(number, state=self.states.FAIL)


def distribution(optuna: Any, dimension: Dimension) -> Any:
    """A dimension in Optuna's words. Choices are kept as they were typed."""
    kinds = optuna.distributions
    if dimension.choices:
        return kinds.CategoricalDistribution(dimension.choices)
    if dimension.whole:
        return kinds.IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log, step=int(dimension.step or 1))
    step = None if dimension.step is None else float(dimension.step)
    return kinds.FloatDistribution(float(dimension.low), float(dimension.high), log=dimension.log, step=step)


def _sampler(optuna: Any, drawing: Drawing, number: int) -> Any:
    seed = zlib.crc32(f"{drawing.seed} {number}".encode())
    if drawing.strategy == "tpe":
        return optuna.samplers.TPESampler(seed=seed, constant_liar=drawing.jobs > 1)
    return optuna.samplers.RandomSampler(seed=seed)


def _pruner(optuna: Any, drawing: Drawing) -> Any:
    name, startup = read_pruner(drawing.pruner)
    if name == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=startup, n_warmup_steps=drawing.epochs // 10)
    if name == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=1, max_resource=max(drawing.epochs, 2))
    return optuna.pruners.NopPruner()


def mend(folder: Path) -> None:
    """Removes what a process leaves that was killed while it wrote to the journal: its lock, and the torn last line."""
    path = folder / JOURNAL
    remove_quietly(path.with_name(f"{JOURNAL}.lock"))
    if path.exists():
        with file_errors(path, "write"), open(path, "r+b") as file:
            content = file.read()
            file.truncate(content.rfind(b"\n") + 1)

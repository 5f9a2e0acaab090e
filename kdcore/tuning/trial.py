"""One trial: a run, or one for each seed, in DIR/trials/NNN. It reports its dev number after every epoch, and may be pruned.

The test split is taken away before training begins, so that nothing that is compared has seen it.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kdcore.config import read_config
from kdcore.errors import DataError, Diverged, FileError, KdError
from kdcore.estimate import Estimate
from kdcore.files import file_errors
from kdcore.phases import Phase
from kdcore.preparing import Prepared
from kdcore.runs import Run
from kdcore.session import Watch
from kdcore.training import train
from kdcore.tuning.objectives import metrics_of
from kdcore.tuning.plan import Plan
from kdcore.tuning.space import laid_on
from kdcore.tuning.study import Trials


class Pruned(KdError):
    """The trial is not worth going on with."""


class Paused(KdError):
    """The time of the whole study is over: the trial goes on another day."""


@dataclasses.dataclass
class Trial:
    """One trial that is to be trained, from wherever it stands."""

    folder: Path
    plan: Plan
    trials: Trials
    number: int
    watch: Watch
    until: float | None = None
    """time.time() after which it pauses at the end of its epoch."""

    @property
    def path(self) -> Path:
        return trial_folder(self.folder, self.number)

    @property
    def settings(self) -> dict[str, Any]:
        """Of its runs, without the seed of each."""
        drawn = self.trials.get(self.number).params
        return {**laid_on(self.plan.settings, self.plan.space, drawn), "test_every_epoch": False}

    def run(self) -> None:
        """Trains, and tells the study what came of it. What ends every trial alike (the data, the disk, Ctrl-C, a bug) is raised."""
        begin = time.time()
        try:
            config = read_config(self.settings)
            found = [self._train(seed, first=seed == config.seed) for seed in range(config.seed, config.seed + self.plan.seeds)]
        except Pruned as error:
            self.trials.note(self.number, {"why": str(error), "minutes": self._minutes(begin)})
            self.trials.prune(self.number)
        except (Paused, DataError, FileError):
            raise
        except Diverged as error:  # who draws should know that it is bad
            self.trials.note(self.number, {"why": str(error), "diverged": True, "minutes": self._minutes(begin)})
            self.trials.prune(self.number)
        except KdError as error:  # these settings do not go together, or a plugin failed
            self.trials.fail(self.number, str(error))
        except RuntimeError as error:
            if "out of memory" not in str(error):
                raise
            self.trials.fail(self.number, "out of memory")
        else:
            values = [value for value, _ in found]
            facts = {"values": values, "epoch": found[0][1], "minutes": self._minutes(begin)}
            self.trials.note(self.number, facts)
            self.trials.complete(self.number, statistics.mean(values))

    def _minutes(self, begin: float) -> float:
        """Of all its starts: epochs that were trained before are in their metrics."""
        epochs = sum(record.get("minutes", 0.0) for run in self.path.rglob("metrics.jsonl") for record in Run(run.parent).metrics())
        return round(max(epochs, (time.time() - begin) / 60), 3)

    def _train(self, seed: int, first: bool) -> tuple[float, int]:
        """One run: its dev number as train selects it, and its epoch."""
        path = self.path / f"seed-{seed}" if self.plan.seeds > 1 else self.path
        watch = Looker(self.plan, self.watch, self._judge if first else None, self.until)
        if (path / "config.toml").exists():
            watch.former = Run.open(path).metrics()
            trained = train(run=path, resume=True, watch=watch)
        else:
            _clear(path)
            values = self.settings
            trained = train(values.pop("model"), values.pop("data"), run=path, watch=watch, **{**values, "seed": seed})
        best = trained.results["best"]
        return self.plan.measure.of(metrics_of(best["dev"]), watch.frozen(trained.run)), best["epoch"]

    def _judge(self, epoch: int, value: float, last: bool) -> None:
        """Takes an epoch's number in. Raises Pruned."""
        if self.trials.get(self.number).intermediate_values.get(epoch) != value:
            self.trials.report(self.number, epoch, value)
        if not last and self.trials.pruned(self.number):
            raise Pruned(f"pruned by kd tune after epoch {epoch}, at {self.plan.measure} {self.plan.measure.text(value)}")


class Looker(Watch):
    """Looks on at one run of a trial: takes its test split away, and judges the epochs of the phase that is delivered.

    Only that phase is judged: the dev number of one before it (a hint phase, a teacher's exits, an earlier generation) says little of its own.
    """

    def __init__(self, plan: Plan, watch: Watch, judge: Callable[[int, float, bool], None] | None, until: float | None) -> None:
        self.plan, self.watch, self.judge, self.until = plan, watch, judge, until
        self.number = self.planned = 0
        self.freeze = False
        self.former: list[dict[str, Any]] = []

    def started(self, run: Run, prepared: Prepared) -> None:
        prepared.data = dataclasses.replace(prepared.data, test=None)
        self.planned, self.freeze = len(prepared.composition.phases), prepared.config.freeze
        self.watch.started(run, prepared)
        done = [record for record in self.former if record["phase_number"] == self.planned]
        for record in done:  # a report may be missing where it was killed; whether to go on is asked once, where it stands
            self._look(record, last=record is not done[-1])

    def estimate(self, expected: Estimate, done: int) -> None:
        self.watch.estimate(expected, done)

    def note(self, text: str) -> None:
        self.watch.note(text)

    def phase(self, phase: Phase, number: int, epochs: int) -> None:
        self.number = number
        self.watch.phase(phase, number, epochs)

    def log(self, record: Mapping[str, Any]) -> None:
        self.watch.log(record)

    def epoch(self, record: Mapping[str, Any]) -> None:
        self.watch.epoch(record)
        if self.number == self.planned:
            self._look(record)
        if self.until is not None and time.time() > self.until:
            raise Paused("the time of kd tune was over")

    def finished(self, run: Run, results: Mapping[str, Any]) -> None:
        self.watch.finished(run, results)

    def _look(self, record: Mapping[str, Any], last: bool = False) -> None:
        if self.judge is not None and record["dev"]:
            value = self.plan.measure.of(record["dev"], self.freeze)
            self.judge(record["epoch"], value, last or record["epoch"] >= record["epochs"] or "stop" in record)

    def frozen(self, run: Run) -> bool:
        return self.freeze or bool(run.config().get("freeze"))


def trial_folder(folder: Path, number: int) -> Path:
    return folder / "trials" / f"{number:03d}"


def _clear(path: Path) -> None:
    """Removes what a run leaves that was killed before it had begun: an empty folder."""
    with file_errors(path, "make a run at"):
        if (path / "checkpoints").is_dir() and not any((path / "checkpoints").iterdir()):
            for left in path.glob(".*.tmp"):
                left.unlink()
            (path / "checkpoints").rmdir()

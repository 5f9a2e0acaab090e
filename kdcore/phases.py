"""Phases and their results: what a schedule yields and is sent. Plain JSON values, with paths relative to the run."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Phase:
    """One stretch of training, with a fresh optimiser and learning-rate schedule.

    `epochs`: None is the run's `--epochs`. `model`: whose outputs the terms see. `start`: "stands" (as the last phase left it),
    "pretrained" (the run's initial weights, head included, the same every time), "fresh" (drawn anew, seeded by the phase's name) or
    the checkpoint of a result. `teacher`: None, "given" (that of `--teacher`), "auto" (given where there is one) or the checkpoint of a
    result. `trains`: which of student, exits, losses, teacher, teacher_exits learn; all else stays frozen and in eval mode, as does
    whatever the terms do not reach. `terms`: None is every term whose source exists; or names; or names with weights.
    `optim`: overrides of the run's optimiser settings by their configuration names (lr, sched, opt, weight_decay, decay_milestones, ...);
    without an `lr` of the phase or of the run (`--lr`), the rate follows from the phase's optimiser.
    `up_to`: terms see no exit above this number, and one that has none left is inactive (None: all exits).
    `name`: letters, digits, '.', '_' and '-'; folders are called by it.
    """

    name: str = "main"
    epochs: int | None = None
    model: Literal["student", "teacher"] = "student"
    start: str = "stands"
    teacher: str | None = "auto"
    trains: tuple[str, ...] = ("student", "exits", "losses")
    terms: tuple[str, ...] | Mapping[str, float] | None = None
    optim: Mapping[str, Any] = field(default_factory=dict)
    generation: int = 1
    up_to: int | None = None

    GROUPS = ("student", "exits", "losses", "teacher", "teacher_exits")

    def to_json(self) -> dict[str, Any]:
        """The phase as a file gives it back: tuples are lists. Raises TypeError or ValueError for what is no JSON value."""
        return json.loads(json.dumps(asdict(self), allow_nan=False))


@dataclass(frozen=True)
class PhaseResult:
    """What a phase came to. `metrics` are those of the dev split at the last epoch: `top1` is the deepest exit's,
    `exit2/top1`, `ensemble/top1` and so on the others'. `checkpoint` is the last epoch's, `best_checkpoint` the best on dev."""

    phase: Phase
    metrics: Mapping[str, float]
    checkpoint: str
    best_metrics: Mapping[str, float] = field(default_factory=dict)
    best_checkpoint: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "phase": self.phase.to_json(),
            "metrics": dict(self.metrics),
            "checkpoint": self.checkpoint,
            "best_metrics": dict(self.best_metrics),
            "best_checkpoint": self.best_checkpoint,
        }


@dataclass(frozen=True)
class Where:
    """Where training stands, on the host, at every step: what a term's weight is a function of. Epoch and progress count within the phase.

    epoch: epochs done, with their fraction, from 0. progress: the share of the phase that is done, 0 to 1; epoch / progress is its length.
    """

    epoch: float = 0.0
    progress: float = 0.0
    generation: int = 1
    phase: str = "main"
    has_teacher: bool = False

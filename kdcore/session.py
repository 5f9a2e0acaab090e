"""A run under way: what its rooms share, and what it tells whoever looks on."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kdcore.config import Config
from kdcore.estimate import Estimate
from kdcore.events import Events
from kdcore.phases import Phase
from kdcore.precision import Precision
from kdcore.preparing import Prepared
from kdcore.runs import Run
from kdcore.stopping import Budget


class Watch:
    """What a run tells whoever looks on. Every method may be overridden; these say nothing."""

    def started(self, run: Run, prepared: Prepared) -> None: ...

    def estimate(self, expected: Estimate, done: int) -> None:
        """How long the whole run takes here, once it has started; `done`: epochs that an earlier start has finished."""

    def note(self, text: str) -> None: ...

    def phase(self, phase: Phase, number: int, epochs: int) -> None: ...

    def log(self, record: Mapping[str, Any]) -> None: ...

    def epoch(self, record: Mapping[str, Any]) -> None: ...

    def finished(self, run: Run, results: Mapping[str, Any]) -> None: ...


@dataclass
class Session:
    """One run under way."""

    run: Run
    prepared: Prepared
    watch: Watch
    events: Events
    precision: Precision
    expected: Estimate | None
    budget: Budget | None = None
    begin: float = field(default_factory=time.time)

    @property
    def config(self) -> Config:
        return self.prepared.config

    def log(self, record: dict[str, Any]) -> None:
        """A line of the log interval, to the watcher and to the loggers."""
        self.watch.log(record)
        self.events.fire("log", run=self.run, record=record)

    def epoch(self, record: dict[str, Any]) -> None:
        """The line of an epoch, once its checkpoint is written."""
        self.watch.epoch(record)
        self.events.fire("epoch_end", run=self.run, record=record)

"""A schedule under way: what it yields is checked, and what it raises becomes one line with its name."""

from collections.abc import Callable

from kdcore.checks import check_phase, failed
from kdcore.errors import KdError
from kdcore.phases import Phase, PhaseResult
from kdcore.schedules import Schedule


class Walk:
    """Takes a schedule from phase to phase. `chosen` is what it returned: the result to deliver, None for the last.

    adjust: what a run makes of every phase, such as a frozen backbone.
    """

    def __init__(self, schedule: Schedule, label: str, adjust: Callable[[Phase], Phase] | None = None) -> None:
        self.label = label
        self._adjust = adjust
        self.chosen: PhaseResult | None = None
        self._schedule = schedule
        self._checkpoints: set[str] = set()

    def next(self, result: PhaseResult | None = None) -> Phase | None:
        """The phase that follows a result (None: the first phase), or None at the end. Raises KdError in one line."""
        if result is not None:
            self._checkpoints |= {result.checkpoint, result.best_checkpoint} - {""}
        try:
            phase = self._schedule.send(result)  # type: ignore[arg-type]  # a generator begins with None
        except StopIteration as stop:
            self.chosen = stop.value
            return None
        except KdError:
            raise
        except Exception as error:
            lacking = result is not None and not result.metrics and isinstance(error, KeyError)
            hint = "; without a dev split a result has no metrics: add --dev-fraction 0.1" if lacking else ""
            raise KdError(f"{failed(self.label, error)}{hint}") from error
        phase = check_phase(phase, self.label, self._checkpoints)
        return self._adjust(phase) if self._adjust is not None else phase

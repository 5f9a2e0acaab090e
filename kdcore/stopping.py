"""When a phase ends before its last epoch: `--patience` without a better dev top-1, or `--minutes` that are over."""

import time
from dataclasses import dataclass, field

from kdcore.config import Config
from kdcore.errors import KdError

OVERRUN = 1.1
"""Of --minutes: an epoch that would end beyond this is not begun."""


def check_patience(config: Config, has_dev: bool) -> None:
    """Raises KdError for patience without anything to be patient about."""
    if config.patience is not None and not has_dev:
        raise KdError("--patience looks at the dev split, and there is none: add --dev-fraction 0.1, or leave out --patience")


def out_of_patience(patience: int | None, epoch: int, best_epoch: int, best: float) -> str | None:
    """Why the phase ends after `epoch`, or None."""
    if patience is None or epoch - best_epoch < patience:
        return None
    without = f"{patience} epochs" if patience > 1 else "an epoch"
    return f"no better dev top-1 for {without} (best: {best:.1f} % in epoch {best_epoch})"


@dataclass
class Budget:
    """The minutes that a run may take, from now on."""

    minutes: float
    begin: float = field(default_factory=time.monotonic)

    def over(self, epoch: float, rest: float) -> str | None:
        """Why no further epoch of `epoch` seconds is begun, with `rest` seconds to come after it; None where it fits."""
        passed = time.monotonic() - self.begin
        if passed + epoch + rest <= OVERRUN * 60 * self.minutes:
            return None
        return f"another epoch would pass --minutes {self.minutes:g} ({passed / 60:.1f} min are over)"

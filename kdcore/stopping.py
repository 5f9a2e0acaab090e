"""When a phase ends before its last epoch: `--patience` without a better dev top-1, or `--minutes` that are over."""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from kdcore.config import Config
from kdcore.errors import KdError
from kdcore.phases import Phase

OVERRUN = 1.1
"""Of --minutes: an epoch that would end beyond this is not begun."""


def check_splits(config: Config, has_dev: bool, has_test: bool) -> None:
    """Raises KdError for patience without anything to be patient about, and for a test split of every epoch where there is none."""
    if config.test_every_epoch and not has_test:
        raise KdError(
            "--test-every-epoch needs a test split, and there is none: say --no-test-every-epoch (the dev split is evaluated after every epoch)"
        )
    if config.patience is not None and not has_dev:
        raise KdError("--patience looks at the dev split, and there is none: add --dev-fraction 0.1, or leave out --patience")


def standing(metrics: Mapping[str, float], frozen: bool = False) -> float:
    """What the epochs of a phase are compared by, in per cent: dev top-1 of the deepest exit; where that one is frozen, the mean of the others'.

    metrics: as a phase has them, empty without a dev split.
    """
    exits = {int(found[1]): value for name, value in metrics.items() if (found := re.fullmatch(r"exit(\d+)/top1", name))}
    if frozen and len(exits) > 1:
        return sum(value for number, value in exits.items() if number != max(exits)) / (len(exits) - 1)
    return metrics.get("top1", 0.0)


def best_on_dev(config: Config, phase: Phase) -> str:
    """How results say by what the best epoch was chosen."""
    frozen = config.freeze and phase.model == "student"
    return "best on dev (mean top-1 of the exits but the last, which is frozen)" if frozen else "best on dev (top-1 of the deepest exit)"


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

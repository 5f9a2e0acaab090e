"""What trials are compared by: a number of the dev split. The same function reads an epoch's record and a finished run's report."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdcore.errors import KdError
from kdcore.stopping import standing

NAMES = ("deepest", "exit:N", "ensemble", "best-exit", "nll")


@dataclass(frozen=True)
class Objective:
    """`deepest` (dev top-1 of the deepest exit; with --freeze the mean of the others), `exit:2`, `ensemble` (mean of the logits), `best-exit`,
    or `nll` of the deepest exit, which alone is to be small."""

    name: str

    @classmethod
    def read(cls, text: str) -> "Objective":
        """Raises KdError for a name that is none."""
        if text not in NAMES[:1] + NAMES[2:] and not re.fullmatch(r"exit:[1-9]\d*", text):
            raise KdError(f"--objective {text}: there is {', '.join(NAMES)} (exit:1 is the shallowest)")
        return cls(text)

    @property
    def minimised(self) -> bool:
        return self.name == "nll"

    @property
    def exit(self) -> int | None:
        return int(self.name.partition(":")[2]) if self.name.startswith("exit:") else None

    def check(self, exits: Sequence[int]) -> None:
        """exits: numbers of those that have the data's classes. Raises KdError where what is to be compared is not there."""
        if self.exit is not None and self.exit not in exits:
            raise KdError(f"--objective {self.name}: this run has the exits {', '.join(map(str, exits))}")
        if self.name in ("ensemble", "best-exit") and len(exits) < 2:
            raise KdError(f"--objective {self.name}: this run has one exit; leave out --objective, or add --exits linear")

    def of(self, metrics: Mapping[str, float], frozen: bool = False) -> float:
        """From an epoch's dev numbers (`exit1/top1`, `ensemble/top1`, `top1`, `nll`). Top-1 in percent, nll in nats."""
        if self.exit is not None:
            return metrics[f"exit{self.exit}/top1"]
        if self.name == "ensemble":
            return metrics["ensemble/top1"]
        if self.name == "best-exit":
            return max(value for name, value in metrics.items() if re.fullmatch(r"exit\d+/top1", name))
        return metrics["nll"] if self.minimised else standing(metrics, frozen)

    def text(self, value: float) -> str:
        """`93.8 %`, or `0.213`."""
        return f"{value:.3f}" if self.minimised else f"{value:.1f} %"

    def __str__(self) -> str:
        if self.exit is not None:
            return f"dev top-1 of exit {self.exit}"
        return {
            "deepest": "dev top-1",
            "ensemble": "dev top-1 of the ensemble",
            "best-exit": "dev top-1 of the best exit",
            "nll": "dev NLL",
        }[self.name]


def metrics_of(report: Mapping[str, Any]) -> dict[str, float]:
    """A report of a split under the names that an epoch's numbers have."""
    found = {f"exit{entry['exit']}/{name}": entry[name] for entry in report["exits"] for name in ("top1", "nll")}
    if report["ensembles"]:
        found["ensemble/top1"] = report["ensembles"]["mean_logits"]["top1"]
    last = report["exits"][-1]
    return found | {"top1": last["top1"], "nll": last["nll"]}

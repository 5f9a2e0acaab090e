"""What a finished run came to, number by number: the one place that reads `results.json` for a comparison. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kdcore.comparing import best_exit
from kdcore.errors import FileError

CHECKPOINTS = {
    "last": "last epoch",
    "best": "best epoch on dev",
    "over_epochs": "highest over all epochs on the test set: optimistic",
}
"""How every number of a table was chosen, in words. Only the first two choose without the test set."""

ENSEMBLES = {"mean_logits": "mean of logits", "mean_probabilities": "mean of probabilities", "fitted": "fitted on dev"}
DEEPEST, CHOSEN = "deepest exit", "best exit on dev"
NOT_NUMBERS = ("exit", "weights")


@dataclass(frozen=True)
class Measure:
    """Which number. what: exit, ensemble, DEEPEST or CHOSEN; exit: its number or the ensemble's name, empty for DEEPEST and CHOSEN.

    metric: top1 and ece in percent, nll in nats a sample, and whatever else a report holds as one number.
    """

    checkpoint: str
    split: str
    what: str
    exit: str
    metric: str


def delivered(results: Mapping[str, Any]) -> str:
    """The checkpoint that a run delivers: best where there is a dev split to choose it by, else last."""
    return "best" if "dev" in results["best"] else "last"


def measured(results: Mapping[str, Any]) -> dict[Measure, float]:
    """Every number of a run at the last epoch, at the best on dev (with a dev split), and over epochs (with --test-every-epoch)."""
    found: dict[Measure, float] = {}
    for checkpoint in ("last", "best")[: 2 if delivered(results) == "best" else 1]:
        for split in ("dev", "test"):
            if split in results[checkpoint]:
                found |= _of_report(checkpoint, split, results[checkpoint][split])
                for metric in ("top1",) if "dev" in results[checkpoint] else ():
                    own = str(chosen_exit(results, checkpoint))
                    found[Measure(checkpoint, split, CHOSEN, "", metric)] = found[Measure(checkpoint, split, "exit", own, metric)]
    if "over_epochs" in results:
        found |= _of_report("over_epochs", "test", results["over_epochs"])
    return found


def chosen_exit(results: Mapping[str, Any], checkpoint: str) -> int:
    """The best exit on dev at a checkpoint (last or best)."""
    return best_exit({**results, "best": results[checkpoint]})


def _of_report(checkpoint: str, split: str, report: Mapping[str, Any]) -> dict[Measure, float]:
    entries = [("exit", str(entry["exit"]), entry) for entry in report["exits"]]
    entries += [("ensemble", name, entry) for name, entry in report["ensembles"].items()]
    if report["exits"]:
        entries.append((DEEPEST, "", report["exits"][-1]))
    return {
        Measure(checkpoint, split, what, exit, metric): float(value)
        for what, exit, entry in entries
        for metric, value in entry.items()
        if isinstance(value, int | float) and metric not in (*NOT_NUMBERS, *(("epoch",) if checkpoint == "over_epochs" else ()))
    }


def read_measures(results: Mapping[str, Any], path: Any) -> dict[Measure, float]:
    """`measured`, with a FileError of one line for a file that kd did not write."""
    try:
        return measured(results)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise FileError(f"{path} is not what kd writes: {type(error).__name__} {error}") from error

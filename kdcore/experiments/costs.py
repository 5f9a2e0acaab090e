"""What an experiment costs: runs x epochs x images, and hours here, by an earlier reproduction or by its multiply-adds. Imports no torch."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from kdcore.errors import KdError
from kdcore.experiments.folders import STATE, read_state
from kdcore.experiments.pace import TRAINING, Pace
from kdcore.experiments.planning import Choices, Facts, full_epochs, own_settings
from kdcore.experiments.reading import Experiment
from kdcore.files import read_json


def size_of(experiment: Experiment) -> dict[str, Any]:
    """runs (rows that can be run, by seeds, without teachers and added baselines), epochs of a main phase, and training images (None: not said)."""
    own = own_settings(experiment)
    images = own.get("train_limit") or experiment.data.train
    if per_class := own.get("labels_per_class"):
        images = per_class * experiment.data.classes
    return {"runs": len(experiment.runnable) * experiment.seeds, "epochs": full_epochs(own), "images": images}


def reproductions(folder: str | Path = "runs") -> list[tuple[Path, str, Choices, Facts]]:
    """The reproductions in a folder and its subfolders, or the folder itself: where, of what, and how begun. Damaged ones are passed over."""
    found = []
    folder = Path(folder)
    for path in sorted({*folder.glob(STATE), *folder.glob(f"*/{STATE}"), *folder.glob(f"*/*/{STATE}")}):
        try:
            found.append((path.parent, *read_state(path.parent)))
        except KdError:
            continue
    return found


def hours_estimated(experiment: Experiment, pace: Callable[[], Pace | None]) -> float | None:
    """Of the whole experiment with the paper's seeds, by its multiply-adds and this machine's pace; None where the file does not say its cost.

    pace: asked only where it does.
    """
    if experiment.cost is None or (found := pace()) is None:
        return None
    return experiment.seeds * found.hours(experiment.cost.images, experiment.cost.macs)


def hours_here(name: str, experiment: Experiment, known: Iterable[tuple[Path, str, Choices, Facts]]) -> float | None:
    """Of the whole experiment with the paper's seeds, by the minutes of its finished runs here; None where there is none of them.

    A row that was never run is taken to be as long as the mean of the others.
    """
    size = size_of(experiment)
    for place, other, choices, facts in known:
        if other != name or choices.smoke or choices.machine.get("device") or not (place / "costs.json").is_file():
            continue
        try:
            minutes = [float(one) for row in read_json(place / "costs.json")["minutes"].values() for one in row.values()]
        except (KdError, KeyError, TypeError, ValueError, AttributeError):
            continue
        images = facts.limit or facts.train - facts.held_out
        epochs = choices.epochs or size["epochs"]
        if minutes and images and epochs:
            tested = (facts.test or 0) / TRAINING  # after every epoch
            whole = ((size["images"] or facts.train) + tested) * size["epochs"] / ((images + tested) * epochs)
            return size["runs"] * whole * sum(minutes) / len(minutes) / 60
    return None

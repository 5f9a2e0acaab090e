"""What the studies share: runs side by side, and a run's network with some of its images."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kdcore.comparison.entries import Entry
from kdcore.comparison.existing import join
from kdcore.config import Config
from kdcore.data import Batches, Data, Preprocessing
from kdcore.errors import DataError
from kdcore.loading import load_student, read_run_config
from kdcore.precision import Precision, pick_device
from kdcore.preparing import make_batches
from kdcore.run_data import load_own_data
from kdcore.runs import Run
from kdcore.seeds import seed_of

Note = Callable[[str], None]
Split = Literal["train", "dev", "test"]


def side_by_side(runs: Sequence[Run], note: Note) -> list[Entry]:
    """The runs by experiment and seed: those that differ in the seed alone have one `row`, named as `--method` would be typed.

    A second run of the same settings and seed is told, and left out.
    """
    return join([], [run.path for run in runs], note)


def called(entry: Entry, entries: Sequence[Entry]) -> str:
    """A run's name in a picture: its experiment, with the seed where the experiment has several."""
    return entry.row if sum(other.row == entry.row for other in entries) == 1 else f"{entry.row}, seed {entry.seed}"


@dataclass
class Opened:
    """A finished run's delivered network with all exits, in eval mode, and its data."""

    run: Run
    config: Config
    network: nn.Module
    about: dict[str, Any]
    data: Data
    device: torch.device

    @property
    def preprocessing(self) -> Preprocessing:
        return Preprocessing.from_json(self.about["preprocessing"])

    @property
    def autocast(self) -> AbstractContextManager[Any]:
        """The precision in which the run was evaluated."""
        return Precision(self.config.amp, bool(self.config.channels_last)).autocast(self.device)

    def some(self, split: Split, limit: int | None, seed: int = 0) -> tuple[Batches, Tensor]:
        """Batches of at most `limit` images of a split, drawn at random, without augmentation, and their numbers in it, int64 [N].

        Raises DataError where the data has no such split.
        """
        chosen = getattr(self.data, split)
        if chosen is None:
            there = [name for name in ("test", "dev", "train") if getattr(self.data, name) is not None]
            raise DataError(f"{self.run.path} has no {split} split: add -o split={there[0]}")
        order = torch.randperm(len(chosen), generator=torch.Generator().manual_seed(seed_of("images", split, seed)))
        return self.batches(split, order[:limit].sort().values)

    def batches(self, split: Split, numbers: Tensor) -> tuple[Batches, Tensor]:
        """Batches of these images of a split, in this order, without augmentation."""
        part: Any = {split: getattr(self.data, split).take(numbers)}
        found = make_batches(replace(self.data, **part), split, self.preprocessing, self.config, self.device)
        assert found is not None  # the split is there
        return found, numbers


def opened(run: Run) -> Opened:
    """Raises FileError where the run is not finished, DataError where its data is gone or has changed."""
    config, device = read_run_config(run), pick_device("auto")
    network, about = load_student(run.path, device=device)
    return Opened(run, config, network, about, load_own_data(run, config), device)


def delivered(run: Run) -> dict[str, Any]:
    """What results.json says of the delivered checkpoint: its epoch, and a report of each split. Raises DataError where it is not finished."""
    results = run.results()
    if results is None:
        raise DataError(f"{run.path} is not finished: go on with kd train --run {run.path} --resume")
    return results["best" if results["checkpoints"]["delivered"] == results["checkpoints"]["best"] else "last"]


def report_of(run: Run, split: str) -> dict[str, Any]:
    """The delivered checkpoint's report on a split: `exits` and `ensembles`. Raises DataError where there is none."""
    found = delivered(run)
    if split not in found:
        raise DataError(f"{run.path} has no {split} split: add -o split={'dev' if split == 'test' else 'test'}")
    return found[split]

"""What the exits answered to every dev and test image, in the run's folder: the tables can be made again without model or images.

```
predictions.safetensors   SPLIT.logits float32 [E, N, K], SPLIT.labels and SPLIT.numbers int64 [N]; last.SPLIT.logits, where the last
                          epoch is not the delivered one
predictions.json          the exits, the classes, and the name of every sample
```
E exits, N samples, K classes. The logits are float32 since float16 would change the tables. 16 MB for 10,000 images of 100 classes at 4 exits.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from kdcore.checkpoints import load_tensors, save_tensors
from kdcore.errors import FileError
from kdcore.evaluation import Predictions
from kdcore.runs import Run

if TYPE_CHECKING:
    from kdcore.data import Data

NAME = "predictions"


@dataclass
class Stored:
    """`delivered` and `last`: predictions of each split (the same ones where they are of one checkpoint). `names`: of the samples, by split."""

    delivered: dict[str, Predictions]
    last: dict[str, Predictions]
    class_names: list[str]
    names: dict[str, list[str]]
    digests: dict[str, str]


def write_predictions(run: Run, found: Mapping[str, Mapping[str, Predictions]], data: "Data", folder: str) -> dict[str, str]:
    """Both files, whole or not at all. Returns the digest of every tensor, so that a changed one is found.

    found: "delivered", and "last" where it is another checkpoint, to the predictions of each split. folder: to which paths are relative.
    """
    tensors: dict[str, torch.Tensor] = {}
    about: dict[str, Any] = {"class_names": data.class_names, "splits": {}}
    for name, predictions in found["delivered"].items():
        numbers = predictions.numbers if predictions.numbers is not None else torch.arange(len(predictions.labels))
        tensors |= {f"{name}.logits": predictions.logits, f"{name}.labels": predictions.labels, f"{name}.numbers": numbers}
        if "last" in found:
            tensors[f"last.{name}.logits"] = found["last"][name].logits
        about["splits"][name] = {"exits": predictions.exits, "names": names_of(data, name, numbers.tolist(), folder)}
    save_tensors(run.path / NAME, tensors, about)  # also of no split, so that a run without them is an old one
    return {name: digest(tensor) for name, tensor in tensors.items()}


def digest(tensor: torch.Tensor) -> str:
    return blake2b(tensor.contiguous().numpy().reshape(-1).data, digest_size=8).hexdigest()


def read_predictions(run: Run) -> Stored | None:
    """None where the run has none: it is not finished, or older than they are. Raises FileError where they are damaged."""
    if not (run.path / f"{NAME}.json").exists():
        return None
    tensors, about = load_tensors(run.path / NAME)
    try:
        delivered, last = {}, {}
        for name, facts in about["splits"].items():
            logits, labels, numbers = (tensors[f"{name}.{what}"] for what in ("logits", "labels", "numbers"))
            if not logits.shape[:2] == (len(facts["exits"]), len(labels)) or len(facts["names"]) != len(labels):
                raise KeyError(f"{name}.logits of another shape")
            delivered[name] = Predictions(logits, labels, list(facts["exits"]), numbers)
            last[name] = Predictions(tensors.get(f"last.{name}.logits", logits), labels, list(facts["exits"]), numbers)
        names = {name: list(facts["names"]) for name, facts in about["splits"].items()}
        return Stored(delivered, last, about["class_names"], names, {name: digest(tensor) for name, tensor in tensors.items()})
    except (KeyError, TypeError) as error:
        raise FileError(f"{run.path / NAME}.safetensors is not what kd writes: {error}") from error


def names_of(data: "Data", split: str, numbers: list[int], folder: str) -> list[str]:
    """A name for each sample: its path relative to `folder` where it lies there, else what its store calls it."""
    chosen = getattr(data, split)
    return [relative(chosen.name_of(number), folder) for number in numbers]


def relative(name: str, folder: str) -> str:
    """`/photos/test/cat/1.jpg` as `test/cat/1.jpg` for the folder `/photos`; any other name stays."""
    try:
        return Path(name).absolute().relative_to(Path(folder).absolute()).as_posix()
    except ValueError:
        return name

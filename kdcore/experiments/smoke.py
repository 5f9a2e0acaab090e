"""What a smoke test trains on: a few small images, of the real data where it is there, else random ones; and random weights in place of pretrained."""

import re
from pathlib import Path

import numpy as np
import torch

from kdcore.backbones import create_backbone
from kdcore.data import Data
from kdcore.data.splits import Split, stratified
from kdcore.experiments.planning import TINY
from kdcore.experiments.reading import DataOf
from kdcore.files import file_errors

CLASSES = 10
TRAIN, TEST = 2, 1
"""Classes at most, and images of each."""


def random_images(data: DataOf, path: Path) -> None:
    """Random images of the data's channels and, as far as a smoke test goes, of its size and classes: an .npz with MedMNIST's keys."""
    rng = np.random.default_rng(0)
    classes, side = min(data.classes, CLASSES), min(data.image_size, TINY["img_size"])
    shape = (side, side) if data.channels == 1 else (side, side, 3)
    arrays: dict[str, np.ndarray] = {}
    for split, count in (("train", TRAIN), ("test", TEST)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (count * classes, *shape), dtype=np.uint8)
        arrays[f"{split}_labels"] = np.arange(count * classes) % classes
    _save(path, arrays)


def few_images(data: Data, path: Path) -> None:
    """A few of the data's own images, of its first classes, made small."""
    arrays: dict[str, np.ndarray] = {}
    for name, count in (("train", TRAIN), ("test", TEST)):
        split: Split | None = getattr(data, name)
        if split is None:
            continue
        few = split.take((split.labels < CLASSES).nonzero()[:, 0])
        few = few.take(stratified(few.labels, count * min(data.num_classes, CLASSES), seed=0, at_least=1))
        height, width = data.image_size or (TINY["img_size"],) * 2
        side = min(height, width, TINY["img_size"])
        pictures = [few.open(number).resize((side, side)) for number in range(len(few))]
        pixels = np.stack([np.asarray(picture.convert("L" if data.in_chans == 1 else "RGB")) for picture in pictures])
        arrays |= {f"{name}_images": pixels, f"{name}_labels": few.labels.numpy()}
    _save(path, arrays)


def random_weights(model: str, channels: int, folder: Path) -> Path:
    """A file of random weights for --init, so that what starts from pretrained ones runs without a download."""
    from safetensors.torch import save_file

    path = folder / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', model)}.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = create_backbone(model, in_chans=channels)
    with file_errors(path, "write"):
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.clone().contiguous() for name, tensor in net.state_dict().items()}, path)
    return path


def _save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with file_errors(path, "write"):
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, **arrays)  # type: ignore[arg-type]

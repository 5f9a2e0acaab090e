"""What a smoke test trains on: a few small images, of the real data where it is there, else random ones; random weights in place of
pretrained ones, and teachers that know those images."""

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from kdcore.backbones import create_backbone, made_for
from kdcore.data import Data, load_data
from kdcore.data.splits import Split, stratified
from kdcore.errors import KdError
from kdcore.experiments.planning import TINY
from kdcore.experiments.reading import DataOf
from kdcore.files import file_errors
from kdcore.tapped import Tapped

CLASSES = 10
TRAIN, TEST = 2, 1
"""Classes at most, and images of each."""

SIDE = 16
"""Pixels that are enough where no network makes less than 2 x 2 of them: a quarter of the work of `TINY`."""


def side_for(models: Iterable[str], channels: int) -> int:
    """Pixels of a smoke test's images, at most: `SIDE` where the last map of every one of these networks still has an area there."""
    for model in dict.fromkeys(models):
        try:
            with made_for("meta"):
                last = Tapped(create_backbone(model, in_chans=channels, img_size=SIDE), None, (SIDE, SIDE)).taps[-1]
        except KdError:
            return TINY["img_size"]
        if min(last.height, last.width) < 2:
            return TINY["img_size"]
    return SIDE


def random_images(data: DataOf, path: Path, side: int = TINY["img_size"]) -> None:
    """Random images of the data's channels and, as far as a smoke test goes, of its size and classes: an .npz with MedMNIST's keys."""
    rng = np.random.default_rng(0)
    classes, side = min(data.classes, CLASSES), min(data.image_size, side)
    shape = (side, side) if data.channels == 1 else (side, side, 3)
    arrays: dict[str, np.ndarray] = {}
    for split, count in (("train", TRAIN), ("test", TEST)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (count * classes, *shape), dtype=np.uint8)
        arrays[f"{split}_labels"] = np.arange(count * classes) % classes
    _save(path, arrays)


def few_images(data: Data, path: Path, most: int = TINY["img_size"]) -> None:
    """A few of the data's own images, of its first classes, made small."""
    arrays: dict[str, np.ndarray] = {}
    for name, count in (("train", TRAIN), ("test", TEST)):
        split: Split | None = getattr(data, name)
        if split is None:
            continue
        few = split.take((split.labels < CLASSES).nonzero()[:, 0])
        few = few.take(stratified(few.labels, count * min(data.num_classes, CLASSES), seed=0, at_least=1))
        side = min(*(data.image_size or (most,)), most)
        pictures = [few.open(number).resize((side, side)) for number in range(len(few))]
        pixels = np.stack([np.asarray(picture.convert("L" if data.in_chans == 1 else "RGB")) for picture in pictures])
        arrays |= {f"{name}_images": pixels, f"{name}_labels": few.labels.numpy()}
    _save(path, arrays)


def random_weights(model: str, channels: int, folder: Path) -> Path:
    """A file of random weights for --init, so that what starts from pretrained ones runs without a download."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = create_backbone(model, in_chans=channels)
    return _keep(net, model, folder)


def knowing_weights(model: str, images: Path, folder: Path) -> Path:
    """A file of weights for --init that know these few images: random ones, but for a head that is fitted to them in one step.

    An epoch on a few images makes no teacher, and there are methods that refuse one that knows nothing.
    """
    data = load_data(str(images), dev_fraction=0.0)
    assert data.train.images is not None
    pixels = data.train.images.float() / 255
    pixels = (pixels - pixels.mean((0, 2, 3), keepdim=True)) / pixels.std((0, 2, 3), keepdim=True)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        net = create_backbone(model, num_classes=data.num_classes, in_chans=data.in_chans, img_size=pixels.shape[-1])
        norms = [module for module in net.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        for norm in norms:
            norm.momentum = None  # the statistics of these images, not one tenth of them
        net.train()
        net(pixels)
        net.eval()
        head = net.get_classifier()
        if isinstance(head, nn.Linear):
            seen: list[Tensor] = []
            hook = head.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
            net(pixels)
            hook.remove()
            known = torch.cat([seen[-1], torch.ones(len(pixels), 1)], dim=1)
            wanted = 10 * nn.functional.one_hot(data.train.labels, data.num_classes).float()
            fitted = torch.linalg.lstsq(known, wanted, driver="gelsd").solution
            head.weight.copy_(fitted[:-1].T)
            head.bias.copy_(fitted[-1])
    return _keep(net, f"{model}-teacher", folder)


def _keep(net: nn.Module, name: str, folder: Path) -> Path:
    from safetensors.torch import save_file

    path = folder / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', name)}.safetensors"
    with file_errors(path, "write"):
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.clone().contiguous() for name, tensor in net.state_dict().items()}, path)
    return path


def _save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with file_errors(path, "write"):
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, **arrays)  # type: ignore[arg-type]

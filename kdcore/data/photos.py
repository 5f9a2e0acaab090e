"""Image files as samples: opened, transformed with timm's transforms, and drawn by (seed, epoch, sample number) alone."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from kdcore.data.splits import Split
from kdcore.data.transforms import Augmentation, Preprocessing, grey
from kdcore.errors import KdError
from kdcore.seeds import seed_of

_NAMES, _VALUES = "imagenet cifar10 cifar svhn", "imagenet cifar10 cifar10 svhn"  # in one text: a plugin has one of the names, too
_POLICIES = dict(zip(_NAMES.split(), _VALUES.split(), strict=True))
_TIMMS = "rand-m9-mstd0.5, augmix-m3-w3, original, originalr, v0, v0r, 3a"
_TURNED_BY = ("nearest", "bilinear", "bicubic")  # what Pillow can rotate and shear by


def photo_transform(preprocessing: Preprocessing, augmentation: Augmentation | None = None) -> transforms.Compose:
    """From an RGB image to uint8 [3, H, W]: timm's evaluation transform, or the steps of `augmentation` that take images one at a time.

    All other steps, and normalising, are left to the device, where a batch takes them together (`kdcore.data.augmenting`). Raises `KdError`
    for an `auto_augment` that neither timm nor torchvision knows.
    """
    from timm.data.transforms import RandomResizedCropAndInterpolation
    from timm.data.transforms_factory import transforms_imagenet_eval

    size, interpolation, on = preprocessing.image_size, preprocessing.interpolation, augmentation or Augmentation()
    if on.scale is None:
        whole = transforms_imagenet_eval(size, crop_pct=preprocessing.crop_pct, interpolation=interpolation, normalize=False)
        steps = whole.transforms[:-1]
    else:
        steps = [RandomResizedCropAndInterpolation(size, scale=on.scale, ratio=on.ratio, interpolation=interpolation)]
    if on.auto_augment in _POLICIES:
        policy = transforms.AutoAugmentPolicy(_POLICIES[on.auto_augment])
        fill = [round(255 * mean) for mean in _mean(preprocessing)]
        steps.append(transforms.AutoAugment(policy, transforms.InterpolationMode(_turned_by(interpolation)), fill))
    elif on.auto_augment or on.jitters:
        steps += _colours(preprocessing, on)
    steps.append(transforms.PILToTensor())
    return transforms.Compose(steps)


def _mean(preprocessing: Preprocessing) -> tuple[float, ...]:
    return preprocessing.mean * (3 // preprocessing.in_chans)


def _turned_by(interpolation: str) -> str:
    return interpolation if interpolation in _TURNED_BY else "bicubic"


def _colours(preprocessing: Preprocessing, on: Augmentation) -> list:
    from timm.data.transforms_factory import transforms_imagenet_train

    try:
        _, middle, _ = transforms_imagenet_train(
            preprocessing.image_size,
            auto_augment=on.auto_augment,
            color_jitter=on.color_jitter,
            interpolation=_turned_by(preprocessing.interpolation),
            mean=_mean(preprocessing),
            separate=True,
        )
    except (AssertionError, KeyError, ValueError, IndexError) as error:
        raise KdError(
            f"--aa {on.auto_augment}: there is no such automatic augmentation; timm has {_TIMMS}, and torchvision {', '.join(_POLICIES)}"
        ) from error
    return middle.transforms


class Photos(Dataset):
    """Samples by (epoch, number): uint8 [C, H, W] and the number, or the error that a bad image is.

    An error is returned, not raised: a DataLoader's worker would wrap it in its traceback.
    """

    def __init__(self, split: Split, preprocessing: Preprocessing, augmentation: Augmentation | None, seed: int) -> None:
        paths: Any = None if split.paths is None else np.array(split.paths, dtype=np.str_)
        self.split = replace(split, paths=paths, groups=None)  # a list's reference counts would copy its pages into every worker
        self.seed, self.grey = seed, preprocessing.in_chans == 1
        self.random = augmentation is not None and augmentation.by_image
        self.transform = photo_transform(preprocessing, augmentation)

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int] | KdError:
        epoch, number = key
        try:
            image = self.split.open(number)
        except KdError as error:
            return type(error)(str(error))
        if self.random:
            with _generators_seeded(seed_of(self.seed, epoch, number)):
                pixels = self.transform(image)
        else:
            pixels = self.transform(image)
        return (grey(pixels) if self.grey else pixels), number


@contextmanager
def _generators_seeded(seed: int) -> Iterator[None]:
    """Python's, numpy's and torch's (CPU) generators seeded within the block, and put back after it: transforms use all three."""
    before = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    try:
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.default_generator.manual_seed(seed)
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.default_generator.set_state(before[2])


class PhotoLoader:
    """A DataLoader over `Photos` whose workers stay for all epochs (`stay`) or end with each. One epoch is read at a time."""

    def __init__(self, photos: Photos, *, workers: int, device: torch.device, stay: bool = True) -> None:
        self._keys = _Keys()
        self._loader = DataLoader(
            photos,
            batch_sampler=self._keys,
            num_workers=workers,
            persistent_workers=stay and workers > 0,
            collate_fn=_stack,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # its own: the default would draw from torch's global one
        )
        self._device = device

    def read(self, order: Tensor, batch_size: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of `order` (int64 [N]): uint8 [B, C, H, W] and int64 [B], on the device. Raises `DataError` for an unreadable image."""
        self._keys.epoch, self._keys.batches = epoch, order.split(batch_size) if len(order) else ()
        for batch in self._loader:
            if isinstance(batch, KdError):
                raise batch
            images, index = batch
            yield images.to(self._device, non_blocking=True), index.to(self._device, non_blocking=True)


class _Keys:
    """The batch sampler. It lives in the main process, so that an epoch's number reaches workers that stay."""

    epoch: int = 0
    batches: tuple[Tensor, ...] = ()

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch = self.epoch
        for batch in self.batches:
            yield [(epoch, number) for number in batch.tolist()]

    def __len__(self) -> int:
        return len(self.batches)


def _stack(samples: list[tuple[Tensor, int] | KdError]) -> tuple[Tensor, Tensor] | KdError:
    for sample in samples:
        if isinstance(sample, KdError):
            return sample
    images, numbers = zip(*samples, strict=True)
    return torch.stack(images), torch.tensor(numbers, dtype=torch.int64)

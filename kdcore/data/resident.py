"""Images that stay in memory, decoded: arrays, and photos where they fit a budget. A batch is one gather."""

from collections.abc import Iterator
from dataclasses import replace
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from kdcore.data.augmenting import onto
from kdcore.data.photos import PhotoLoader, Photos
from kdcore.data.splits import Split
from kdcore.data.transforms import Augmentation, Preprocessing, grey, resized

_DECODED_AT_ONCE = 64

_kept: "WeakKeyDictionary[Split, dict[tuple[Preprocessing, str], Tensor]]" = WeakKeyDictionary()
"""The images of every split that is in use, so that phases and reports share them: they are freed with the split."""


def gigabytes(split: Split, preprocessing: Preprocessing) -> float:
    """What the split takes in memory, decoded, at the model's size."""
    height, width = preprocessing.image_size
    channels = preprocessing.in_chans if split.images is None else min(split.images.shape[1], preprocessing.in_chans)
    return len(split) * channels * height * width / 1e9


def is_resident(split: Split, preprocessing: Preprocessing, augmentation: Augmentation | None, budget: float) -> bool:
    """Whether the split's images stay decoded in memory. `budget`: gigabytes that photos may take; arrays are in memory anyhow.

    Not where an augmentation takes images one at a time: it needs the photo itself, or the loader's workers.
    """
    if augmentation is not None and augmentation.by_image:
        return False
    return split.images is not None or gigabytes(split, preprocessing) <= budget


class Resident:
    """The images of a split as uint8, on the device where they fit the budget, else in the host's memory."""

    def __init__(self, split: Split, preprocessing: Preprocessing, *, workers: int, device: torch.device, budget: float) -> None:
        self._split, self._preprocessing, self._workers, self._device = split, preprocessing, workers, device
        self._home = device if gigabytes(split, preprocessing) <= budget else torch.device("cpu")
        if split.images is not None:
            self.images()  # photos are opened when they are first read

    def read(self, order: Tensor, batch_size: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of `order` (int64 [N]): uint8 [B, C, H, W] and int64 [B], on the device. The epoch changes nothing.

        Raises `DataError` for an unreadable image, before the first batch.
        """
        images, order = self.images(), onto(order, self._home)
        for index in order.split(batch_size) if len(order) else ():
            batch = images.index_select(0, index)
            yield (batch, index) if self._home == self._device else (onto(batch, self._device), onto(index, self._device))

    def images(self) -> Tensor:
        """All of them, uint8 [N, C, H, W], made now where they are not there yet."""
        kept, key = _kept.setdefault(self._split, {}), (self._preprocessing, str(self._home))
        if key not in kept:
            made = decoded(self._split, self._preprocessing, self._workers) if self._split.images is None else self._resized()
            kept[key] = made.to(self._home)
        return kept[key]

    def _resized(self) -> Tensor:
        assert self._split.images is not None
        images = resized(self._split.images, self._preprocessing)
        if images.shape[1] == 3 and self._preprocessing.in_chans == 1:
            images = torch.cat([grey(chunk) for chunk in images.split(1024)])
        return images


def decoded(split: Split, preprocessing: Preprocessing, workers: int) -> Tensor:
    """All photos of a split as evaluation sees them: uint8 [N, C, H, W], on the CPU. The workers end with it. Raises `DataError`."""
    images = torch.empty(len(split), preprocessing.in_chans, *preprocessing.image_size, dtype=torch.uint8)
    workers = workers if len(split) > 2 * _DECODED_AT_ONCE else 0
    photos = Photos(split, preprocessing, None, seed=0)
    loader = PhotoLoader(photos, workers=workers, device=torch.device("cpu"), stay=False)
    for batch, index in loader.read(torch.arange(len(split)), _DECODED_AT_ONCE, 0):
        images[index] = batch
    return images


def source_of(
    split: Split,
    preprocessing: Preprocessing,
    augmentation: Augmentation,
    *,
    seed: int,
    workers: int,
    device: torch.device,
    budget: float,
) -> Resident | PhotoLoader:
    """Where a split's batches are read from: memory, or the files, by workers."""
    if is_resident(split, preprocessing, augmentation, budget):
        return Resident(split, preprocessing, workers=workers, device=device, budget=budget)
    if split.images is not None:  # from here on they are photos that have the final size already, as evaluation resizes them
        split, preprocessing = replace(split, images=resized(split.images, preprocessing)), replace(preprocessing, crop_pct=1.0)
    return PhotoLoader(Photos(split, preprocessing, augmentation, seed), workers=workers, device=device)

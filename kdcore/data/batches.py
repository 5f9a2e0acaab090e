"""Batches for training and evaluation: the same pixels for the same (seed, epoch, sample number), whatever else changes."""

from collections.abc import Iterator

import torch
from torch import Tensor

from kdcore.data.augmenting import Augmenter
from kdcore.data.mixing import Mixing
from kdcore.data.resident import Resident, source_of
from kdcore.data.sampling import balanced_order
from kdcore.data.splits import Split
from kdcore.data.transforms import Augmentation, Preprocessing
from kdcore.errors import DataError, KdError
from kdcore.seeds import seed_of


class Batches:
    """A split as normalised batches on a device.

    An order is a function of (seed, epoch) with `shuffle`, else the split's own; a sample's pixels are a function of (seed, epoch, number):
    `batch_size`, `workers`, `world` and `device` change none. Rank r of `world` takes every world-th sample, and `batch_size` counts for
    one rank. `drop_last` gives every rank equally many whole batches; with fewer samples than that, `self.batch_size` shrinks to them.
    Without it nothing is padded or repeated, and ranks may differ by one sample.

    Arrays stay on the device, and so do photos, decoded once, where all of them take at most `resident_gb` gigabytes; larger arrays stay in
    the host's memory, and other photos are opened by `workers`, every epoch. Which of these it is changes no pixel. Where an augmentation
    takes images one at a time (`Augmentation.by_image`), workers do that; all other steps a batch takes together, on the device.

    `balanced` draws an epoch's samples from every class equally often (`balanced_order`). `mixing` mixes the images of each batch after all
    else, and makes soft labels.

    Raises `DataError` for a split without images (or with fewer than ranks, when dropping), `KdError` for options out of range, and for
    batches of an odd size where `mixing` pairs them.
    """

    def __init__(
        self,
        split: Split,
        preprocessing: Preprocessing,
        *,
        batch_size: int,
        augmentation: Augmentation | None = None,
        shuffle: bool = False,
        balanced: bool = False,
        mixing: Mixing | None = None,
        drop_last: bool = False,
        seed: int = 0,
        device: str | torch.device = "cpu",
        workers: int = 0,
        rank: int = 0,
        world: int = 1,
        channels_last: bool = False,
        resident_gb: float = 2.0,
    ) -> None:
        if batch_size < 1 or workers < 0 or not 0 <= rank < world:
            raise KdError(f"batch_size {batch_size} is at least 1, workers {workers} at least 0, rank {rank} from 0 to below world {world}")
        count, device = len(split), torch.device(device)
        share = count // world if drop_last else len(range(rank, count, world))
        if not count or (drop_last and not share):
            raise DataError(f"{count} images are too few for {world} process(es); use more images or fewer processes")
        self.batch_size = min(batch_size, share) if drop_last else batch_size
        self._batches = share // self.batch_size if drop_last else -(-share // self.batch_size)
        self._samples = min(share, self._batches * self.batch_size)
        self._count, self._shuffle, self._seed, self._rank, self._world = count, shuffle, seed, rank, world
        self._host_labels = split.labels if balanced else None
        self._mixing = mixing
        if mixing is not None:
            mixing.check(self.batch_size)
        self._labels = split.labels.to(device)
        self._white = torch.tensor(255.0, device=device)  # a tensor: CUDA multiplies by the reciprocal of a number, which rounds otherwise
        self._mean = torch.tensor(preprocessing.mean, device=device)[:, None, None]
        self._std = torch.tensor(preprocessing.std, device=device)[:, None, None]
        self._layout = torch.channels_last if channels_last else torch.contiguous_format
        self._channels = preprocessing.in_chans
        augmentation = augmentation or Augmentation()
        self._augmenter = Augmenter(augmentation, preprocessing, seed=seed, device=device)
        self._source = source_of(split, preprocessing, augmentation, seed=seed, workers=workers, device=device, budget=resident_gb)

    def __len__(self) -> int:
        """Batches in an epoch, on this rank."""
        return self._batches

    def ready(self) -> None:
        """Decodes what stays in memory. The first epoch does so else, before its first batch, and takes that much longer. Raises `DataError`."""
        if isinstance(self._source, Resident):
            self._source.images()

    def order(self, epoch: int) -> Tensor:
        """The numbers of the samples that this rank sees in this epoch, in order: int64 [N], on the CPU."""
        if self._host_labels is not None:
            order = balanced_order(self._host_labels, self._seed, epoch)
        elif self._shuffle:
            order = torch.randperm(self._count, generator=torch.Generator().manual_seed(seed_of(self._seed, "order", epoch)))
        else:
            order = torch.arange(self._count)
        return order[self._rank :: self._world][: self._samples]

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Images float32 [B, C, H, W], normalised; labels int64 [B]; numbers in the split int64 [B]. Any epoch can be asked for, at any time.

        Where batches are mixed, labels are soft: float32 [B, K].

        With workers, finish or drop one epoch before the next. Raises `DataError` that names the file for an unreadable image.
        """
        order = self.order(epoch)
        read, planned = self._source.read(order, self.batch_size, epoch), self._augmenter.plan(order, self.batch_size, epoch)
        for step, ((pixels, index), numbers) in enumerate(zip(read, planned, strict=True)):
            images, labels = self._normalised(self._augmenter(pixels, numbers)), self._labels[index]
            if self._mixing is not None:
                images, labels = self._mixing(images, labels, epoch, step)
            yield images, labels, index

    def _normalised(self, images: Tensor) -> Tensor:
        scaled = images.expand(-1, self._channels, -1, -1).to(torch.float32).div_(self._white)
        return scaled.sub_(self._mean).div_(self._std).contiguous(memory_format=self._layout)

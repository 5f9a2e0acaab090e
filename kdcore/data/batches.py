"""Batches for training and evaluation: the same pixels for the same (seed, epoch, sample number), whatever else changes."""

from collections.abc import Iterator
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from kdcore.data.mixing import Mixing
from kdcore.data.photos import PhotoLoader, Photos
from kdcore.data.sampling import balanced_order
from kdcore.data.splits import Split
from kdcore.data.transforms import Augmentation, Preprocessing, grey, resized
from kdcore.errors import DataError, KdError
from kdcore.seeds import draws, seed_of


class Batches:
    """A split as normalised batches on a device.

    An order is a function of (seed, epoch) with `shuffle`, else the split's own; a sample's pixels are a function of (seed, epoch, number):
    `batch_size`, `workers`, `world` and `device` change none. Rank r of `world` takes every world-th sample, and `batch_size` counts for
    one rank. `drop_last` gives every rank equally many whole batches; with fewer samples than that, `self.batch_size` shrinks to them.
    Without it nothing is padded or repeated, and ranks may differ by one sample. Arrays stay on the device, and are cropped and flipped as
    they are gathered; `workers` open image files, and take arrays one by one where an augmentation asks for more than that.

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
        self._source: Resident | PhotoLoader
        augmentation = augmentation or Augmentation()
        if split.images is not None and not augmentation.by_image:
            self._source = Resident(split.images, preprocessing, augmentation, seed=seed, device=device)
        else:
            if split.images is not None:  # from here on they are photos that have the final size already, as evaluation resizes them
                split, preprocessing = replace(split, images=resized(split.images, preprocessing)), replace(preprocessing, crop_pct=1.0)
            self._source = PhotoLoader(Photos(split, preprocessing, augmentation, seed), workers=workers, device=device)

    def __len__(self) -> int:
        """Batches in an epoch, on this rank."""
        return self._batches

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
        for step, (pixels, index) in enumerate(self._source.read(self.order(epoch), self.batch_size, epoch)):
            images, labels = self._normalised(pixels), self._labels[index]
            if self._mixing is not None:
                images, labels = self._mixing(images, labels, epoch, step)
            yield images, labels, index

    def _normalised(self, images: Tensor) -> Tensor:
        scaled = images.to(torch.float32).div_(self._white).expand(-1, self._channels, -1, -1)
        return scaled.sub(self._mean).div_(self._std).contiguous(memory_format=self._layout)


class Resident:
    """All images of a split as uint8 on the device. A batch is one gather, crops and flips included."""

    def __init__(
        self,
        images: Tensor,
        preprocessing: Preprocessing,
        augmentation: Augmentation,
        *,
        seed: int,
        device: torch.device,
    ) -> None:
        assert not augmentation.by_image
        images = resized(images, preprocessing)
        if images.shape[1] == 3 and preprocessing.in_chans == 1:
            images = torch.cat([grey(chunk) for chunk in images.split(1024)])
        self._augmentation, self._plain = augmentation, augmentation == Augmentation()
        self._images = F.pad(images, [augmentation.crop_pad] * 4).to(device)
        self._rows, self._columns = (torch.arange(side, device=device) for side in preprocessing.image_size)
        self._seed = seed

    def read(self, order: Tensor, batch_size: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of `order` (int64 [N]): uint8 [B, C, H, W] and int64 [B], on the device."""
        order = order.to(self._images.device)
        for start in range(0, len(order), batch_size):
            index = order[start : start + batch_size]
            yield (self._images[index] if self._plain else self._augmented(index, epoch)), index

    def _augmented(self, index: Tensor, epoch: int) -> Tensor:
        """Draws 0 and 1 place the crop (down, right), 2 and 3 flip it (left-right, up-down), whichever of these are on."""
        draw, shifts = draws(seed_of(self._seed, epoch), index, 4), 2 * self._augmentation.crop_pad + 1
        down, right = (draw[:, :2] * shifts).long()[:, :, None].unbind(1)
        mirror, upset = draw[:, 2:3] < self._augmentation.hflip, draw[:, 3:] < self._augmentation.vflip
        rows = torch.where(upset, self._rows.flip(0), self._rows) + down
        columns = torch.where(mirror, self._columns.flip(0), self._columns) + right
        return self._images[index[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)

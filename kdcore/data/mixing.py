"""Mixup and cutmix: the images of a batch are mixed two by two, and their labels become soft. timm's, with draws that can be repeated."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
from torch import Tensor

from kdcore.errors import KdError
from kdcore.seeds import seed_of


class Mixing:
    """Mixup (Zhang et al., arXiv:1710.09412) and cutmix (Yun et al., arXiv:1905.04899) of batches on their device.

    mixup, cutmix: alphas, 0 is off, one at least is on; where both are, `switch_prob` is the chance of cutmix. prob: the chance that a batch
    (or an image, or a pair) is mixed at all. mode: one draw for a batch, for a pair, or for an image; a batch's waits for no device, the
    others' do in timm, once a step. off_epoch: no mixing from this epoch on, and hard labels again; 0 is never.

    Draws are a function of (seed, epoch, step), so resuming mixes as the run would have. Which images meet follows from the batch.
    Smoothing is the cross entropy's: (1 - s) t + s / K of a mixed t is the mixture of the smoothed ones.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        prob: float = 1.0,
        switch_prob: float = 0.5,
        mode: Literal["batch", "pair", "elem"] = "batch",
        off_epoch: int = 0,
        seed: int = 0,
    ) -> None:
        from timm.data import Mixup

        self._mix = Mixup(mixup, cutmix, None, prob, switch_prob, mode, label_smoothing=0.0, num_classes=num_classes)
        self._off_epoch, self._seed = off_epoch, seed

    def check(self, batch_size: int) -> None:
        """Raises `KdError` for a batch that does not fall into pairs."""
        if batch_size % 2:
            raise KdError(f"--mixup and --cutmix pair the images of a batch, and a batch has {batch_size}: add -b {batch_size - 1}")

    def __call__(self, images: Tensor, labels: Tensor, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        """Images [B, C, H, W] mixed in place, and soft labels float32 [B, K]; from `off_epoch` on both as they come, labels int64 [B]."""
        if self._off_epoch and epoch >= self._off_epoch:
            return images, labels
        with _numpy_seeded(seed_of(self._seed, "mixing", epoch, step)):
            return self._mix(images, labels)


@contextmanager
def _numpy_seeded(seed: int) -> Iterator[None]:
    """numpy's global generator, from which timm draws, seeded within the block and put back after it."""
    before = np.random.get_state()
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        np.random.set_state(before)

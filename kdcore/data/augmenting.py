"""What becomes of a batch on its device: crop, flips, rotation, Cutout and erasing, on uint8, whatever the batch was read from.

The draws of a sample are a function of (seed, epoch, sample number) and become whole numbers on the CPU. All that follows on the device is exact,
so that no device, no batch size and no neighbour in the batch changes a pixel.
"""

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kdcore.data.transforms import Augmentation, Preprocessing
from kdcore.seeds import draws, seed_of

Numbers = dict[str, Tensor]

_DRAWS = 12
"""0, 1: where the crop is (down, right). 2, 3: flips (left-right, up-down). 4: angle. 5, 6: Cutout's centre. 7 to 11: erasing's chance, area, ratio,
place. A draw is a function of its position too, so switching one step on moves no other."""

_AT_ONCE = 16384  # samples whose numbers are drawn together: a batch alone costs as much time in calls as it does in numbers
_ROTATED_AT_ONCE = 1 << 20  # pixels, all channels: as float32 they stay in a processor's cache
_ONE = 16  # bits after the point of a sine
_STEP = 8  # bits after the point of a position: two of them and a pixel's 8 make 24, all that float32 holds exactly
_ERASED_AREA, _ERASED_RATIO = (0.02, 1 / 3), (0.3, 3.3)  # torchvision's


class Augmenter:
    """The steps of an augmentation that batches take together: all but those which `Augmentation.by_image` names."""

    def __init__(self, augmentation: Augmentation, preprocessing: Preprocessing, *, seed: int, device: torch.device) -> None:
        self._on, self._seed, self._device = augmentation, seed, device
        self._size, self._channels = preprocessing.image_size, preprocessing.in_chans
        self._rows, self._columns = (torch.arange(side, device=device) for side in preprocessing.image_size)
        self._fill = torch.tensor([round(255 * mean) for mean in preprocessing.mean], dtype=torch.uint8).to(device)[:, None, None]
        self._crops = any((augmentation.crop_pad, augmentation.hflip, augmentation.vflip))
        self._fills = any((augmentation.rotation, augmentation.cutout, augmentation.reprob))

    def plan(self, order: Tensor, batch_size: int, epoch: int) -> Iterator[Numbers]:
        """What was drawn for each batch of `order` (int64 [N], on the CPU): int32 [B] by name, on the device."""
        together = max(_AT_ONCE // batch_size, 1) * batch_size
        for some in order.split(together) if len(order) else ():
            numbers = self._drawn(some, epoch)
            stacked = onto(torch.stack(list(numbers.values())), self._device) if numbers else torch.empty(0, len(some))
            for batch in stacked.split(batch_size, 1):
                yield dict(zip(numbers, batch, strict=True))

    def __call__(self, images: Tensor, numbers: Numbers) -> Tensor:
        """Images uint8 [B, c, H, W] with the numbers of their batch; c is the model's channels, or 1 where grey was not repeated yet."""
        if self._crops:
            images = self._cropped(images, numbers)
        if self._fills:
            images = images.expand(-1, self._channels, -1, -1)  # the mean that fills differs from channel to channel
        if self._on.rotation:
            few = max(_ROTATED_AT_ONCE // images[0].numel(), 1)
            pieces = zip(*(tensor.split(few) for tensor in (images, numbers["cos"], numbers["sin"])), strict=True)
            images = torch.cat([self._rotated(*piece) for piece in pieces])
        boxes = [[numbers[f"{name} {edge}"] for edge in _EDGES] for name in ("cutout", "erased") if f"{name} top" in numbers]
        return self._blanked(images, boxes) if boxes else images

    def _drawn(self, order: Tensor, epoch: int) -> Numbers:
        """The numbers of these samples, int32 [N] by name, on the CPU; only those of steps that are on."""
        on, (height, width) = self._on, self._size
        drawn = draws(seed_of(self._seed, epoch), order, _DRAWS if self._fills else 4)
        numbers: Numbers = {}
        if on.crop_pad:
            numbers["down"], numbers["right"] = (drawn[:, :2] * (2 * on.crop_pad + 1)).int().unbind(1)
        if on.hflip:
            numbers["mirror"] = (drawn[:, 2] < on.hflip).int()
        if on.vflip:
            numbers["upset"] = (drawn[:, 3] < on.vflip).int()
        fine = drawn.numpy().astype(np.float64).T  # numpy: no tensor of float64 is ever made, which MPS could not hold
        if on.rotation:
            angle = np.radians((2 * fine[4] - 1) * on.rotation)
            numbers |= _whole({"cos": np.rint(np.cos(angle) * 2**_ONE), "sin": np.rint(np.sin(angle) * 2**_ONE)})
        if on.cutout:
            top, left = np.floor(fine[5] * height) - on.cutout // 2, np.floor(fine[6] * width) - on.cutout // 2
            numbers |= _box("cutout", top, left, on.cutout, on.cutout)
        if on.reprob:
            area = height * width * (_ERASED_AREA[0] + fine[8] * (_ERASED_AREA[1] - _ERASED_AREA[0]))
            ratio = np.exp(np.log(_ERASED_RATIO[0]) + fine[9] * np.log(_ERASED_RATIO[1] / _ERASED_RATIO[0]))
            tall, wide = np.rint(np.sqrt(area * ratio)).clip(1, height), np.rint(np.sqrt(area / ratio)).clip(1, width)
            top, left = np.floor(fine[10] * (height - tall + 1)), np.floor(fine[11] * (width - wide + 1))
            numbers |= _box("erased", top, left, tall * (fine[7] < on.reprob), wide)
        return numbers

    def _cropped(self, images: Tensor, numbers: Numbers) -> Tensor:
        """Padded with black, cropped back and flipped: rows are taken whole, then columns, each in one gather."""
        images = F.pad(images, [self._on.crop_pad] * 4)
        count, channels, padded, _ = images.shape
        if "down" in numbers or "upset" in numbers:
            rows = _taken(self._rows, numbers.get("upset"), numbers.get("down")).expand(count, -1)
            first = torch.arange(0, count * channels * padded, padded, device=images.device).view(count, channels, 1)
            images = images.reshape(-1, images.shape[3]).index_select(0, (first + rows[:, None]).flatten())
            images = images.view(count, channels, len(self._rows), -1)
        if "right" in numbers or "mirror" in numbers:
            columns = _taken(self._columns, numbers.get("mirror"), numbers.get("right"))
            images = images.gather(3, columns[:, None, None].expand(-1, channels, len(self._rows), -1))
        return images

    def _rotated(self, images: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Turned about the middle, counter-clockwise, bilinear; what comes in from outside is the mean.

        One `grid_sample`, made exact: positions are multiples of 1/256 pixel, and sides are padded to powers of two, by which the grid's
        scale from -1 to 1 divides without rounding.
        """
        (height, width), (tall, wide) = self._size, (1 << (side - 1).bit_length() for side in self._size)
        right, down = 2 * self._columns.int() - (width - 1), 2 * self._rows.int() - (height - 1)  # from the middle, in half pixels

        def grid(side: int, whole: int, across: Tensor, along: Tensor) -> Tensor:
            """The coordinate of which `across` [B, W] and `along` [B, H] are the two parts: [B, H, W], from -1 to 1 over `whole` pixels."""
            middle = ((side - 1) * 2 ** (_STEP - 1) + across) * (2 / (whole << _STEP)) + (1 / whole - 1)
            return middle[:, None, :] + (along * (2 / (whole << _STEP)))[:, :, None]

        x = grid(width, wide, _parts(cos, right), _parts(-sin, down))
        y = grid(height, tall, _parts(sin, right), _parts(cos, down))
        padded = F.pad(images.float().sub_(self._fill), [0, wide - width, 0, tall - height])
        turned = F.grid_sample(padded, torch.stack([x, y], 3), mode="bilinear", padding_mode="zeros", align_corners=False)
        return turned.add_(self._fill + 0.5).to(torch.uint8)  # which cuts off what is behind the point

    def _blanked(self, images: Tensor, boxes: list[list[Tensor]]) -> Tensor:
        """The mean in the boxes (top, left, bottom, right), each int32 [B]; what lies outside the image is clipped."""
        mask: Tensor | None = None
        for top, left, bottom, right in boxes:
            rows = (self._rows >= top[:, None]) & (self._rows < bottom[:, None])
            columns = (self._columns >= left[:, None]) & (self._columns < right[:, None])
            box = rows[:, None, :, None] & columns[:, None, None, :]
            mask = box if mask is None else mask | box
        assert mask is not None
        return images ^ ((images ^ self._fill) * mask)  # torch.where and masked_fill take 25 times as long on a CPU


_EDGES = ("top", "left", "bottom", "right")


def onto(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device, without waiting for it: a GPU copies from pinned memory while it computes."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def _whole(values: dict[str, np.ndarray]) -> Numbers:
    return {name: torch.from_numpy(value.astype(np.int32)) for name, value in values.items()}


def _box(name: str, top: np.ndarray, left: np.ndarray, tall: np.ndarray | int, wide: np.ndarray | int) -> Numbers:
    edges = (top, left, top + tall, left + wide)
    return _whole({f"{name} {edge}": value for edge, value in zip(_EDGES, edges, strict=True)})


def _taken(own: Tensor, turned: Tensor | None, shift: Tensor | None) -> Tensor:
    """Which rows (or columns) of the padded image each sample takes: int64 [B, side]; [1, side] where all take the same."""
    taken = own[None] if turned is None else torch.where(turned[:, None] > 0, own.flip(0), own)
    return taken if shift is None else taken + shift[:, None]


def _parts(factor: Tensor, half_pixels: Tensor) -> Tensor:
    """Sine or cosine [B] times a distance in half pixels [side]: [B, side] in steps of 1/256 pixel, rounded."""
    spare = _ONE + 1 - _STEP
    return (factor[:, None] * half_pixels + (1 << (spare - 1))) >> spare

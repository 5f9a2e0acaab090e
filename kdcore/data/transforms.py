"""What becomes of an image: the preprocessing that a deployed model needs, the augmentation of training, and their defaults."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torchvision import transforms
from torchvision.transforms.v2.functional import resize

from kdcore.data.splits import Data
from kdcore.errors import KdError, nearest

_RESIDENT_INTERPOLATIONS = ("nearest", "bilinear", "bicubic")
INTERPOLATIONS = (*_RESIDENT_INTERPOLATIONS, "box", "hamming", "lanczos")
_IMAGENET: tuple[tuple[float, ...], tuple[float, ...]] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CHUNK = 1024


@dataclass(frozen=True)
class Preprocessing:
    """From an image to a model's input: (height, width) in pixels; mean and standard deviation, on the scale 0 to 1, of each channel.

    `crop_pct`: the share of the shorter side that the centre crop keeps (photos; resident images are resized as a whole).
    `in_chans`: 1 or 3; grey images are repeated for 3, colour is turned grey for 1. Raises `KdError` for values out of range.
    """

    image_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bilinear"
    crop_pct: float = 1.0
    in_chans: int = 3

    def __post_init__(self) -> None:
        if len(self.image_size) != 2 or min(self.image_size) < 1:
            raise KdError(f"image size is {self.image_size}; it is (height, width) in pixels, each at least 1")
        if self.in_chans not in (1, 3):
            raise KdError(f"in_chans is {self.in_chans}; images have 1 channel or 3")
        if not len(self.mean) == len(self.std) == self.in_chans:
            raise KdError(f"mean {self.mean} and std {self.std} need one number for each of {self.in_chans} channels")
        if min(self.std) <= 0:
            raise KdError(f"std is {self.std}; it must be above 0")
        if not 0 < self.crop_pct <= 1:
            raise KdError(f"crop_pct is {self.crop_pct}; it is a share of the image, above 0 and at most 1")
        if self.interpolation not in INTERPOLATIONS:
            raise KdError(f"no interpolation '{self.interpolation}'{nearest(self.interpolation, INTERPOLATIONS)}")

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Preprocessing":
        """The inverse of `to_json`."""
        parts: dict[str, Any] = {name: tuple(part) if isinstance(part, list) else part for name, part in value.items()}
        return cls(**parts)


@dataclass(frozen=True)
class Augmentation:
    """What training does to an image on top; the default is nothing at all. Steps are taken in the order in which they stand here.

    One image at a time: `scale` and `ratio` of a random resized crop (None: the whole image as in evaluation); `color_jitter`: strength
    (unused beside `auto_augment`, as in timm, but for 3a); `auto_augment`: timm's strings (rand-m9-mstd0.5) or a policy of torchvision's
    (imagenet, cifar10, svhn). A batch together, at the final size: `crop_pad`: zero-pad by this many pixels and crop back; `hflip`, `vflip`:
    probabilities; `rotation`: degrees, at most, either way (bilinear, corners filled with the mean); `cutout`: side in pixels of a square,
    centred anywhere and clipped at the edge, that is filled with the mean (arXiv:1708.04552); `reprob`: chance of random erasing (with the
    mean; arXiv:1708.04896). Raises `KdError` for values out of range.
    """

    scale: tuple[float, float] | None = None
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    color_jitter: float = 0.0
    auto_augment: str | None = None
    crop_pad: int = 0
    hflip: float = 0.0
    vflip: float = 0.0
    rotation: float = 0.0
    cutout: int = 0
    reprob: float = 0.0

    def __post_init__(self) -> None:
        for name in ("hflip", "vflip", "reprob"):
            if not 0 <= getattr(self, name) <= 1:
                raise KdError(f"{name} is {getattr(self, name)}; it is a probability, from 0 to 1")
        for name in ("crop_pad", "color_jitter", "cutout"):
            if getattr(self, name) < 0:
                raise KdError(f"{name} is {getattr(self, name)}; it is at least 0")
        if not 0 <= self.rotation <= 180:
            raise KdError(f"rotation is {self.rotation}; it is an angle in degrees, from 0 to 180")
        if self.scale is not None and not (len(self.scale) == 2 and 0 < self.scale[0] <= self.scale[1] <= 1):
            raise KdError(f"scale is {self.scale}; it is a smallest and a largest share of the image's area, above 0 and at most 1")
        if not (len(self.ratio) == 2 and 0 < self.ratio[0] <= self.ratio[1]):
            raise KdError(f"ratio is {self.ratio}; it is a smallest and a largest width over height, above 0")

    @property
    def by_image(self) -> bool:
        """Whether images have to be worked on one by one; where not, photos may stay decoded in memory, as arrays do."""
        return self.scale is not None or self.auto_augment is not None or self.jitters

    @property
    def jitters(self) -> bool:
        """Whether colours are jittered: automatic augmentation takes the place of it."""
        return self.color_jitter > 0 and (self.auto_augment is None or "3a" in self.auto_augment)

    def described(self) -> str:
        """One short line, such as `random resized crop 0.35-1, flip 0.5`."""
        steps = {
            f"random resized crop {_range(self.scale)}"
            + (f" (ratio {_range(self.ratio)})" if self.ratio != (3 / 4, 4 / 3) else ""): self.scale,
            f"{self.auto_augment}": self.auto_augment,
            f"colour jitter {self.color_jitter:g}": self.jitters,
            f"crop after padding by {self.crop_pad}": self.crop_pad,
            f"flip {self.hflip:g}": self.hflip,
            f"vertical flip {self.vflip:g}": self.vflip,
            f"rotation {self.rotation:g} degrees": self.rotation,
            f"cutout {self.cutout}": self.cutout,
            f"random erasing {self.reprob:g}": self.reprob,
        }
        return ", ".join(text for text, on in steps.items() if on) or "no augmentation"


def _range(pair: tuple[float, float] | None) -> str:
    return "-".join(f"{value:.3g}" for value in pair or ())


def default_preprocessing(
    data: Data,
    image_size: tuple[int, int] | None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> Preprocessing:
    """Resident images: their own size, with mean and deviation measured on the training images; folders: 224 pixels and ImageNet's.

    One number given for mean or std serves all channels; three for grey images ask for an input of three channels.
    """
    if data.train.images is None:
        own_mean, own_std = _IMAGENET
        size = image_size or (224, 224)
    else:
        own_mean, own_std = _measured(data.train.images)
        height, width = data.train.images.shape[2:]
        size = image_size or (height, width)
    mean, std = tuple(mean or own_mean), tuple(std or own_std)
    channels = max(data.in_chans, len(mean), len(std))
    mean, std = (value * channels if len(value) == 1 else value for value in (mean, std))
    return Preprocessing(size, mean, std, in_chans=channels)


def default_augmentation(data: Data, image_size: tuple[int, int] | None = None) -> Augmentation:
    """Folders: a random resized crop of 35 to 100 % and flips. Resident: pad by an eighth and crop (4 at 28 to 32 pixels, 1 at 8), flips if colour.

    Grey images are never flipped: digits and letters would become others, and nothing in an array says whether it holds some. Colour
    pictures of text or house numbers want `hflip=0` as well. `image_size`: the final size, where it is not the data's own.
    """
    if data.train.images is None:
        return Augmentation(scale=(0.35, 1.0), hflip=0.5)
    side = min(image_size or data.train.images.shape[2:])
    return Augmentation(crop_pad=max(1, (side + 4) // 8), hflip=0.5 if data.in_chans == 3 else 0.0)


def _measured(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each channel, 0 to 1, to six digits: from counts, so exact and the same however the images are ordered."""
    value = torch.arange(256, dtype=torch.float64) / 255
    counts = torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in images.transpose(0, 1)]).double()
    share = counts / counts.sum(1, keepdim=True)
    mean = share @ value
    std = (share @ value**2 - mean**2).clamp(min=0).sqrt().clamp(min=1 / 255)
    return tuple(round(m, 6) for m in mean.tolist()), tuple(round(s, 6) for s in std.tolist())


def resized(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Resident images uint8 [N, C, h, w] at the model's size, on the CPU and so the same for every device. A copy only where it must be."""
    if tuple(images.shape[2:]) == tuple(preprocessing.image_size):
        return images
    if preprocessing.interpolation not in _RESIDENT_INTERPOLATIONS:
        known = ", ".join(_RESIDENT_INTERPOLATIONS)
        raise KdError(f"interpolation '{preprocessing.interpolation}' needs photos in a folder; arrays are resized by one of: {known}")
    mode, size = transforms.InterpolationMode(preprocessing.interpolation), list(preprocessing.image_size)
    return torch.cat([resize(chunk, size, interpolation=mode, antialias=True) for chunk in images.split(_CHUNK)])


def grey(images: Tensor) -> Tensor:
    """Luminance of uint8 [..., 3, H, W] as [..., 1, H, W], in Pillow's whole numbers: equal channels keep their value."""
    red, green, blue = images.int().split(1, dim=-3)
    return ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16).to(torch.uint8)

"""Opening images: whatever a camera, a scanner or a web page wrote becomes RGB, upright, or an error of one line."""

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from torchvision.datasets.folder import IMG_EXTENSIONS

from kdcore.errors import DataError, FileError

ADVICE = "; mend or remove it, or add --skip-bad-images"
_HEIF = (".heic", ".heif", ".hif")
_AVIF = (".avif",)


def open_image(path: str) -> Image.Image:
    """An image file as RGB, upright. Raises `DataError` that names the file if it is no readable image, `FileError` if access is denied."""
    with reading(path), Image.open(path) as file:
        return as_rgb(file)


def as_rgb(image: Image.Image) -> Image.Image:
    """A picture in any of Pillow's modes as RGB, turned as its EXIF data says; of an animation the first frame.

    Alpha is dropped, as timm and torchvision drop it. 16 bits are scaled to 8, whole range to whole range. Numbers of 32 bits are read as
    16 bits, and floating point as 0 to 1 or 0 to 255, where they fit; otherwise their own smallest and largest become black and white.
    """
    image.load()  # before anything that guards against broken EXIF data: broken pixels are an error
    try:
        image = ImageOps.exif_transpose(image)
    except Exception:  # EXIF data that Pillow cannot read says nothing about a rotation
        image = image.copy()
    if image.mode.startswith(("I", "F")):
        return Image.fromarray(_eight_bits(np.asarray(image).astype(np.float64), sixteen=image.mode.startswith("I"))).convert("RGB")
    if "transparency" in image.info:
        image = image.convert("RGBA")  # straight to RGB, Pillow warns
    return image.convert("RGB")


def _eight_bits(values: np.ndarray, *, sixteen: bool) -> np.ndarray:
    values = np.nan_to_num(values)
    low, high = float(values.min()), float(values.max())
    if low >= 0 and high <= 65535 and sixteen:
        low, high = 0.0, 65535.0
    elif low >= 0 and high <= 255:
        low, high = 0.0, 1.0 if high <= 1 else 255.0
    return np.rint((values - low) * (255 / ((high - low) or 1))).astype(np.uint8)


@contextmanager
def reading(name: str | Callable[[], str]) -> Iterator[None]:
    """Whatever goes wrong within the block as one line that names the image: `FileError` for denied access, else `DataError`.

    A function is asked for the name when something has gone wrong: some stores read a row to know it.
    """
    _prepare_pillow()
    try:
        yield
    except Exception as error:  # Pillow raises whatever a broken file makes of it
        name = name if isinstance(name, str) else name()
        if isinstance(error, FileNotFoundError):
            raise DataError(f"{name}: the image is gone; put it back or load the data again") from error
        if isinstance(error, PermissionError) and not os.path.isdir(name):  # what Windows says of a folder
            raise FileError(f"cannot read {name}: {error.strerror}") from error
        raise DataError(f"{name}: not a readable image ({_why(name, error)}){ADVICE}") from error


def _why(name: str, error: Exception) -> str:
    if os.path.isdir(name):
        return "it is a folder"
    if os.path.isfile(name) and not os.path.getsize(name):
        return "the file is empty"
    if isinstance(error, UnidentifiedImageError):
        lacking = name.lower().endswith(missing_endings())
        return "it needs a decoder: pip install 'kdcore[heic]'" if lacking else "Pillow knows no such format"
    return " ".join(str(error).split()).removesuffix(".") or type(error).__name__


def image_endings() -> tuple[str, ...]:
    """The endings, in small letters, of the files that can be opened here."""
    _register_heif()
    extra = tuple(ending for ending in (*_HEIF, *_AVIF) if ending in Image.registered_extensions())
    return (*IMG_EXTENSIONS, ".gif", ".jfif", *extra)


def missing_endings() -> tuple[str, ...]:
    """The endings of images that could be opened with `pip install 'kdcore[heic]'`."""
    return tuple(ending for ending in (*_HEIF, *_AVIF) if ending not in image_endings())


def size_of(path: str) -> tuple[int, int] | None:
    """(height, width) of an image file when upright, from its header alone; None where it cannot be read."""
    _prepare_pillow()
    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(0x0112, 1) >= 5  # EXIF orientations 5 to 8 are turned by a quarter
    except Exception:  # Pillow raises whatever a broken header makes of it
        return None
    return (width, height) if turned else (height, width)


def _prepare_pillow() -> None:
    """Optional decoders registered, and Pillow's warnings silenced: an image is good, or it is an error."""
    _register_heif()
    bomb = Image.DecompressionBombWarning
    if next((action for action, _, category, *_ in warnings.filters if issubclass(bomb, category)), None) != "ignore":
        warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
        warnings.simplefilter("ignore", bomb)


@cache
def _register_heif() -> None:
    """iPhones' HEIC, where the decoder is installed. Workers that are spawned come through here too."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return
    register_heif_opener()

"""Every image of a data set opened once, by threads: its size, what will be converted, its fingerprints, or why it cannot be read."""

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from PIL import Image

from kdcore.data.duplicates import difference_hash, pixel_digest, thumbnail
from kdcore.data.opening import ADVICE
from kdcore.data.splits import Data, Split
from kdcore.errors import KdError

_WARM, _FIRST, _STEP = 8, 72, 64
_SMALL = 0.05
_ORIENTATION = 0x0112
_MODES = {
    **dict.fromkeys(("1", "L"), "grey"),
    "P": "palette",
    **dict.fromkeys(("RGBA", "LA", "La", "PA", "RGBa"), "alpha"),
    "CMYK": "CMYK",
    **dict.fromkeys(("YCbCr", "LAB", "HSV"), "other colours"),
}


@dataclass(slots=True, eq=False)
class Seen:
    """What one image turned out to be. `split`: train, dev or test; `size`: (width, height) upright; `bad`: why it cannot be read.

    `converted`: what reading it changes (grey, palette, alpha, CMYK, 16-bit, turned by EXIF, first frame only). `hash`: uint8 [32] and
    `thumbnail`: uint8 [768], as in `kdcore.data.duplicates`; None where it is bad.
    """

    split: str
    number: int
    name: str
    label: int
    size: tuple[int, int] | None = None
    converted: tuple[str, ...] = ()
    digest: bytes = b""
    hash: Any = None
    thumbnail: Any = None
    bad: str | None = None


def look(
    data: Data,
    *,
    began: Callable[[int, float], None] = lambda count, seconds: None,
    advanced: Callable[[int], None] = lambda count: None,
    threads: int | None = None,
) -> list[Seen]:
    """Open every image of the data, split by split, in order. Nothing that a single image does stops it.

    `began(count, seconds)` is called when the first 8 to 72, spread over all, have said how long all will take; `advanced(count)` after every 64
    images. `threads`: the machine's cores, at most 8, where not given.
    """
    places = [(name, split, number) for name in ("train", "dev", "test") for split in [getattr(data, name)] for number in _numbers(split)]
    stride = max(1, len(places) // _FIRST)
    order = [*range(0, len(places), stride), *(place for place in range(len(places)) if place % stride)]
    found: list[Seen | None] = [None] * len(places)
    with ThreadPoolExecutor(threads or min(8, os.cpu_count() or 1)) as pool:  # Pillow decodes outside of Python's lock

        def see(start: int, end: int) -> float:
            begin = time.perf_counter()
            for place, seen in zip(order[start:end], pool.map(lambda place: _look_at(*places[place]), order[start:end]), strict=True):
                found[place] = seen
            return time.perf_counter() - begin

        done, took, measured = _WARM, see(0, _WARM), _WARM
        if took < _WARM * _SMALL and len(order) > _FIRST:  # the first small images say how long the decoders take to load
            done, took, measured = _FIRST, see(_WARM, _FIRST), _FIRST - _WARM
        began(len(places), took / measured * max(len(places) - done, 0))
        for start in range(done, len(order), _STEP):
            see(start, start + _STEP)
            advanced(min(start + _STEP, len(order)))
    return [seen for seen in found if seen is not None]


def _numbers(split: Split | None) -> range:
    return range(0 if split is None else len(split))


def _look_at(name: str, split: Split, number: int) -> Seen:
    called = split.name_of(number)
    seen = Seen(name, number, called if split.paths is not None else f"{name} {called}", int(split.labels[number]))
    try:
        image = split.open(number)
    except KdError as error:
        seen.bad = _why(str(error), split, number)
        return seen
    seen.size = image.size
    seen.digest, seen.hash, seen.thumbnail = pixel_digest(image), difference_hash(image), thumbnail(image)
    seen.converted = _converted(split, number)
    return seen


def _why(error: str, split: Split, number: int) -> str:
    """The reason alone: the list that it stands in names the image, and what to do."""
    called = split.name_of(number)
    why = error.removesuffix(ADVICE).removeprefix(f"cannot read {called}: ").removeprefix(f"{called}: ")
    inner = why.removeprefix("not a readable image (")
    return why if inner == why else inner.removesuffix(")")


def _converted(split: Split, number: int) -> tuple[str, ...]:
    """What the header says that reading will change. The image has been read, so its header is sound."""
    if split.paths is not None:
        with Image.open(split.paths[number]) as file:
            return _changes(file)
    return () if split.items is None else _changes(split.items[number])


def _changes(image: Image.Image) -> tuple[str, ...]:
    found = ["16-bit"] if image.mode.startswith(("I", "F")) else [_MODES[image.mode]] if image.mode in _MODES else []
    if "transparency" in image.info and "alpha" not in found:
        found.append("alpha")
    try:
        if image.getexif().get(_ORIENTATION, 1) in range(2, 9):
            found.append("turned by EXIF")
    except Exception:  # EXIF data that Pillow cannot read turns nothing
        pass
    if getattr(image, "is_animated", False):
        found.append("first frame only")
    return tuple(found)

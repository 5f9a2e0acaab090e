"""Every image opened once before training, so that bad ones can be left out of their split, and named."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import torch

from kdcore.data.labels import check_classes
from kdcore.data.opening import ADVICE
from kdcore.data.splits import Data, Split
from kdcore.errors import DataError, KdError

_NAMED = 3


def unreadable(split: Split) -> dict[int, str]:
    """Numbers of the images that cannot be opened and decoded, ascending, each with one line: `path: why`. Arrays have none."""
    if split.images is not None:
        return {}

    def why(number: int) -> str | None:
        try:
            split.open(number)
        except KdError as error:
            return str(error).removesuffix(ADVICE)
        return None

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # Pillow decodes outside of Python's lock
        return {number: line for number, line in enumerate(pool.map(why, range(len(split)))) if line is not None}


def without_bad_images(data: Data) -> Data:
    """The data without the images that cannot be read, which `bad` names. Raises `DataError` where a class is left without training images."""
    found = {name: unreadable(split) for name in ("train", "dev", "test") if (split := getattr(data, name)) is not None}
    bad = [line for split in found.values() for line in split.values()]
    if not bad:
        return data
    total = sum(len(getattr(data, name)) for name in found)
    kept: dict[str, Any] = {}
    for name, numbers in found.items():
        split = getattr(data, name)
        good = torch.tensor([number for number in range(len(split)) if number not in numbers], dtype=torch.int64)
        kept[name] = split.take(good) if len(good) else None
    some = "; ".join(bad[:_NAMED]) + ("; ..." if len(bad) > _NAMED else "")
    if kept["train"] is None:
        raise DataError(f"{data.name}: none of the training images can be read ({some})")
    notes = [*data.notes, f"{len(bad)} of {total} images cannot be read and {'is' if len(bad) == 1 else 'are'} left out: {some}"]
    try:
        return check_classes(replace(data, **kept, notes=notes, bad=bad))
    except DataError as error:
        raise DataError(f"{error}: {len(bad)} images that cannot be read were left out ({some})") from None

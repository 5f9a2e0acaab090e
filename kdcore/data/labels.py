"""Labels as a column has them - names, or whole numbers - as class numbers and class names."""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch

from kdcore.data.splits import Data, Split
from kdcore.errors import DataError

_WHOLE = re.compile(r"[+-]?\d+(\.0*)?")


def numbered(values: Sequence[Any], where: Callable[[int], str]) -> tuple[list[int], list[str]]:
    """Class numbers from 0 on, and the classes' names: names sorted, or whole numbers in their order, written in decimals.

    `where(i)` names the i-th value in an error: a missing or a negative label, or a number that is not whole, is refused.
    """
    texts = []
    for i, value in enumerate(values):
        missing = value is None or (isinstance(value, float) and math.isnan(value))
        text = "" if missing else str(value).strip()
        if not text:
            raise DataError(f"{where(i)}: the label is missing; fill it in, or take the row out")
        texts.append(text)
    if all(_WHOLE.fullmatch(text) for text in texts):
        numbers = [int(text.split(".")[0]) for text in texts]
        for i, number in enumerate(numbers):
            if number < 0:
                raise DataError(f"{where(i)}: the label is {number}; labels are names, or whole numbers from 0 on")
        names = [str(number) for number in sorted(set(numbers))]
        place = {int(name): k for k, name in enumerate(names)}
        return [place[number] for number in numbers], names
    for i, value in enumerate(values):
        if isinstance(value, float) and not value.is_integer():
            raise DataError(f"{where(i)}: the label is {value}; labels are names, or whole numbers from 0 on")
    names = sorted(set(texts))
    order = {name: k for k, name in enumerate(names)}
    return [order[text] for text in texts], names


def check_classes(data: Data, where: object = None) -> Data:
    """The data as it is; `where` is what an error calls it.

    Raises `DataError` for fewer than two classes, and for a class without a training image, with an example of it from another split.
    """
    if data.num_classes < 2:
        raise DataError(f"{where or data.name}: there is one class only ('{data.class_names[0]}'); classification needs at least two")
    sizes = torch.bincount(data.train.labels, minlength=data.num_classes).tolist()
    for k, name in enumerate(data.class_names):
        if not sizes[k]:
            there = next((found for found in (_first(data, split, k) for split in ("test", "dev")) if found), "")
            raise DataError(f"{where or data.name}: class '{name}' has no training image{there}; add some, or take the class out")
    return data


def _first(data: Data, split: str, label: int) -> str:
    chosen: Split | None = getattr(data, split)
    found = [] if chosen is None else (chosen.labels == label).nonzero()[:, 0].tolist()
    return f", but {len(found)} in {split} ({chosen.name_of(found[0])})" if chosen is not None and found else ""

"""From the parts of a named data set to `Data`: which splits are wanted, what its labels and classes are."""

from dataclasses import dataclass
from typing import Any

import torch

from kdcore.data.folders import common_size
from kdcore.data.labels import check_classes, numbered
from kdcore.data.splits import Data, Pictures, Split
from kdcore.data.stores import arrays_or_none
from kdcore.errors import DataError, KdError, nearest

SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "val": "dev",
    "valid": "dev",
    "validation": "dev",
    "dev": "dev",
    "test": "test",
    "testing": "test",
}


@dataclass
class Part:
    """One split of a set: labels as the set has them, the classes' names where it has some, and pictures in one of three forms."""

    labels: list[Any]
    class_names: list[str] | None = None
    images: torch.Tensor | None = None
    paths: list[str] | None = None
    items: Pictures | None = None
    groups: list[str] | None = None


@dataclass(frozen=True)
class Wanted:
    """What a user asks of a named set or a table: where it lies, its splits, its columns."""

    spec: str
    data_dir: str | None = None
    download: bool = False
    train_split: str | None = None
    val_split: str | None = None
    test_split: str | None = None
    input_key: str | None = None
    target_key: str | None = None
    group_by: str | None = None

    def splits(self, own: dict[str, Any], known: list[str] | None = None) -> dict[str, Any]:
        """The set's own splits for train, dev and test, with those that were asked for by name in their place.

        No split serves twice: one that was asked for leaves its own place empty, and a split for training that was named takes the set's own
        dev split with it, since one may hold the other. `known`: the names of all splits, None if any name will do. Raises `KdError` for a
        name that is not known, and for one that was asked for twice.
        """
        flags = {"train": self.train_split, "dev": self.val_split, "test": self.test_split}
        asked = {part: own.get(name, name) for part, name in flags.items() if name is not None}
        for name in flags.values():
            if name is not None and known is not None and name not in known:
                raise KdError(f"{self.spec} has no split '{name}'{nearest(name, known)}")
        if len(set(asked.values())) < len(asked):
            raise KdError(f"{self.spec}: --train-split, --val-split and --test-split name one split twice; name different ones")
        left = {part: split for part, split in own.items() if split not in asked.values() and not (part == "dev" and "train" in asked)}
        return left | asked

    def splits_of(self, names: list[str]) -> dict[str, str]:
        """Which of a set's splits, by their names, are train, dev and test. Raises `KdError` where there is no train split."""
        own: dict[str, str] = {}
        for name in names:
            if part := SPLIT_WORDS.get(name.lower()):
                own.setdefault(part, name)
        chosen = self.splits(own, names)
        if "train" not in chosen:
            raise KdError(f"{self.spec} has no split 'train' (there is: {', '.join(names) or 'none'}); name one with --train-split")
        return chosen


def assemble(spec: str, parts: dict[str, Part], notes: list[str]) -> Data:
    """The data of a named set. Small pictures of one size become arrays. Raises `DataError` for labels that are missing or negative."""
    for where, part in list(parts.items()):
        if where != "train" and part.labels and all(label in (None, -1) for label in part.labels):
            del parts[where]  # a hub's way to keep the labels of a contest's test split
            notes = [*notes, f"the {where} split has no labels and is left out"]
    names = next((_unique(part.class_names) for part in parts.values() if part.class_names), None)
    if names is not None and all(isinstance(label, int) for part in parts.values() for label in part.labels):
        for where, part in parts.items():
            for number, label in enumerate(part.labels):
                if not 0 <= label < len(names):
                    raise DataError(f"{spec}, {where}, item {number}: the label is {label}; labels go from 0 to {len(names) - 1}")
    else:
        places = [(where, number) for where, part in parts.items() for number in range(len(part.labels))]
        everything = [label for part in parts.values() for label in part.labels]
        found, names = numbered(everything, lambda i: f"{spec}, {places[i][0]}, item {places[i][1]}")
        for part in parts.values():
            part.labels, found = found[: len(part.labels)], found[len(part.labels) :]
    stores = [part.items for part in parts.values() if part.items is not None]
    if stores and len(stores) == len(parts) and all(map(len, stores)) and (arrays := arrays_or_none(stores)) is not None:
        for part, images in zip(parts.values(), arrays, strict=True):
            part.images, part.items = images, None
    splits = {
        where: Split(
            torch.tensor(part.labels, dtype=torch.int64), images=part.images, paths=part.paths, items=part.items, groups=part.groups
        )
        for where, part in parts.items()
        if len(part.labels)
    }
    if "train" not in splits:
        raise DataError(f"{spec}: the split to train on holds no image")
    train = splits["train"]
    size: tuple[int, int] | None = common_size(train.paths)
    if train.images is not None:
        size = (train.images.shape[2], train.images.shape[3])
    channels = 3 if train.images is None else train.images.shape[1]
    if "test" not in splits:
        notes = [*notes, "no test split in the data, and none is made up: results are on dev only"]
    data = Data(spec, names, channels, size, train, dev=splits.get("dev"), test=splits.get("test"), notes=notes)
    return check_classes(data)


def _unique(names: list[str]) -> list[str]:
    """ImageNet has two classes called crane: their numbers are added."""
    return [f"{name} ({k})" if names.count(name) > 1 else name for k, name in enumerate(names)]

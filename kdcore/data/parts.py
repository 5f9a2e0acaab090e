"""From the parts of a named data set to `Data`: which splits are wanted, what its labels and classes are."""

from dataclasses import dataclass, replace
from typing import Any

import torch

from kdcore.data.folders import common_size
from kdcore.data.labels import check_classes, numbered
from kdcore.data.splits import Data, Pictures, Split
from kdcore.data.stores import arrays_or_none
from kdcore.data.tables import SPLIT_WORDS
from kdcore.errors import DataError, KdError, nearest


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
    """What a user asks of a named set: where it lies, its splits, its columns."""

    spec: str
    data_dir: str | None = None
    download: bool = False
    train_split: str | None = None
    val_split: str | None = None
    test_split: str | None = None
    input_key: str | None = None
    target_key: str | None = None
    group_by: str | None = None

    def splits(self, own: dict[str, Any], *, any_name: bool = False) -> dict[str, Any]:
        """The set's own splits for train, dev and test, with those that were asked for by name in their place.

        A split for training that was named takes the set's own dev split with it: one may hold the other. `any_name`: names that are not
        among the set's own are passed on. Raises `KdError` for others, and for one split in two places.
        """
        asked = {
            flag: name
            for flag, name in {"train": self.train_split, "dev": self.val_split, "test": self.test_split}.items()
            if name is not None
        }
        chosen = dict(own)
        if "train" in asked and "dev" not in asked:
            chosen.pop("dev", None)
        for part, name in asked.items():
            if name in own:
                chosen[part] = own[name]
            elif name in own.values() or any_name:
                chosen[part] = name
            else:
                raise KdError(f"{self.spec} has no split '{name}'{nearest(name, [str(each) for each in own])}")
        for part, split in chosen.items():
            other = next((each for each in chosen if each != part and chosen[each] == split), None)
            if other:
                raise KdError(
                    f"{self.spec}: the split '{split}' would serve as {other} and as {part}; name others with --train-split, --val-split, --test-split"
                )
        return chosen

    def splits_of(self, names: list[str]) -> dict[str, str]:
        """Which of a set's splits, by their names, are train, dev and test. Raises `KdError` where there is no train split."""
        own: dict[str, str] = {}
        for name in names:
            if part := SPLIT_WORDS.get(name.lower()):
                own.setdefault(part, name)
        chosen = {
            part: name for part, name in self.splits(own | {name: name for name in names}).items() if part in ("train", "dev", "test")
        }
        if "train" not in chosen:
            raise KdError(f"{self.spec} has no split 'train' (there is: {', '.join(names) or 'none'}); name one with --train-split")
        return chosen


def assemble(spec: str, parts: dict[str, Part], notes: list[str]) -> Data:
    """The data of a named set. Small pictures of one size become arrays. Raises `DataError` for labels that are missing or negative."""
    names = next((part.class_names for part in parts.values() if part.class_names), None)
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
    return replace(check_classes(data))

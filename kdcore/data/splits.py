"""What a data set is once it has been read, and the stratified selections from it: the dev split, few labels, a limit."""

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor

from kdcore.data.opening import as_rgb, open_image, reading
from kdcore.errors import DataError
from kdcore.seeds import draws, seed_of


@dataclass(frozen=True, eq=False)
class Split:
    """Labelled images in one of three forms; `labels`: int64 [N], on the CPU.

    `images`: resident, uint8 [N, C, H, W]. `paths`: N files. `items`: N pictures in some other store: `items[i]` opens the i-th as a PIL
    image, and survives pickling, since workers open it too. `groups`: N names; samples of one group never stand on both sides of a split.
    """

    labels: Tensor
    images: Tensor | None = None
    paths: list[str] | None = None
    items: "Pictures | None" = None
    groups: list[str] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: Tensor) -> "Split":
        """The samples with these numbers (int64 [M]), in this order."""
        numbers = index.tolist()
        return Split(
            self.labels[index],
            images=None if self.images is None else self.images[index],
            paths=None if self.paths is None else [self.paths[i] for i in numbers],
            items=None if self.items is None else Chosen(self.items, numbers),
            groups=None if self.groups is None else [self.groups[i] for i in numbers],
        )

    def open(self, number: int) -> Image.Image:
        """The picture with this number as RGB, upright. Raises `DataError` that names it if it cannot be read."""
        if self.paths is not None:
            return open_image(self.paths[number])
        if self.items is not None:
            with reading(partial(self.name_of, number)):
                return as_rgb(self.items[number])
        assert self.images is not None
        pixels = self.images[number].permute(1, 2, 0).numpy()
        return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).convert("RGB")

    def name_of(self, number: int) -> str:
        """What a user calls the picture with this number: its path, its name in the store, or `image 17`."""
        if self.paths is not None:
            return self.paths[number]
        name_of = getattr(self.items, "name_of", None)
        return name_of(number) if name_of else f"{'image' if self.items is None else 'item'} {number}"


class Pictures(Protocol):
    """Images in some store, opened one by one."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> Image.Image: ...


class Chosen:
    """Some of a store's pictures, by their numbers in it. A choice of a choice is one choice."""

    def __init__(self, items: Pictures, numbers: list[int]) -> None:
        self.items: Pictures = items.items if isinstance(items, Chosen) else items
        self.numbers: list[int] = [items.numbers[i] for i in numbers] if isinstance(items, Chosen) else numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, number: int) -> Image.Image:
        return self.items[self.numbers[number]]

    def name_of(self, number: int) -> str:
        """The picture's name in the store: its number there, where the store has no names."""
        number = self.numbers[number]
        name_of = getattr(self.items, "name_of", None)
        return name_of(number) if name_of else f"item {number}"


@dataclass(frozen=True, eq=False)
class Data:
    """A classification data set. `image_size` is (height, width), None where it varies; `notes` are lines that a user should see.

    `bad`: images that could not be read and were left out (`path: why`), where that was asked for.
    """

    name: str
    class_names: list[str]
    in_chans: int
    image_size: tuple[int, int] | None
    train: Split
    dev: Split | None = None
    test: Split | None = None
    notes: list[str] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


def select(data: Data, *, seed: int, dev_fraction: float, labels_per_class: int | None, train_limit: int | None) -> Data:
    """Hold out a dev split where the data brings none, then keep the training images that were asked for.

    The dev split depends on (seed, dev_fraction) only, and holds whole groups where there are groups. Selections are nested: 10 labels a
    class are among the 30 of the same seed.
    """
    train, dev, notes = data.train, data.dev, list(data.notes)
    single = [data.class_names[k] for k, size in enumerate(torch.bincount(train.labels).tolist()) if size == 1]
    if dev is None and dev_fraction > 0:
        chosen = _held_out(train, dev_fraction, seed_of(seed, "dev"))
        if len(chosen):
            how = "stratified" if train.groups is None else f"stratified, in {len({train.groups[i] for i in chosen.tolist()})} whole groups"
            notes.append(f"dev: {len(chosen)} of {len(train)} training images held out, {how}")
            kept = torch.ones(len(train), dtype=torch.bool)
            kept[chosen] = False
            train, dev = train.take(kept.nonzero()[:, 0]), train.take(chosen)
        elif len(single) == data.num_classes:
            notes.append("no dev split: every class has a single training image")
        else:
            notes.append("no dev split: every group holds the last training images of a class")
    if single and len(single) < data.num_classes:
        some = ", ".join(f"'{name}'" for name in single[:3]) + (", ..." if len(single) > 3 else "")
        have = "1 class has" if len(single) == 1 else f"{len(single)} classes have"
        notes.append(f"{have} a single training image, which stays in train: {some}")
    if labels_per_class is not None:
        train = train.take(_balanced(data, train.labels, labels_per_class, seed_of(seed, "train")))
        notes.append(f"train: {labels_per_class} images a class kept, {len(train)} in all")
    if train_limit is not None and train_limit < len(train):
        if train_limit < data.num_classes:
            raise DataError(f"{data.name}: {train_limit} training images cannot cover {data.num_classes} classes; allow at least that many")
        notes.append(f"train: {train_limit} of {len(train)} images kept, stratified")
        train = train.take(stratified(train.labels, train_limit, seed=seed_of(seed, "train"), at_least=1))
    return replace(data, train=train, dev=dev, notes=notes)


def _held_out(train: Split, share: float, seed: int) -> Tensor:
    if train.groups is None:
        return stratified(train.labels, max(1, round(share * len(train))), seed=seed, leave=1)
    from kdcore.data.groups import whole_groups  # which imports this file

    return whole_groups(train.labels, train.groups, share, seed=seed)


def stratified(labels: Tensor, count: int, *, seed: int, at_least: int = 0, leave: int = 0) -> Tensor:
    """Numbers of `count` samples, ascending, in the classes' proportions; `leave` of each class stay behind (so there may be fewer)."""
    return first_of_each(labels, torch.tensor(_apportion(torch.bincount(labels).tolist(), count, at_least, leave)), seed)


def first_of_each(labels: Tensor, quota: Tensor, seed: int) -> Tensor:
    """Numbers, ascending, of the first `quota` (int64 [K]) samples of each class (int64 [N]) in an order that the seed draws."""
    shuffled = draws(seed, torch.arange(len(labels)), 1)[:, 0].argsort(stable=True)
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    classes, sizes = labels[by_class], torch.bincount(labels)
    place = torch.arange(len(labels)) - (sizes.cumsum(0) - sizes)[classes]
    return by_class[place < quota[classes]].sort().values


def _balanced(data: Data, labels: Tensor, count: int, seed: int) -> Tensor:
    sizes = torch.bincount(labels, minlength=data.num_classes)
    if int(sizes.min()) < count:
        name = data.class_names[int(sizes.argmin())]
        raise DataError(
            f"{data.name}: class '{name}' has {int(sizes.min())} training images, fewer than the {count} labels a class; ask for fewer"
        )
    return first_of_each(labels, torch.full_like(sizes, count), seed)


def _apportion(sizes: list[int], count: int, at_least: int, leave: int) -> list[int]:
    """`count` shared out by largest remainder, in whole numbers, with `at_least` and at most `size - leave` for each class."""
    total, classes = sum(sizes), range(len(sizes))
    most = [max(size - leave, 0) for size in sizes]
    quota = [min(max(count * size // total, at_least), room) for size, room in zip(sizes, most, strict=True)]

    def owed(k: int) -> int:
        return count * sizes[k] - quota[k] * total

    while sum(quota) < min(count, sum(most)):
        quota[max((k for k in classes if quota[k] < most[k]), key=owed)] += 1
    while sum(quota) > count and any(quota[k] > at_least for k in classes):
        quota[min((k for k in classes if quota[k] > at_least), key=owed)] -= 1
    return quota

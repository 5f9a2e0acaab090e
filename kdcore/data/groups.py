"""Groups: images that belong together (a burst, a patient, the frames of a video) stay on one side of every split."""

import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from kdcore.data.splits import Data, Split
from kdcore.errors import DataError, KdError
from kdcore.seeds import draws

_SPLITS = ("train", "dev", "test")


def group_by_pattern(data: Data, pattern: str, root: str | None, columns: Callable[[], str]) -> Data:
    """The data with groups named by a regular expression, searched in each image's path relative to `root` (with /, on every system).

    The first capturing group names the group, or the whole match where the expression has none. An image that does not match is a group of
    its own. `columns()`: what an error says of the columns that the data has. Raises `KdError` for an expression that does not compile,
    `DataError` where there are no paths or nothing matches.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise KdError(f"--group-by '{pattern}' is no regular expression ({error}); {columns()}") from None
    groups, alone, example = {}, 0, ""
    for name in _SPLITS:
        split: Split | None = getattr(data, name)
        if split is None:
            continue
        if split.images is not None:
            raise DataError(f"--group-by '{pattern}': {data.name} holds arrays, without paths or columns; groups need photos or a table")
        names = [_relative(split.name_of(number), root) for number in range(len(split))]
        found = [_group(compiled.search(path)) for path in names]
        alone += found.count(None)
        example = example or names[0]
        groups[name] = [path if group is None else group for path, group in zip(names, found, strict=True)]
    total = sum(map(len, groups.values()))
    if alone == total:
        raise DataError(f"--group-by '{pattern}' matches none of {total} paths, the first of which is '{example}'; {columns()}")
    notes = [f"groups: {alone} of {total} paths do not match '{pattern}'; each of these images is a group of its own"] if alone else []
    changed = {name: replace(getattr(data, name), groups=names) for name, names in groups.items()}
    return replace(data, **changed, notes=[*data.notes, *notes])


def _group(match: re.Match | None) -> str | None:
    if match is None:
        return None
    return match[1] if match.re.groups and match[1] is not None else match[0]


def _relative(path: str, root: str | None) -> str:
    inside = root is not None and os.path.abspath(path).startswith(os.path.join(os.path.abspath(root), ""))
    return (os.path.relpath(path, root) if inside else path).replace(os.sep, "/")


def check_groups(data: Data) -> Data:
    """The data with a note of how many groups there are. Raises `DataError` for a group that stands in two of the given splits."""
    seen: dict[str, tuple[str, str]] = {}
    images = 0
    for name in _SPLITS:
        split: Split | None = getattr(data, name)
        for number, group in enumerate((split.groups if split else None) or []):
            images += 1
            where, first = seen.setdefault(group, (name, split.name_of(number) if split else ""))
            if where != name and split is not None:
                raise DataError(
                    f"group '{group}' is in {where} ({first}) and in {name} ({split.name_of(number)}); "
                    "move its images into one of the splits, or let the data be split anew"
                )
    if not images:
        return data
    if len(seen) == 1:
        raise DataError(f"{data.name}: all {images} images are one group ('{next(iter(seen))}'); give a --group-by that tells groups apart")
    return replace(data, notes=[*data.notes, f"groups: {images} images in {len(seen)} groups, none on two sides of a split"])


def whole_groups(labels: Tensor, groups: Sequence[str], share: float, *, seed: int) -> Tensor:
    """Numbers, ascending, of the samples of some whole groups: about `share` of all and of each class, with a sample of each class left.

    Groups are gone through in an order that the seed draws, and one is taken if that brings the classes' counts nearer to their share. What
    is refused once would be refused again: every group taken makes the next one less welcome. Where classes are so small that half an
    image is their share, this takes too few: those that disturb the classes least fill up what is missing. If all groups are too large,
    the one that comes nearest is taken; none where every group holds the last of a class.
    """
    names = sorted(set(groups))
    place, classes = {name: k for k, name in enumerate(names)}, labels.tolist()
    members = [place[group] for group in groups]
    sizes = [Counter[int]() for _ in names]
    for k, label in zip(members, classes, strict=True):
        sizes[k][label] += 1
    have, taken, chosen = Counter(classes), Counter[int](), set[int]()

    def disturbs(k: int) -> float:
        """The change of the sum over classes of (taken - wanted)^2 / wanted if the group is taken, wanted being the class's share."""
        return sum(n * (2 * (taken[label] - share * have[label]) + n) / (share * have[label]) for label, n in sizes[k].items())

    def fits(k: int) -> bool:
        return all(taken[label] + n < have[label] for label, n in sizes[k].items())  # one sample of each class stays

    def take(k: int) -> None:
        chosen.add(k)
        taken.update(sizes[k])

    possible = [k for k in draws(seed, torch.arange(len(names)), 1)[:, 0].argsort(stable=True).tolist() if fits(k)]
    for k in possible:
        if fits(k) and disturbs(k) < 0:
            take(k)
    for k in sorted((k for k in possible if k not in chosen), key=disturbs):
        if fits(k) and taken.total() + sizes[k].total() <= share * len(groups):
            take(k)
    if not chosen and possible:
        take(min(possible, key=disturbs))
    return torch.tensor([k in chosen for k in members]).nonzero()[:, 0]

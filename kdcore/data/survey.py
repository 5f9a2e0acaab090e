"""What `kd train` would see in a data set: counts, sizes, what will be converted, images that cannot be read, duplicates, and leaks."""

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice

import numpy as np

from kdcore.data.duplicates import identical, near_pairs
from kdcore.data.looking import Seen, look
from kdcore.data.splits import Data, Split, select

SIDES = ("train", "dev", "test")
NEAR_AMONG = 150_000
_MOST_PAIRS = 100_000
_IMBALANCED = 3.0


@dataclass(frozen=True)
class Twins:
    """Images that are the same, or that nearly are; `bits`: in how many of 256 their hashes differ, None where all pixels are the same."""

    images: tuple[Seen, ...]
    sides: tuple[str, ...]
    bits: int | None

    @property
    def across(self) -> tuple[str, ...]:
        """The splits that they straddle, in the order train, dev, test; empty where they stand in one."""
        sides = tuple(side for side in SIDES if side in self.sides)
        return sides if len(sides) > 1 else ()

    @property
    def contradict(self) -> bool:
        return len({seen.label for seen in self.images}) > 1


@dataclass(frozen=True)
class Survey:
    """A data set that was looked at. `held_out`: numbers of the training images that `kd train` would keep back as dev, where there is no val.

    `searched_near`: whether near-duplicates were searched, which takes too long for more than 150,000 images. `twins`: those across splits
    first, then those whose labels differ.
    """

    data: Data
    seen: list[Seen]
    held_out: frozenset[int]
    twins: list[Twins]
    searched_near: bool
    notes: list[str] = field(default_factory=list)

    def side(self, seen: Seen) -> str:
        """train, dev or test, as training would have it."""
        return "dev" if seen.split == "train" and seen.number in self.held_out else seen.split

    @cached_property
    def counts(self) -> dict[str, list[int]]:
        """Images of each class, by side; sides that do not exist are left out."""
        counted = Counter((self.side(seen), seen.label) for seen in self.seen)
        there = {side for side, _ in counted}
        return {side: [counted[side, k] for k in range(self.data.num_classes)] for side in SIDES if side in there}

    @cached_property
    def bad(self) -> list[Seen]:
        return [seen for seen in self.seen if seen.bad is not None]

    @cached_property
    def converted(self) -> dict[str, int]:
        """How many images reading changes, by what it changes; the most frequent first."""
        return dict(Counter(kind for seen in self.seen for kind in seen.converted).most_common())

    @cached_property
    def sizes(self) -> dict[str, dict[str, float]]:
        """Smallest, median and largest width, height (pixels, upright) and width over height; empty where nothing can be read."""
        sizes = np.array([seen.size for seen in self.seen if seen.size is not None], dtype=float).reshape(-1, 2)
        if not len(sizes):
            return {}
        measured = {"width": sizes[:, 0], "height": sizes[:, 1], "aspect": sizes[:, 0] / sizes[:, 1]}
        return {
            name: {"min": round(float(v.min()), 2), "median": round(float(np.median(v)), 2), "max": round(float(v.max()), 2)}
            for name, v in measured.items()
        }

    @cached_property
    def per_class(self) -> list[int]:
        """Training images of each class, those that would be held out included."""
        counted = Counter(seen.label for seen in self.seen if seen.split == "train")
        return [counted[k] for k in range(self.data.num_classes)]

    @property
    def imbalance(self) -> float:
        """Images of the largest class over images of the smallest, in the training set."""
        return max(self.per_class) / max(min(self.per_class), 1)

    @property
    def imbalanced(self) -> bool:
        """Worth a word, and `--sampler balanced` or `--class-weights balanced`."""
        return self.imbalance >= _IMBALANCED

    @cached_property
    def sets(self) -> list[Twins]:
        """The twins with those that are nearly the same joined into sets, since a burst of ten photos is 45 pairs; `bits` of the worst pair."""
        return joined(self.twins)

    def shared(self, ones: tuple[str, ...], other: str) -> tuple[int, int]:
        """Images of the side `other` that have a twin on one of the sides `ones`: all of them, and those with the same pixels."""
        found: dict[bool, set[tuple[str, int]]] = {True: set(), False: set()}
        for twins in self.twins:
            here = [seen for seen, side in zip(twins.images, twins.sides, strict=True) if side == other]
            there = sum(side in ones for side in twins.sides)
            if here and there > (other in ones):
                found[twins.bits is None] |= {(seen.split, seen.number) for seen in here}
        return len(found[True] | found[False]), len(found[True])


def survey(
    data: Data,
    *,
    seed: int = 0,
    dev_fraction: float = 0.1,
    began: Callable[[int, float], None] = lambda count, seconds: None,
    advanced: Callable[[int], None] = lambda count: None,
    comparing: Callable[[int], None] = lambda count: None,
) -> Survey:
    """Look at every image of `data`, loaded with `dev_fraction=0`: the hold-out of (seed, dev_fraction) is worked out here, so that it can be told
    from a val split. `began`, `advanced`: as in `look`; `comparing(count)`: the search for duplicates begins.
    """
    held_out, notes = _hold_out(data, seed, dev_fraction)
    seen = look(data, began=began, advanced=advanced)
    comparing(len(seen))
    whole = Survey(data, seen, held_out, [], len(seen) <= NEAR_AMONG, notes)
    return replace(whole, twins=_twins(whole))


def _hold_out(data: Data, seed: int, dev_fraction: float) -> tuple[frozenset[int], list[str]]:
    """Numbers of the training images that `select` would hold out: it is given numbers in place of the images."""
    train = data.train
    numbered = Split(train.labels, paths=[str(number) for number in range(len(train))], groups=train.groups)
    chosen = select(replace(data, train=numbered), seed=seed, dev_fraction=dev_fraction, labels_per_class=None, train_limit=None)
    dev = chosen.dev if data.dev is None else None
    return frozenset(map(int, dev.paths or [])) if dev else frozenset(), list(dict.fromkeys(chosen.notes))


def _twins(whole: Survey) -> list[Twins]:
    good = [seen for seen in whole.seen if seen.bad is None]
    sides = [whole.side(seen) for seen in good]

    def twins(numbers: list[int], bits: int | None) -> Twins:
        return Twins(tuple(good[n] for n in numbers), tuple(sides[n] for n in numbers), bits)

    found = [twins(numbers, None) for numbers in identical([seen.digest for seen in good])]
    if whole.searched_near and good:
        once = list({(seen.digest, side): n for n, (seen, side) in enumerate(zip(good, sides, strict=True))}.values())
        pairs = near_pairs(np.stack([good[n].hash for n in once]), np.stack([good[n].thumbnail for n in once]))
        nearly = (twins([once[i], once[j]], bits) for i, j, bits in pairs if good[once[i]].digest != good[once[j]].digest)
        found += islice(nearly, _MOST_PAIRS)
    return sorted(found, key=_rank)


def _rank(twins: Twins) -> tuple:
    return not twins.across, not twins.contradict, twins.bits is not None, twins.bits or 0


def joined(twins: list[Twins]) -> list[Twins]:
    """Pairs that are nearly the same as the sets that they are chained to; sets of the same pixels stay as they are."""
    parent: dict[tuple[str, int], tuple[str, int]] = {}
    known: dict[tuple[str, int], tuple[Seen, str]] = {}

    def root(key: tuple[str, int]) -> tuple[str, int]:
        while parent[key] != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    near = [pair for pair in twins if pair.bits is not None]
    for pair in near:
        for seen, side in zip(pair.images, pair.sides, strict=True):
            key = (seen.split, seen.number)
            parent.setdefault(key, key)
            known[key] = (seen, side)
        one, other = (root((seen.split, seen.number)) for seen in pair.images)
        parent[other] = one
    members, bits = defaultdict(list), Counter[tuple[str, int]]()
    for key in sorted(known, key=lambda key: (SIDES.index(key[0]), key[1])):
        members[root(key)].append(known[key])
    for pair in near:
        top = root((pair.images[0].split, pair.images[0].number))
        bits[top] = max(bits[top], pair.bits or 0)
    sets = [Twins(tuple(seen for seen, _ in found), tuple(side for _, side in found), bits[top]) for top, found in members.items()]
    return sorted([*(same for same in twins if same.bits is None), *sets], key=_rank)


def shown_classes(counts: list[int], most: int = 20) -> list[int]:
    """Numbers of the classes to show: all of them in order, or the most frequent and then the rarest where there are more than `most`."""
    if len(counts) <= most:
        return list(range(len(counts)))
    by_count = sorted(range(len(counts)), key=lambda k: (-counts[k], k))
    return by_count[: most // 2] + by_count[-(most // 2) :]

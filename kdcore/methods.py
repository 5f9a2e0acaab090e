"""A method: exits, sources of soft targets, weighted losses and a schedule, put together. Imports no torch."""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from kdcore.phases import Where

Component = Any
"""A class, a function, or `functools.partial` of one with its options; or a callable that is already built.

The core builds classes and partials itself, under a random generator of their own: write `partial(CRD, dim=128)` for
whatever has weights. An instance such as `KL(temperature=3)` does as well for what has none.
"""

Weight = float | Callable[[Where], float]


@dataclass
class Term:
    """One weighted loss. `source` names the method's soft targets; without one the loss is given None.

    `exits`: "all", "shallow" (all but the deepest), "deepest", exit numbers counted from 1 (from -1 backwards, as in a list), or the name
    of a [B, K] entry of `extras`.
    """

    loss: Component
    source: str | None = None
    weight: Weight = 1.0
    exits: str | int | Sequence[int] = "all"


@dataclass
class Method:
    """What a method's function returns. `views` maps images [B, C, H, W] to [V x B, C, H, W], row i * V + v being view v of sample i."""

    terms: dict[str, Term]
    sources: dict[str, Component] = field(default_factory=dict)
    exits: Component | None = None
    teacher_exits: Component | None = None
    schedule: Component | None = None
    views: Callable | None = None


@dataclass(frozen=True)
class Linear:
    """A weight that goes straight from `start` to `end` over `epochs` (default: the whole phase), then stays."""

    start: float
    end: float
    epochs: float | None = None

    def __call__(self, where: Where) -> float:
        return self.start + (self.end - self.start) * _done(where, self.epochs)


@dataclass(frozen=True)
class Cosine:
    """A weight that goes from `start` to `end` along half a cosine."""

    start: float
    end: float
    epochs: float | None = None

    def __call__(self, where: Where) -> float:
        return self.end + (self.start - self.end) * 0.5 * (1 + math.cos(math.pi * _done(where, self.epochs)))


@dataclass(frozen=True)
class Sigmoid:
    """The ramp exp(-5 (1 - t)^2) of Laine & Aila (arXiv:1610.02242), as ONE and FFL use it over their first 80 epochs."""

    end: float = 1.0
    epochs: float | None = None

    def __call__(self, where: Where) -> float:
        return self.end * math.exp(-5.0 * (1.0 - _done(where, self.epochs)) ** 2)


@dataclass(frozen=True)
class Taught:
    """A weight in phases with a teacher, and `alone` in those without one, where the labels are all that there is."""

    weight: float
    alone: float = 1.0
    settled = True

    def __call__(self, where: Where) -> float:
        return self.weight if where.has_teacher else self.alone


def settle(weight: Weight, where: Callable[[], Where]) -> Weight:
    """The weight as a phase begins: a number where it says `settled = True`, which promises that it does not move within a phase.

    A step then multiplies by a Python float, and by nothing where that is 1, which costs less than a tensor.
    """
    return weight(where()) if callable(weight) and getattr(weight, "settled", False) else weight


def _done(where: Where, epochs: float | None) -> float:
    return where.progress if epochs is None else min(where.epoch, epochs) / epochs


NEEDS = ("teacher", "able_teacher", "index", "views", "hard_labels", "maps")
_EXITS = re.compile(r"exits>=(\d+)")


def needs(*what: str):
    """Declares what a function component needs; a class says `needs = ("teacher", "exits>=2")`.

    teacher, able_teacher (a given one is right more often than guessing would be), index (sample numbers), views (it takes the rows of
    every view, not only of view 0), hard_labels, maps, exits>=n.
    """

    def declare(fn):
        fn.needs = what
        return fn

    return declare


def sees(*fields: str):
    """Declares what of a step a function component reads (a class says `sees = ("logits",)`): fields of `Outputs`, and `clock` for
    `step.epoch` and `step.progress`. Without it, it may read all.

    What no component of a phase reads is not made: a plain network is then called as it is, without its maps.
    """

    def declare(fn):
        fn.sees = fields
        return fn

    return declare


def hands_on(source: Component) -> bool:
    """Whether a source computes nothing and only hands on what networks answered, as its `computes = False` says: it needs no `no_grad`."""
    return not getattr(getattr(source, "func", source), "computes", True)


def seen_by(components: Iterable[Component]) -> set[str]:
    """What these components together may read of a step."""
    everything = ("logits", "embeddings", "maps", "extras", "clock")
    answers = (getattr(getattr(component, "func", component), "sees", everything) for component in components)
    return {field for fields in answers for field in _named(everything if isinstance(fields, property) else fields)}


def declared(component: Component) -> tuple[str, ...]:
    """What a component, or the class or function that a partial holds, declares that it needs.

    Needs that depend on an option (a property) are known once the component is built.
    """
    target = getattr(component, "func", component)
    what = getattr(target, "needs", ())
    if isinstance(what, property):
        return ()
    return _named(what)


def reads_of(loss: Component) -> tuple[str, ...]:
    """The fields of the soft targets that a loss, or the function that a partial holds, can use; none where it does not say."""
    return _named(getattr(getattr(loss, "func", loss), "reads", ()))


def _named(what: str | Iterable[str]) -> tuple[str, ...]:
    """A declaration as a tuple: one name may be written as it is."""
    return (what,) if isinstance(what, str) else tuple(what)


def unknown_needs(what: Iterable[str]) -> list[str]:
    return [need for need in what if need not in NEEDS and not _EXITS.fullmatch(need)]


def least_exits(what: Iterable[str]) -> int:
    return max((int(m[1]) for m in map(_EXITS.fullmatch, what) if m), default=1)


def exit_indices(exits: str | int | Sequence[int], count: int) -> list[int] | None:
    """List positions, from 0 and shallow to deep, of the exits that a selection means among `count`; None where it names an entry of `extras`.

    Raises ValueError for a number that is no exit, and for an exit that is named twice.
    """
    if exits == "all":
        return list(range(count))
    if exits == "shallow":
        return list(range(count - 1))
    if exits == "deepest":
        return [count - 1]
    if isinstance(exits, str):
        return None
    chosen = [exits] if isinstance(exits, int) else list(exits)
    for number in chosen:
        if not 1 <= abs(number) <= count:
            raise ValueError(f"there is no exit {number}: exits are numbered 1 (shallowest) to {count} (the backbone's own head)")
    positions = sorted(number - 1 if number > 0 else count + number for number in chosen)
    if twice := [position for position, other in pairwise(positions) if position == other]:
        raise ValueError(f"exit {twice[0] + 1} is named twice (of {count}); name each exit once, or give the term another weight")
    return positions


def parse_exits(text: str) -> str | list[int]:
    """`1,3` or `-2` is exit numbers; anything else stays a word."""
    pieces = [piece.strip() for piece in text.split(",")]
    return [int(piece) for piece in pieces] if all(piece.removeprefix("-").isdigit() for piece in pieces) else text

"""The search space as it is typed: `lr=0.01..1:log`, `epochs=10..30:5`, `opt=sgd,adamw`. Imports neither torch nor optuna.

A name is a setting where `Config` has it, else an option as after `-o`. `setting.NAME` and `option.NAME` say which of the two, where a method's
option is called like a setting.
"""

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from kdcore.config import Config
from kdcore.errors import KdError
from kdcore.options import read_value

DIGITS = 4
"""Significant digits of a drawn number: what is written down can be read, and is what was trained with."""

_COMPARED = "trials are compared on one dev split, which it would change"
UNFIT = {
    **dict.fromkeys(
        (
            "data",
            "data_dir",
            "download",
            "train_split",
            "val_split",
            "input_key",
            "target_key",
            "group_by",
            "skip_bad_images",
            "dev_fraction",
        ),
        _COMPARED,
    ),
    "test_split": "no trial sees the test split",
    "test_every_epoch": "no trial sees the test split",
    "seed": "a seed is nothing to choose by its luck; --seeds 3 takes the mean over three",
    "minutes": "trials would differ in length; --timeout limits them all",
    "plugin": "name the plugins with -p, and search what uses them",
    "options": "write the option's own name, as after -o",
}
"""Settings that are not searched, and why."""

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_RANGE = re.compile(rf"({_NUMBER})\.\.({_NUMBER})((?::[^:]*)*)")
_HOW = "write NAME=LOW..HIGH[:log][:STEP] or NAME=A,B,C, e.g. lr=0.01..1:log or opt=sgd,adamw"


@dataclass(frozen=True)
class Dimension:
    """One searched name. `kind` is unknown for a range until `typed` has said whether it takes whole numbers.

    Drawn are numbers, or a choice's text; `value` makes of it what the setting or option gets.
    """

    name: str
    place: Literal["setting", "option", "open"]
    low: Decimal = Decimal(0)
    high: Decimal = Decimal(0)
    log: bool = False
    step: Decimal | None = None
    choices: tuple[str, ...] = ()
    whole: bool = False

    @property
    def key(self) -> str:
        """The setting's or option's own name."""
        return self.name.removeprefix("setting.").removeprefix("option.")

    def __str__(self) -> str:
        if self.choices:
            return f"{self.name}={','.join(self.choices)}"
        return f"{self.name}={self.low}..{self.high}" + (":log" if self.log else "") + (f":{self.step}" if self.step else "")

    def ends(self) -> list[Any]:
        """What is tried before the first trial: every choice, or both ends."""
        return list(self.choices) or [self._number(self.low), self._number(self.high)]

    def points(self) -> list[Any]:
        """Every value that a grid tries. Raises KdError for a range without a step."""
        if self.choices:
            return list(self.choices)
        step = self.step or (Decimal(1) if self.whole and not self.log else None)
        if step is None:
            raise KdError(f"--strategy grid cannot walk through --search {self}: add a step ({self.name}=LOW..HIGH:STEP), or write choices")
        return [self._number(self.low + k * step) for k in range(int((self.high - self.low) / step) + 1)]

    def value(self, drawn: Any) -> Any:
        """What the setting or option gets."""
        if self.choices:
            return self._chosen(str(drawn))
        if self.whole:
            return int(drawn)
        rounded = float(f"{drawn:.{DIGITS}g}")
        return min(max(rounded, float(self.low)), float(self.high))

    def _number(self, value: Decimal) -> int | float:
        return int(value) if self.whole else float(value)

    def _chosen(self, text: str) -> Any:
        read = read_value(text)
        if self.place != "setting":
            return read
        annotation = Config.model_fields[self.key].annotation
        if annotation == list[str]:
            return [text]
        if annotation in (str, str | None):  # `aa=none` is a word
            return text
        return None if isinstance(read, str) and read.lower() == "none" else read


def read_space(assignments: Sequence[str]) -> list[Dimension]:
    """What `--search` says, before any plugin is asked for types. Raises KdError in one line for what cannot be read."""
    if not assignments:
        raise KdError(f"there is nothing to search: add --search; {_HOW}")
    found = [_dimension(text) for text in assignments]
    keys = [dimension.key for dimension in found]
    if twice := next((key for key in keys if keys.count(key) > 1), None):
        raise KdError(f"--search names {twice} twice: write it once")
    return found


def _dimension(text: str) -> Dimension:
    written, equals, values = (piece.strip() for piece in text.partition("="))
    if not equals or not written or not values:
        raise KdError(f"--search {text}: {_HOW}")
    name, place = _place(written)
    key = name.removeprefix("setting.")
    if place == "setting" and key in UNFIT:
        raise KdError(f"--search {text}: {UNFIT[key]}")
    if found := _RANGE.fullmatch(values):
        return _range(text, name, place, *found.groups())
    pieces = _pieces(values)
    if ".." in values and len(pieces) == 1:
        raise KdError(f"--search {text}: '{values}' is no range; {_HOW}")
    if len(pieces) < 2:
        raise KdError(f"--search {text}: one value is nothing to choose from; set it ({_set(name, place, values)}), or {_HOW}")
    if twice := next((piece for piece in pieces if pieces.count(piece) > 1), None):
        raise KdError(f"--search {text}: {twice} stands there twice")
    return Dimension(name, place, choices=tuple(pieces))


def _place(written: str) -> tuple[str, Literal["setting", "option", "open"]]:
    """The name as it is kept, and what it names; `open`: a setting, unless the method has such an option too."""
    for place in ("setting", "option"):
        if written.startswith(f"{place}."):
            key = written.removeprefix(f"{place}.")
            if place == "setting":
                key = key.replace("-", "_")
                if key not in Config.model_fields:
                    raise KdError(f"--search {written}: there is no setting '{key}'")
                return f"setting.{key}", "setting"
            return written, "option"
    spelled = {"b": "batch_size"}.get(written, written.replace("-", "_"))
    if spelled in Config.model_fields:
        return spelled, "setting" if spelled in UNFIT else "open"
    return written, "option"


def _range(text: str, name: str, place: Any, low: str, high: str, rest: str) -> Dimension:
    words = [word.strip() for word in rest.split(":")[1:]]
    log, steps = "log" in words, [word for word in words if word != "log"]
    if len(words) - len(steps) > 1 or len(steps) > 1 or any(not re.fullmatch(_NUMBER, step) for step in steps):
        raise KdError(f"--search {text}: '{rest}' is neither :log nor a step; {_HOW}")
    begin, end, step = Decimal(low), Decimal(high), Decimal(steps[0]) if steps else None
    if begin >= end:
        raise KdError(f"--search {text}: {low} is not below {high}; {_HOW}")
    if log and step is not None:
        raise KdError(f"--search {text}: a logarithmic range has no step; leave out one of them")
    if log and begin <= 0:
        raise KdError(f"--search {text}: a logarithmic range begins above 0")
    if step is not None:
        if not 0 < step <= end - begin:
            raise KdError(f"--search {text}: a step of {step} does not fit between {low} and {high}")
        end = begin + step * ((end - begin) // step)
    return Dimension(name, place, low=begin, high=end, log=log, step=step)


def _pieces(values: str) -> list[str]:
    """The choices as they are typed: commas within brackets and quotes separate nothing."""
    pieces = re.findall(r"""(?:\[[^\]]*\]|"[^"]*"|'[^']*'|[^,])+""", values)
    return [piece.strip() for piece in pieces if piece.strip()]


def _set(name: str, place: str, value: str) -> str:
    return f"-o {name}={value}" if place == "option" else f"--{name.replace('_', '-')} {value}"


def takes(annotation: Any) -> set[type]:
    """Which numbers a type takes: of int and float."""
    from typing import Annotated, get_args, get_origin

    if get_origin(annotation) is Annotated:
        return takes(get_args(annotation)[0])
    if annotation in (int, float):
        return {annotation}
    if get_origin(annotation) is None or get_origin(annotation) in (list, dict, tuple, Literal):
        return set()
    return set().union(*(takes(piece) for piece in get_args(annotation)))


def typed(dimension: Dimension, annotation: Any, described: str, who: str) -> Dimension:
    """The dimension with `whole` settled by the type of its setting or option. Raises KdError where that takes no numbers, or whole ones only."""
    if dimension.choices:
        return dimension
    numbers = takes(annotation)
    if not numbers:
        raise KdError(f"--search {dimension}: {who} takes no numbers ({described}); write choices: {dimension.name}=A,B")
    if float in numbers:
        return dimension
    sizes = [dimension.low, dimension.high, *([dimension.step] if dimension.step else [])]
    if any(size != size.to_integral_value() for size in sizes):
        raise KdError(f"--search {dimension}: {who} takes whole numbers ({described})")
    as_int = [Decimal(int(size)) for size in sizes]
    return Dimension(
        dimension.name, dimension.place, as_int[0], as_int[1], dimension.log, as_int[2] if dimension.step else None, whole=True
    )


def size_of(space: Sequence[Dimension]) -> float:
    """How many points the space has; infinite where a range has no step."""
    return math.prod(len(d.points()) if d.choices or d.step or (d.whole and not d.log) else math.inf for d in space)


def grid_of(space: Sequence[Dimension]) -> list[dict[str, Any]]:
    """Every point, the last name changing fastest. Raises KdError for a range without a step."""
    names = [dimension.name for dimension in space]
    return [dict(zip(names, values, strict=True)) for values in itertools.product(*(dimension.points() for dimension in space))]


def laid_on(settings: Mapping[str, Any], space: Sequence[Dimension], drawn: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run, with what was drawn for each name."""
    found = {**settings, "options": dict(settings.get("options", {}))}
    for dimension in space:
        value = dimension.value(drawn[dimension.name])
        if dimension.place == "option":
            found["options"][dimension.key] = value
        elif dimension.key == "loss":
            found["loss"] = [*settings.get("loss", []), *value]
        elif value is None:
            found.pop(dimension.key, None)
        else:
            found[dimension.key] = value
    return found

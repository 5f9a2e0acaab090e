"""What is compared, as it is typed: `byot:preset=final:--cutout=16`, or with a name of its own `light=byot:--lr=0.01`, and the seeds. Imports no torch."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from types import NoneType
from typing import Any, get_args, get_origin

from kdcore.config import Config, read_config
from kdcore.errors import KdError, nearest
from kdcore.options import read_value

BASELINES = ("plain", "deep-supervision")
FORM = "NAME[:OPTION=VALUE]...[:--SETTING=VALUE]..."

_ELSEWHERE = {
    "seed": "--seeds says the seeds of every row",
    "model": "backbones are given with --model A,B",
    "data": "every row sees the same data: give --data once",
    "method": f"a method is named in front: {FORM}",
    "options": "options of a method stand as OPTION=VALUE",
    "plugin": "plugins are brought for all rows, with -p",
}


@dataclass(frozen=True)
class Arm:
    """A method with the options and settings that it has for itself. `text`: as it was typed, label and all."""

    text: str
    method: str
    options: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    label: str = ""

    @property
    def name(self) -> str:
        """What the table calls it."""
        return self.label or self.text


def parse_arms(texts: Iterable[str]) -> list[Arm]:
    """Arms from comma lists, each once, in order. Raises KdError for one that is not `[LABEL=]FORM`."""
    pieces = (piece for text in texts for piece in split(text, ","))
    return [labelled_arm(piece) for piece in dict.fromkeys(pieces)]


def labelled_arm(text: str) -> Arm:
    """`LABEL=ROW` or `ROW`: a label stands in front of the method, before the first colon, and is one word."""
    label, equals, begin = text.partition(":")[0].partition("=")
    if not equals:
        return parse_arm(text)
    if not label or label.startswith("-") or not begin:
        raise KdError(f"--method {text}: a label is LABEL={FORM}, e.g. light=byot:--lr=0.01")
    if re.search(r"""[\s'"|\[\](){}]""", label):
        raise KdError(f"--method {text}: a label is one word, without quotes and brackets, and not '{label}'")
    arm = parse_arm(text[len(label) + 1 :])
    if label in BASELINES or (arm.method in BASELINES and not arm.options and not arm.settings):
        name = label if label in BASELINES else arm.method
        raise KdError(f"--method {text}: {name} is the baseline that all comparisons have; it keeps its name, and no other row takes it")
    return replace(arm, text=text, label=label)


def parse_arm(text: str) -> Arm:
    """One arm. A comma or a colon within quotes or brackets belongs to the value."""
    name, *rest = split(text, ":")
    if not name or "=" in name or name.startswith("-"):
        raise KdError(f"--method {text}: write {FORM}, e.g. kd:temperature=2:--epochs=60")
    options: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    for piece in rest:
        word, equals, value = piece.partition("=")
        if word.startswith("--"):
            settings |= _setting(text, word, value if equals else None)
        elif equals and word:
            options[word] = read_value(value)
        else:
            raise KdError(f"--method {text}: '{piece}' is neither OPTION=VALUE nor --SETTING=VALUE (a colon within a value needs quotes)")
    return Arm(text, name, options, settings)


def _setting(text: str, flag: str, value: str | None) -> dict[str, Any]:
    """`--cutout=16`, `--freeze` or `--no-aug` as a setting, checked as `Config` does."""
    name, wanted = flag[2:].replace("-", "_"), True
    if name == "scratch":
        name, wanted = "pretrained", False
    elif name.startswith("no_") and name not in Config.model_fields:
        name, wanted = name[3:], False
    if name in _ELSEWHERE:
        raise KdError(f"--method {text}: {flag} cannot differ between rows; {_ELSEWHERE[name]}")
    if name not in Config.model_fields:
        raise KdError(f"--method {text}: there is no setting {flag}{nearest(name, Config.model_fields)}")
    kinds = _kinds(Config.model_fields[name].annotation)
    if value is None and bool not in kinds:
        raise KdError(f"--method {text}: {flag} needs a value: {flag}=VALUE")
    if value is not None and bool in kinds:
        raise KdError(f"--method {text}: {flag} takes no value")
    found = {name: wanted if value is None else _value(value, kinds)}
    try:
        read_config({"model": "any", "data": "digits", **found})
    except KdError as error:
        raise KdError(f"--method {text}: {error}") from None
    return found


def _value(text: str, kinds: tuple[Any, ...]) -> Any:
    """Numbers and lists as TOML; a text as it stands, without its quotes."""
    read = read_value(text)
    if any(get_origin(kind) is list for kind in kinds):
        return read if isinstance(read, list) else [read]
    return read if str not in kinds or isinstance(read, str) else text


def _kinds(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) is list or not get_args(annotation):
        return (annotation,)
    return tuple(kind for part in get_args(annotation) if part is not NoneType for kind in _kinds(part))


def split(text: str, separator: str) -> list[str]:
    """The pieces between separators that stand in no quotes and no brackets; empty ones are left out."""
    pieces, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        else:
            depth += (letter in "[{(") - (letter in ")}]")
            if letter == separator and depth <= 0:
                pieces.append("")
                continue
        pieces[-1] += letter
    return [piece.strip() for piece in pieces if piece.strip()]


def parse_seeds(seeds: int | str | Iterable[int]) -> list[int]:
    """`5` is the seeds 0 to 4; `3,7,11` those; `7,` the seed 7 alone. Raises KdError for anything else."""
    if isinstance(seeds, int):
        seeds = str(seeds)
    if isinstance(seeds, str):
        text = seeds.strip()
        if not re.fullmatch(r"\d+(\s*,\s*\d+)*\s*,?", text):
            raise KdError(f"--seeds {text}: write how many (5 is 0,1,2,3,4), or which, with commas: 3,7,11 (one alone: 7,)")
        found = list(range(int(text))) if text.isdigit() else [int(piece) for piece in text.split(",") if piece.strip()]
    else:
        found = list(seeds)
    if not found or any(seed < 0 for seed in found):
        raise KdError("--seeds: at least one seed is needed, and none below 0")
    return list(dict.fromkeys(found))

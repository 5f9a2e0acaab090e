"""Options: documented, typed, with defaults that their own types allow; bad values are refused."""

import inspect
import re
import warnings
from collections.abc import Mapping
from functools import partial
from typing import Any

import pytest

from kdcore.errors import KdError
from kdcore.hookspecs import FAMILIES
from kdcore.options import Option, check, describe_type, options_of, validate
from kdcore.plugins import Part
from kdcore.testing.base import ComponentKit, fail, refusal, said

EDGES = (0, -1)
"""Numbers at which formulas break, where an option's type allows them."""

BAD = ("no such value", -1, 0, 1e30, [object()])
"""Values of which every typed option refuses at least one: a number without bounds the words, free text the numbers."""


def readable_options(part: Part) -> dict[str, Option]:
    """The options of a part; the check goes no further where they cannot be read, and another says why."""
    try:
        return options_of(part.target)
    except KdError:
        pytest.skip("its options cannot be read: test_options_are_documented says why")


def ready(kit: type[ComponentKit]) -> Part:
    """The part, with options that can be read. Skips where test_options_are_documented fails for that."""
    try:
        part = kit.part()
    except KdError:
        pytest.skip("the component is not there: test_options_are_documented says why")
    readable_options(part)
    return part


class OptionChecks(ComponentKit):
    """For every family with options."""

    def test_options_are_documented(self) -> None:
        """The component is there, has a docstring that names every option, and every option has a type that says what it takes."""
        try:
            part = self.part()
            known = options_of(part.target)
        except KdError as error:
            fail(error)
        text = documentation(part.target)
        others = _siblings(type(self), part)
        named = set(re.findall(r"`([\w./-]+)`", text)) & set(others)  # "options as in `mine.other`"
        text = "\n".join([text, *(documentation(others[name]) for name in sorted(named))])
        if not text.strip():
            fail(f"{part.label} has no docstring; write one sentence that says what it is, with the paper's equation")
        for option in known.values():
            if option.type is Any or option.type is inspect.Parameter.empty:
                fail(f"{part.label}: option '{option.name}' may be anything; give it a type, such as Annotated[float, Gt(0)]")
            if not re.search(rf"(?<!\w){re.escape(option.name)}(?!\w)", text):
                fail(
                    f"{part.label}: its docstring does not name the option '{option.name}'; write `{option.name}: what it does, its range`"
                )

    @classmethod
    def tried(cls, options: dict[str, Any]) -> None:
        """Builds and runs the component once with these options; each family says how. Raises what that raises."""

    def test_bad_options_are_refused(self) -> None:
        """Defaults are allowed by their own types, and every option refuses what it cannot be: 0 and -1 run, or are refused.

        Whether a weight below 0 makes sense is known to the author alone. What an option's type allows, its users will type.
        """
        part = ready(type(self))
        given = {name: self.options[name] for name, option in readable_options(part).items() if option.required and name in self.options}
        with self.advising("a default must be a value that its type allows"):
            check(partial(part.target, **given) if given else part.target, part.label)
        with self.advising("`options` of the test must be values that the component takes"):
            validate(part.target, self.options, part.label)
        for option in readable_options(part).values():
            if not any(_refused(part, {**self.options, option.name: value}) for value in BAD):
                fail(
                    f"{part.label}: option '{option.name}' takes whatever it is given ({describe_type(option.type)}); "
                    "say what it may be: Literal['a', 'b'], Annotated[float, Ge(0)], int"
                )
            for value in _edges(part, option, self.options):
                try:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        self.tried({option.name: value})
                except Exception as error:
                    if not refusal(error):
                        fail(
                            f"{part.label}: with {option.name}={value}, which its type ({describe_type(option.type)}) allows, it ends in: "
                            f"{said(error)}; say what it may be: Annotated[float, Gt(0)], Annotated[int, Ge(1)]"
                        )


def _edges(part: Part, option: Option, options: Mapping[str, Any]) -> list[int]:
    """Those of EDGES that an option may be, and which it takes as numbers."""
    found = []
    for value in EDGES:
        try:
            taken = validate(part.target, {**options, option.name: value}, part.label)[option.name]
        except KdError:
            continue
        if isinstance(taken, int | float) and not isinstance(taken, bool):
            found.append(value)
    return found


def _refused(part: Part, values: dict[str, Any]) -> bool:
    try:
        validate(part.target, values, part.label)
    except KdError:
        return True
    except Exception as error:
        fail(f"{part.label}: {values} ends in {said(error)} and not in a refusal; give its options types that pydantic knows")
    return False


def _siblings(kit: type[ComponentKit], part: Part) -> dict[str, Any]:
    """The other parts of the plugin, by full name."""
    known = kit.plugins()
    parts = (other for family in FAMILIES[:5] for other in known.parts_of(part.plugin.name, family).values())
    return {other.name: other.target for other in parts if other.target is not part.target}


def documentation(target: Any) -> str:
    """The docstring of a function, or of a class with its __init__'s. What a dataclass writes for itself, or a parent says, is none."""
    own = target.__doc__ or ""
    if not inspect.isclass(target):
        return own
    if own.startswith(f"{target.__name__}("):
        own = ""
    return f"{own}\n{vars(target)['__init__'].__doc__ or ''}" if "__init__" in vars(target) else own

"""Options of any component: its keyword-only parameters, typed, with the paper's defaults; validated by pydantic.

Every error here is one line that names who refused, the option, its type and its default.
"""

import dataclasses
import inspect
import sys
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, create_model

from kdcore.errors import KdError, nearest


@dataclass(frozen=True)
class Option:
    name: str
    type: Any
    default: Any

    @property
    def required(self) -> bool:
        return self.default is inspect.Parameter.empty

    @property
    def type_name(self) -> str:
        return describe_type(self.type)

    def describe(self) -> str:
        default = "required" if self.required else f"default {self.default!r}"
        return f"{self.name}: {self.type_name}, {default}"


def target_of(component: Any) -> Any:
    """The class or function that a component comes from: itself, what a partial holds, or an instance's class."""
    if isinstance(component, partial):
        return target_of(component.func)
    if inspect.isclass(component) or inspect.isroutine(component):
        return component
    return type(component)


@cache
def options_of(target: Any) -> dict[str, Option]:
    """Options of a class or function, by name; of a callable that is built already, its class's. Raises KdError where one has no type, or where
    there is a `**kwargs`."""
    target = target_of(target)
    where = f"{target.__module__}.{target.__qualname__}"
    try:
        hints = get_type_hints(target.__init__ if inspect.isclass(target) else target, include_extras=True)
    except Exception as error:
        raise KdError(f"{where}: the types of its options cannot be read: {type(error).__name__}: {error}") from error
    found = {}
    # A module without an __init__ of its own has torch's, which takes anything.
    of_torch = inspect.isclass(target) and "torch.nn" in sys.modules and target.__init__ is sys.modules["torch.nn"].Module.__init__
    for parameter in inspect.signature(target).parameters.values():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            if of_torch:
                continue
            raise KdError(f"{where} takes **{parameter.name}: name its options as keyword-only parameters")
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            continue
        if parameter.name not in hints:
            raise KdError(f"{where}: option '{parameter.name}' has no type")
        found[parameter.name] = Option(parameter.name, hints[parameter.name], parameter.default)
    return found


def validate(target: Any, values: Mapping[str, Any], who: str, prefix: str = "") -> dict[str, Any]:
    """The given options, converted and checked (those not given are left out). Raises KdError in one line that begins with `who`.

    prefix: what stands before an option's name after `-o`: nothing for a method's, `byot.hint.` for a part's.
    """
    known = options_of(target)
    for name in values:
        if name not in known:
            positional = name in inspect.signature(target).parameters
            advice = f": options are keyword-only; write `*, {name}: ...` after a star in its signature" if positional else ""
            raise KdError(f"{who} has no option '{name}'{advice or nearest(name, known) or '; it has none'}")
    # Fields are numbered, so that an option may have a name that pydantic keeps for itself (copy, json, model_dim).
    fields: dict[str, Any] = {
        f"option{k}": (option.type, Field(... if option.required else option.default, alias=option.name))
        for k, option in enumerate(known.values())
    }
    values = {name: None if _says_none(value, known[name].type) else value for name, value in values.items()}
    config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False)
    model = create_model("Options", __config__=config, **fields)
    try:
        read = model(**values)
    except ValidationError as error:
        first = error.errors()[0]
        option = known[str(first["loc"][0])]
        if first["type"] == "missing":
            raise KdError(f"{who} requires the option {option.describe()}; add -o {prefix}{option.name}=...") from None
        raise KdError(
            f"{who}: {option.name}={first['input']!r} is refused: {first['msg'].replace('Input should', 'it should')} ({option.describe()})"
        ) from None
    return {name: getattr(read, f"option{k}") for k, name in enumerate(known) if name in values}


def _says_none(value: Any, annotation: Any) -> bool:
    """TOML has no word for None, so `none` means it wherever the type allows it."""
    return isinstance(value, str) and value.lower() == "none" and type(None) in get_args(annotation)


def configured(component: Any) -> dict[str, Any]:
    """The value of every option of a component as a method wrote it down: given, default, or kept as an attribute of its name."""
    target = target_of(component)
    known = options_of(target)
    if isinstance(component, partial):
        given = {name: value for name, value in component.keywords.items() if name in known}
    elif component is target:
        given = {}
    else:
        given = {name: getattr(component, name) for name in known if hasattr(component, name)}
    defaults = {name: option.default for name, option in known.items() if not option.required}
    return defaults | given


def reconfigure(component: Any, values: Mapping[str, Any], who: str) -> Any:
    """The component with some options set, checked. Refused for an instance that only its author can rebuild."""
    checked = validate(target_of(component), values, who)
    if dataclasses.is_dataclass(component) and not inspect.isclass(component):
        return dataclasses.replace(typing.cast(Any, component), **checked)
    if isinstance(component, partial) or component is target_of(component):
        return partial(component, **checked) if checked else component
    if not checked:
        return component
    raise KdError(f"{who} was built by its method and cannot take {', '.join(checked)}; its author would write functools.partial(...)")


def check(component: Any, who: str, prefix: str = "") -> None:
    """Validates the options that a method itself wrote down: those of a partial, of a dataclass instance (which are not checked when it
    is made), and the defaults. A module that is already built may keep anything under an option's name, and is left alone."""
    target = target_of(component)
    if isinstance(component, partial):
        positional = set(inspect.signature(target).parameters) - set(options_of(target))
        validate(target, configured(component) | {k: v for k, v in component.keywords.items() if k not in positional}, who, prefix)
    elif component is target or dataclasses.is_dataclass(component):
        validate(target, configured(component), who, prefix)


def read_value(text: str) -> Any:
    """The value of `-o name=value`: TOML where it is TOML, else the text itself."""
    try:
        read = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return read["value"] if len(read) == 1 else text


def read_assignments(assignments: typing.Iterable[str]) -> dict[str, Any]:
    """`["alpha=.3", "byot.hint.reduction=sum"]` as a mapping. Raises KdError for one without a name or an equals sign."""
    values = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals or not name.strip():
            raise KdError(f"-o {assignment}: write -o name=value, or -o part.name=value")
        values[name.strip()] = read_value(text.strip())
    return values


def describe_type(annotation: Any) -> str:
    """A type as a user would say it: `float in [0, 1]`, `one of sum, mean`, `int or none`."""
    origin = get_origin(annotation)
    if origin is typing.Annotated:
        base, *notes = get_args(annotation)
        return describe_type(base) + "".join(_describe_note(note) for note in notes)
    if origin is typing.Literal:
        return "one of " + ", ".join(str(value) for value in get_args(annotation))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe_type(part) for part in get_args(annotation))
    if annotation is type(None):
        return "none"
    if origin is not None:
        return (
            f"{getattr(origin, '__name__', origin)} of {', '.join(describe_type(part) for part in get_args(annotation) if part is not ...)}"
        )
    return getattr(annotation, "__name__", str(annotation))


def _describe_note(note: Any) -> str:
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    pieces = [f" {sign} {getattr(note, name)}" for name, sign in signs.items() if getattr(note, name, None) is not None]
    if not pieces and hasattr(note, "metadata"):
        return "".join(_describe_note(inner) for inner in note.metadata)
    return "".join(pieces)


def to_schema(annotation: Any) -> dict[str, Any]:
    """The type as JSON schema, for listings that scripts read."""
    return TypeAdapter(annotation).json_schema()

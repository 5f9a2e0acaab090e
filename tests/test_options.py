"""Options: read from a signature, validated, described; every refusal is one line that says who, what, its type and its default."""

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge, Gt, Le, MinLen

from kdcore.errors import KdError
from kdcore.options import check, configured, describe_type, options_of, read_assignments, read_value, reconfigure, to_schema, validate

Share = Annotated[float, Ge(0), Le(1)]


def function(step, targets=None, *, alpha: Share = 0.3, k: int = 8, reduction: Literal["sum", "mean"] = "sum", knn: bool = False):
    return step, alpha, k, reduction, knn


class Part:
    def __init__(self, *, width: Annotated[int, Ge(1)] | None = None, name: str = "a") -> None:
        self.width = width
        self.name = name


class Built:
    """Keeps something else under its option's name, as modules do."""

    def __init__(self, *, width: int = 3) -> None:
        self.width = [width] * 4


@dataclass(frozen=True, kw_only=True)
class Plain:
    temperature: Annotated[float, Gt(0)] = 4.0
    exits: list[int] | None = None


def requires(*, margin: float, scale: float = 1.0):
    return margin * scale


WHO = "loss 'idea.knn' (kdcore-idea 1.2)"


def refusal(target, values: dict[str, Any], **more) -> str:
    with pytest.raises(KdError) as error:
        validate(target, values, WHO, **more)
    message = str(error.value)
    assert message.startswith(WHO) and "\n" not in message
    return message


def test_only_keyword_only_parameters_are_options():
    assert list(options_of(function)) == ["alpha", "k", "reduction", "knn"]
    assert list(options_of(Part)) == ["width", "name"]
    assert list(options_of(Plain)) == ["temperature", "exits"]
    assert options_of(function)["alpha"].describe() == "alpha: float >= 0 <= 1, default 0.3"
    assert options_of(requires)["margin"].describe() == "margin: float, required"


def test_given_options_come_back_converted_and_no_others():
    assert validate(function, {}, WHO) == {}
    assert validate(function, {"k": "3", "alpha": 1, "knn": "true"}, WHO) == {"k": 3, "alpha": 1.0, "knn": True}
    assert validate(Part, {"width": None}, WHO) == {"width": None}
    assert validate(Plain, {"exits": (1, 2)}, WHO) == {"exits": [1, 2]}


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"alhpa": 0.1}, ["has no option 'alhpa'", "did you mean 'alpha'?"]),
        ({"zzz": 1}, ["has no option 'zzz'", "there is: alpha, k, knn, reduction"]),
        ({"alpha": "much"}, ["alpha='much' is refused", "float >= 0 <= 1", "default 0.3"]),
        ({"alpha": 1.5}, ["alpha=1.5 is refused", "less than or equal to 1"]),
        ({"alpha": float("nan")}, ["alpha=nan is refused", "finite"]),
        ({"k": 2.5}, ["k=2.5 is refused", "k: int, default 8"]),
        ({"k": [1]}, ["k=[1] is refused", "integer"]),
        ({"reduction": "max"}, ["reduction='max' is refused", "one of sum, mean", "default 'sum'"]),
    ],
)
def test_a_refusal_names_the_option_its_type_and_default(values, says):
    message = refusal(function, values)
    assert all(text in message for text in says), message


def test_a_required_option_says_what_to_type():
    assert "requires the option margin: float, required; add -o margin=..." in refusal(requires, {"scale": 2.0})
    assert "add -o idea.knn.margin=..." in refusal(requires, {}, prefix="idea.knn.")
    assert validate(requires, {"margin": 2}, WHO) == {"margin": 2.0}


def test_a_component_without_options_says_so():
    assert "has no option 'k'; it has none" in refusal(lambda step: step, {"k": 1})


def test_names_that_pydantic_keeps_for_itself_are_ordinary_options():
    def component(*, json: int = 1, copy: bool = False, model_dim: int = 2, schema: str = "a", _private: int = 3): ...

    given = {"json": "4", "copy": True, "model_dim": 8, "schema": "b", "_private": 5}
    assert validate(component, given, WHO) == {"json": 4, "copy": True, "model_dim": 8, "schema": "b", "_private": 5}
    assert "json='x' is refused" in refusal(component, {"json": "x"})


def kwargs(*, alpha: float = 1.0, **rest): ...


def untyped(*, alpha=1.0): ...


def unreadable(*, alpha: "Missing" = 1.0): ...  # noqa: F821


@pytest.mark.parametrize(
    ("target", "says"),
    [
        (kwargs, r"kwargs takes \*\*rest: name its options"),
        (untyped, "untyped: option 'alpha' has no type"),
        (unreadable, "unreadable: the types of its options cannot be read: NameError"),
    ],
)
def test_signatures_that_cannot_be_read_are_refused(target, says):
    with pytest.raises(KdError, match=says):
        options_of(target)


# -- what a method wrote down ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("component", "values"),
    [
        (function, {"alpha": 0.3, "k": 8, "reduction": "sum", "knn": False}),
        (partial(function, k=2), {"alpha": 0.3, "k": 2, "reduction": "sum", "knn": False}),
        (partial(partial(function, k=2), alpha=0.1, targets=None), {"alpha": 0.1, "k": 2, "reduction": "sum", "knn": False}),
        (Part, {"width": None, "name": "a"}),
        (Part(width=4), {"width": 4, "name": "a"}),
        (Plain(temperature=2), {"temperature": 2, "exits": None}),
        (partial(requires, margin=1.0), {"margin": 1.0, "scale": 1.0}),
    ],
)
def test_the_configured_value_of_every_option(component, values):
    assert configured(component) == values


def test_classes_functions_and_partials_take_options_by_a_partial():
    assert reconfigure(function, {"k": "2"}, WHO)(0) == (0, 0.3, 2, "sum", False)
    assert reconfigure(partial(function, alpha=0.5, k=7), {"k": 2}, WHO)(0) == (0, 0.5, 2, "sum", False)
    assert reconfigure(Part, {"width": 5}, WHO)().width == 5
    assert reconfigure(Part, {}, WHO) is Part


def test_a_dataclass_is_replaced():
    before = Plain(temperature=2.0)
    assert reconfigure(before, {"exits": [1]}, WHO) == Plain(temperature=2.0, exits=[1])
    assert before == Plain(temperature=2.0)


def test_a_built_module_is_refused_and_says_what_its_author_would_write():
    built = Part(width=2)
    assert reconfigure(built, {}, WHO) is built
    with pytest.raises(KdError, match=r"was built by its method and cannot take width; its author would write functools\.partial"):
        reconfigure(built, {"width": 3}, WHO)
    with pytest.raises(KdError, match="has no option 'widht'; did you mean 'width'"):
        reconfigure(built, {"widht": 3}, WHO)


@pytest.mark.parametrize(
    ("component", "says"),
    [
        (partial(function, alpha=3), "alpha=3 is refused"),
        (partial(function, alhpa=0.3), "has no option 'alhpa'; did you mean 'alpha'"),
        (Plain(temperature=-1.0), "temperature=-1.0 is refused"),
        (partial(Part, width=0), "width=0 is refused"),
        (requires, "add -o part.margin="),
    ],
)
def test_what_a_method_wrote_down_is_checked(component, says):
    with pytest.raises(KdError, match=says):
        check(component, WHO, "part.")


@pytest.mark.parametrize("component", [function, Part, Built(), partial(function, step=1, k=2), Plain(), partial(requires, margin=0.1)])
def test_what_is_right_passes(component):
    check(component, WHO)


# -- the command line -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.3", 0.3),
        (".3", ".3"),
        ("1e-5", 1e-5),
        ("5", 5),
        ("true", True),
        ("[1, 2]", [1, 2]),
        ('"sum"', "sum"),
        ("sum", "sum"),
        ("none", "none"),
        ("", ""),
        ("a b", "a b"),
        ("{x = 1}", {"x": 1}),
        ("1\nother = 2", "1\nother = 2"),
    ],
)
def test_values_are_read_as_toml_and_then_as_strings(text, value):
    assert read_value(text) == value


@pytest.mark.parametrize(
    ("text", "option", "value"),
    [
        (".3", "alpha", 0.3),
        ("1", "alpha", 1.0),
        ("true", "knn", True),
        ("8", "k", 8),
        ("mean", "reduction", "mean"),
    ],
)
def test_what_is_typed_becomes_what_the_option_is(text, option, value):
    assert validate(function, {option: read_value(text)}, WHO) == {option: value}


@pytest.mark.parametrize("text", ["none", "None"])
def test_none_may_be_typed_where_it_is_allowed(text):
    assert validate(Part, {"width": read_value(text)}, WHO) == {"width": None}
    assert validate(Part, {"name": read_value(text)}, WHO) == {"name": text}
    assert "k='none' is refused" in refusal(function, {"k": "none"})


def test_assignments():
    assert read_assignments(["alpha=.5", " byot.hint.reduction = sum", "a=b=c"]) == {
        "alpha": ".5",
        "byot.hint.reduction": "sum",
        "a": "b=c",
    }
    for wrong in ("alpha", "=3", " =3"):
        with pytest.raises(KdError, match="write -o name=value"):
            read_assignments([wrong])


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (int, "int"),
        (int | None, "int or none"),
        (Share, "float >= 0 <= 1"),
        (Annotated[int, Ge(1)] | Literal["quarter"], "int >= 1 or one of quarter"),
        (Literal["sum", "mean"], "one of sum, mean"),
        (list[int], "list of int"),
        (tuple[int, ...], "tuple of int"),
        (dict[str, float], "dict of str, float"),
        (Annotated[list[Annotated[int, Ge(1)]], MinLen(1)], "list of int >= 1"),
    ],
)
def test_types_in_words(annotation, words):
    assert describe_type(annotation) == words


def test_types_as_json_schema():
    assert to_schema(Share) == {"type": "number", "minimum": 0, "maximum": 1}

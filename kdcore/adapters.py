"""Losses that were written for others as kdcore losses: plain functions of logits, and those of torchdistill.

The other way round, a kdcore task in somebody else's loop, needs no adapter: see `examples/loops`.
"""

import functools
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, get_type_hints

import torch
from torch import Tensor, nn

from kdcore.errors import KdError, nearest
from kdcore.losses import full, paired, total
from kdcore.vocabulary import SoftTargets, Step

TAKES = "(student_logits [B, K], teacher_logits [B, K], labels [B])"


def from_function(fn: Callable[..., Tensor], **options: Any) -> Callable[..., Tensor]:
    """A kdcore loss of a plain function of (student_logits [B, K], teacher_logits [B, K], labels [B]) that returns a scalar.

    The function is called for every exit that the term sees, with the soft targets' logits for that exit, and the values are summed. Its
    labels may be left out: one of two parameters also takes mixed images. What follows them are options: of the type that is written
    there, or that the default has. `options` sets other defaults. As a decorator of a module's function the loss can also be pickled.
    Raises KdError where the function takes something else, and in its first step where it returns no scalar.
    """
    name = getattr(fn, "__name__", type(fn).__name__)
    who = f"kdcore.from_function({name})"
    first, known = _split(fn, who)
    for option in options:
        if option not in known:
            raise KdError(f"{who}: the function has no option '{option}'{nearest(option, known) or '; it has none'}")
    takes_labels = len(first) == 3

    @functools.wraps(fn)
    def loss(step: Step, targets: SoftTargets, **chosen: Any) -> Tensor:
        chosen = options | chosen
        labels = (step.batch.labels,) if takes_labels else ()
        assert targets.logits is not None  # `reads` says so, and composition refuses others
        pairs = paired(step.outputs.logits, targets.logits)
        return total([_scalar(fn(full(student), full(teacher), *labels, **chosen), who) for student, teacher in pairs])

    places = [inspect.Parameter(place, inspect.Parameter.POSITIONAL_OR_KEYWORD) for place in ("step", "targets")]
    types = _types(fn, known, options, who)
    own = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, default=options.get(option, parameter.default), annotation=types[option])
        for option, parameter in known.items()
    ]
    loss.__signature__ = inspect.Signature([*places, *own])  # type: ignore[attr-defined]
    loss.__annotations__ = types
    loss.reads = loss.sees = ("logits",)  # type: ignore[attr-defined]
    loss.needs = getattr(fn, "needs", ("hard_labels",) if takes_labels else ())  # type: ignore[attr-defined]
    return loss


def _split(fn: Callable, who: str) -> tuple[list[inspect.Parameter], dict[str, inspect.Parameter]]:
    """The function's places for tensors, two or three, and its options by name."""
    kinds = inspect.Parameter
    try:
        parameters = list(inspect.signature(fn).parameters.values())
    except (TypeError, ValueError):
        raise KdError(f"{who}: this is not a function of {TAKES}") from None
    placed = [p for p in parameters if p.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)]
    first = placed[:3] if len(placed) > 2 and placed[2].default is kinds.empty else placed[:2]
    if len(first) < 2 or isinstance(fn, nn.Module):
        raise KdError(f"{who}: a function of {TAKES} is needed, with its options after them; wrap this in one")
    return first, {p.name: p for p in [*placed[len(first) :], *(p for p in parameters if p.kind is kinds.KEYWORD_ONLY)]}


def _types(fn: Callable, known: Mapping[str, inspect.Parameter], options: Mapping[str, Any], who: str) -> dict[str, Any]:
    """The type of each option: as written, else that of its default; a whole number may then become a fraction."""
    try:
        written = get_type_hints(fn, include_extras=True)
    except Exception as error:
        raise KdError(f"{who}: the types of its options cannot be read: {type(error).__name__}: {error}") from error
    types = {}
    for name, parameter in known.items():
        default = options.get(name, parameter.default)
        guessed = int | float if type(default) in (int, float) else type(default)
        types[name] = written.get(name, Any if default in (None, parameter.empty) else guessed)
    return types


def _scalar(value: Any, who: str) -> Tensor:
    """The value, if it is one number: the sum over exits would hide that it was a vector."""
    if not isinstance(value, Tensor) or value.ndim:
        shape = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise KdError(f"{who} must return a scalar tensor, and returned {shape}: take the mean over the batch")
    return value


def from_torchdistill(loss: nn.Module | str, **kwargs: Any) -> nn.Module:
    """A kdcore loss of a torchdistill loss on logits: an object, or the name that it is registered under and its arguments.

        from_torchdistill("KDLoss", temperature=4.0, alpha=0.5)

    Module paths are "." and "output", the whole model's answer, as in torchdistill's own configurations, and are filled in where a name is
    given without them. The value is torchdistill's own for every exit, summed. Losses that read other modules (feature maps, CRD, SSKD) are
    refused with KdError: they need hooks, and parts around the networks.
    """
    if isinstance(loss, str):
        loss = _registered(loss, kwargs)
    elif kwargs:
        raise KdError(f"kdcore.from_torchdistill: {', '.join(kwargs)} can only be given with a loss's name; this one is built already")
    if not isinstance(loss, nn.Module):
        raise KdError(f"kdcore.from_torchdistill takes a torchdistill loss or its registered name, not {type(loss).__name__}")
    adapted = TorchdistillLoss(loss)
    adapted.probe()
    return adapted


def _registered(name: str, kwargs: dict[str, Any]) -> nn.Module:
    """torchdistill's loss of this name, with the paths of the logits where it asks for paths and was given none."""
    registry = _torchdistill("losses.registry")
    _torchdistill("losses")  # its modules register their losses
    known = registry.MIDDLE_LEVEL_LOSS_DICT | registry.HIGH_LEVEL_LOSS_DICT
    if name not in known:
        raise KdError(f"torchdistill has no loss on networks' answers called '{name}'{nearest(name, known)}")
    places = {f"{network}_module_{what}": value for network in ("student", "teacher") for what, value in (("path", "."), ("io", "output"))}
    asked = inspect.signature(known[name]).parameters
    paths = {parameter: value for parameter, value in places.items() if parameter in asked}
    try:
        return known[name](**paths | kwargs)
    except Exception as error:
        raise KdError(f"torchdistill's {name} cannot be built with {kwargs or 'no arguments'}: {type(error).__name__}: {error}") from error


def _torchdistill(module: str) -> Any:
    try:
        return importlib.import_module(f"torchdistill.{module}")
    except ImportError as error:
        raise KdError(f"torchdistill cannot be imported ({error}): pip install torchdistill") from error


class _Asked(dict):
    """What a probe hands over in place of a network's inputs and outputs: it refuses what is not there by name."""

    def __init__(self, who: str, answers: dict[str, Any]) -> None:
        super().__init__(answers)
        self.who = who

    def __missing__(self, key: str) -> Any:
        raise KdError(
            f"{self.who} asks for '{key}', and a kdcore loss of it is given the logits alone, '.' and 'output': "
            "losses that need hooks into modules are not adapted"
        )


class TorchdistillLoss(nn.Module):
    """A torchdistill loss on logits, summed over the exits that it sees."""

    reads = ("logits",)
    sees = ("logits",)
    needs = ("hard_labels",)

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss
        self.who = f"torchdistill's {type(loss).__name__}"
        self.whole = hasattr(loss, "term_dict")  # a high-level loss takes both networks in one dict
        if self.whole:
            self.parts = nn.ModuleList(part for part, _ in loss.term_dict.values())  # which it keeps where .to(device) does not look

    def forward(self, step: Step, targets: SoftTargets) -> Tensor:
        assert targets.logits is not None  # `reads` says so, and composition refuses others
        pairs = paired(step.outputs.logits, targets.logits)
        answers = [({".": {"output": full(student)}}, {".": {"output": full(teacher)}}) for student, teacher in pairs]
        return total([_scalar(self.ask(*pair, step.batch.labels), self.who) for pair in answers])

    def ask(self, student: dict[str, Any], teacher: dict[str, Any], labels: Tensor) -> Any:
        if self.whole:
            return self.loss({"student": student, "teacher": teacher}, {}, labels)
        return self.loss(student, teacher, labels)

    def probe(self) -> None:
        """Asks it once for four rows of two classes, to find out what it reads. Raises KdError where that is more than the logits."""
        student, teacher = (_Asked(self.who, {".": _Asked(self.who, {"output": torch.randn(4, 2)})}) for _ in range(2))
        try:
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                self.ask(student, teacher, torch.tensor([0, 1, 0, 1]))
        except (TypeError, AttributeError) as error:
            raise KdError(
                f"{self.who} does not take (student_io_dict, teacher_io_dict, targets): {str(error).splitlines()[0]}; "
                "a loss on tensors is adapted by kdcore.from_function"
            ) from error
        except KdError:
            raise
        except Exception:  # two classes may not suit it: composition asks again with the run's own
            pass

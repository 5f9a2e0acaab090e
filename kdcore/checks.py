"""What is checked while a run is composed, so that nothing needs checking in a step. Every refusal names the part and its distribution."""

import dataclasses
import math
import re
import sysconfig
import traceback
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdcore.context import Shapes
from kdcore.errors import KdError, Refused
from kdcore.methods import exit_indices, least_exits, reads_of
from kdcore.objective import Bound, BoundTerm
from kdcore.phases import Phase
from kdcore.recipes import Recipe
from kdcore.tapped import dry
from kdcore.vocabulary import Outputs, SoftTargets, Step

LIBRARIES = {"torch", "torchvision", "timm", "numpy", "sklearn", "torchmetrics", "PIL", "pydantic", "pluggy"}
"""Folders whose lines do not tell an author where the mistake is."""


def guarded(label: str, function: Callable, *args: Any) -> Any:
    """Calls a plugin's code; what it raises becomes one line with its name."""
    try:
        return function(*args)
    except KdError:
        raise
    except Exception as error:
        raise failed(label, error) from error


def failed(label: str, error: Exception) -> KdError:
    message = str(error).strip().splitlines()
    return KdError(f"{label} failed: {type(error).__name__}: {message[0] if message else 'no message'}{where_of(error)}")


def where_of(error: BaseException) -> str:
    """` (my_idea.py:12)`: the last line that the error went through of a plugin's own: neither the core's, nor a library's."""
    core, standard = Path(__file__).parent, Path(sysconfig.get_paths()["stdlib"])
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        library = core in path.parents or (standard in path.parents and "site-packages" not in path.parts)
        if not library and not frame.filename.startswith("<") and not LIBRARIES & set(path.parts):
            return f" ({path.name}:{frame.lineno})"
    return ""


def check_student(student: nn.Module, images: Tensor, num_classes: int, recipe: Recipe) -> None:
    label = recipe.labels.get("exits", "the backbone")
    with dry(student), torch.no_grad():
        outputs = guarded(label, student, images)
    check_lists(label, outputs)
    if not isinstance(outputs, Outputs) or not outputs.logits:
        raise KdError(f"{label}: forward(images) must return kdcore.Outputs with at least one exit, not {type(outputs).__name__}")
    width = outputs.logits[-1].shape[-1]
    if width != num_classes:
        raise KdError(f"{label}: the deepest exit has {width} classes and the data has {num_classes}")
    if not callable(getattr(student, "strip", None)):
        raise KdError(f"{label}: the module has no strip(exit), which deployment needs")


def check_exits(label: str, what: Iterable[str], shapes: Shapes, phase: Phase | None = None, brought: str = "") -> None:
    """Enough exits for a component that declares `exits>=n`: on the student, or on the network of a phase. brought: `Recipe.brought`."""
    wanted = least_exits(what)
    if wanted > shapes.exits:
        who, advice = _network(phase)
        raise Refused(f"{label} needs at least {wanted} exits and {who} has {shapes.exits}: add {advice}, or other --taps{brought}")


def check_term(term: BoundTerm, shapes: Shapes, phase: Phase, brought: str = "") -> None:
    """The exits that a term sees are there, on the network whose outputs it sees in this phase. brought: `Recipe.brought`."""
    who, advice = _network(phase)
    where = f" in phase '{phase.name}', of the teacher" if phase.model == "teacher" else ""
    try:
        indices = exit_indices(term.exits, shapes.exits)
    except ValueError as error:
        raise Refused(f"{term.label}{where}: {error}") from None
    if indices is None and term.exits not in shapes.extras:
        raise Refused(
            f"{term.label}{where}: there is no exit '{term.exits}'; write all, shallow, deepest, numbers, "
            f"or one of {', '.join(shapes.extras) or 'no extras'}"
        )
    if indices == []:
        raise Refused(f"{term.label} is for shallow exits and {who} has only its own head: add {advice}, or other --taps{brought}")


def checked_up_to(terms: list[BoundTerm], shapes: Shapes, phase: Phase) -> list[BoundTerm]:
    """The terms without the exits that the phase does not go up to; those that have no exit left are dropped. Raises KdError where all are."""
    assert phase.up_to is not None
    kept = []
    for term in terms:
        seen = exit_indices(term.exits, shapes.exits)
        chosen = None if seen is None else [position + 1 for position in seen if position < phase.up_to]
        if chosen is None or chosen:
            kept.append(term if chosen is None else dataclasses.replace(term, exits=chosen))
    if not kept:
        raise Refused(f"phase '{phase.name}' goes up to exit {phase.up_to}, and no term sees an exit as shallow as that")
    return kept


def _network(phase: Phase | None) -> tuple[str, str]:
    """How errors name a phase's network, and what gives it exits."""
    if phase is not None and phase.model == "teacher":
        return f"the teacher in phase '{phase.name}'", "teacher_exits to the method"
    return "this model", "--exits linear"


def check_phase(phase: Any, label: str, checkpoints: Collection[str] = ()) -> Phase:
    """A phase as a schedule yields it. checkpoints: those of the results that the schedule was sent."""
    if not isinstance(phase, Phase):
        raise KdError(f"{label} must yield kdcore.Phase, not {type(phase).__name__}")
    if not isinstance(phase.name, str) or not re.fullmatch(r"[A-Za-z0-9._-]+", phase.name) or phase.name in (".", ".."):
        raise KdError(
            f"{label}: a phase is called {phase.name!r}; letters, digits, '.', '_' and '-' make a name, which folders are called by"
        )
    who = f"{label}: phase '{phase.name}'"
    if isinstance(phase.trains, str) or not set(phase.trains) <= set(Phase.GROUPS):
        wrong = phase.trains if isinstance(phase.trains, str) else ", ".join(sorted(map(str, set(phase.trains) - set(Phase.GROUPS))))
        raise KdError(f"{who} trains {wrong}; it can train a tuple of {', '.join(Phase.GROUPS)}")
    if phase.model not in ("student", "teacher"):
        raise KdError(f"{who} has the model {phase.model!r}; it can be student or teacher")
    if phase.epochs is not None and (not isinstance(phase.epochs, int) or phase.epochs < 1):
        raise KdError(f"{who} has {phase.epochs!r} epochs; a whole number from 1, or None for --epochs, is needed")
    if phase.up_to is not None and (not isinstance(phase.up_to, int) or phase.up_to < 1):
        raise KdError(f"{who} goes up to exit {phase.up_to!r}; a number from 1, or None for all exits, is needed")
    for field, words in (("start", ("stands", "pretrained", "fresh")), ("teacher", (None, "auto", "given"))):
        value = getattr(phase, field)
        if value not in words and not (isinstance(value, str) and value in checkpoints):
            raise KdError(
                f"{who} has the {field} {value!r}; it can be {', '.join(map(str, words))}, "
                "or the checkpoint or best_checkpoint of a result that the schedule was sent"
            )
    try:
        phase.to_json()
    except (TypeError, ValueError) as error:
        raise KdError(f"{who} holds what is no JSON value, so the run could not be resumed: {str(error).splitlines()[0]}") from None
    return phase


def checked_call(bound: Bound, *args: Any) -> Any:
    """Runs a component and refuses what it must not give or be given."""
    if isinstance(bound, BoundTerm):
        step, targets = args
        if targets is not None:
            _check_targets(bound, step, targets)
        state = torch.get_rng_state()
        try:
            value = bound.run(step, targets)
        except KdError:
            raise
        except Exception as error:
            hint = "; it was given no soft targets: write --loss NAME@SOURCE, or a Term with a source" if targets is None else ""
            raise KdError(f"{failed(bound.label, error)}{hint if 'NoneType' in str(error) else ''}") from error
        if not isinstance(value, Tensor) or value.ndim != 0 or not value.is_floating_point():
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise KdError(f"{bound.label} must return a scalar tensor, not {shape}")
        if not value.is_meta and not math.isfinite(float(value.detach())):
            raise KdError(f"{bound.label} gives {float(value.detach())} on a first batch of noise; a loss must stay finite")
        bound.looked = bound.looked or targets is None or looks(bound, step, targets, value, state)
        return value
    value = guarded(bound.label, bound.run, *args)
    if not isinstance(value, SoftTargets):
        raise KdError(f"{bound.label} must return kdcore.SoftTargets, not {type(value).__name__}")
    check_lists(bound.label, value)
    exits = len(args[0].outputs.logits)
    for field in ("logits", "probs", "embeddings"):
        entries = getattr(value, field)
        if entries and len(entries) not in (1, exits):
            raise KdError(f"{bound.label} gives {len(entries)} {field} for {exits} exits; one, or one for each, is needed")
    return value


def check_lists(label: str, answer: Any) -> None:
    """The fields of soft targets or outputs that hold a tensor for each exit, or tap, are lists of tensors. Anything else passes."""
    for field in ("logits", "probs", "embeddings", "maps"):
        entries = getattr(answer, field, None) if isinstance(answer, SoftTargets | Outputs) else None
        if entries is None or (isinstance(entries, list | tuple) and all(isinstance(entry, Tensor) for entry in entries)):
            continue
        strange = entries if not isinstance(entries, list | tuple) else next(entry for entry in entries if not isinstance(entry, Tensor))
        within = "" if strange is entries else "a list with "
        raise KdError(
            f"{label} gives {within}{type(strange).__name__} as {field}, which must be a list of tensors: "
            f"{type(answer).__name__}({field}=[tensor])"
        )


def looks(term: BoundTerm, step: Step, targets: SoftTargets, value: Tensor, state: Tensor) -> bool:
    """Whether a loss looks at its soft targets: without them it fails, or comes to another value. state: of the random numbers before."""
    if reads_of(term.run):
        return True
    torch.set_rng_state(state)
    try:
        with torch.no_grad():
            return not torch.equal(term.run(step, None), value.detach())
    except Exception:
        return True


def _check_targets(term: BoundTerm, step: Step, targets: SoftTargets) -> None:
    reads = reads_of(term.run)
    if reads and not any(getattr(targets, field) is not None for field in reads):
        gives = [field for field in ("logits", "probs", "embeddings", "maps", "extras") if getattr(targets, field)]
        raise Refused(
            f"{term.label} reads {' or '.join(reads)}, which the soft targets '{term.source}' do not give: take a source that does"
            + (f", or a loss that reads {' or '.join(gives)}" if gives else "")
        )
    students = step.outputs.logits
    for field in ("logits", "probs"):
        entries = getattr(targets, field)
        if entries is None or field not in (reads or (field,)):
            continue
        if len(entries) not in (1, len(students)):  # a term that sees an entry of `extras`, which is no exit
            raise Refused(f"{term.label}: soft targets '{term.source}' have {len(entries)} entries, and '{term.exits}' needs one")
        for k, student in enumerate(students):
            entry = entries[0] if len(entries) == 1 else entries[k]
            if entry.shape[0] != student.shape[0]:
                raise Refused(
                    f"{term.label} takes the rows of every view and the soft targets '{term.source}' answer for view 0 alone: "
                    'a source that answers row by row may say needs = ("views",)'
                )
            if entry.shape[-1] != student.shape[-1]:
                raise Refused(
                    f"{term.label}: soft targets '{term.source}' have {entry.shape[-1]} classes and an exit that imitates them has {student.shape[-1]}"
                )

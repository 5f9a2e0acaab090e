"""What passes through a task in a step: what each component was asked and answered, and networks that are made to shout."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import Tensor

from kdcore.objective import Bound, BoundTerm
from kdcore.rehearsal import kept_buffers
from kdcore.task import DistillationTask
from kdcore.testing import scene
from kdcore.vocabulary import Outputs, SoftTargets, Step

Heard = dict[str, tuple[Step, SoftTargets | None, Any]]
"""By the name of a component: the step and the soft targets that it was given, and its answer."""

LOUD = 60.0
"""The size of logits for which a component must stay finite."""


def terms_of(task: DistillationTask, given: tuple[Tensor, Tensor, Tensor]) -> Heard:
    """Every term in a forward pass: the value as its loss gave it, with its graph."""
    return _heard(task, given, terms=True)


def sources_of(task: DistillationTask, given: tuple[Tensor, Tensor, Tensor]) -> Heard:
    """Every source of soft targets in a forward pass: its answer before the core detaches it."""
    return _heard(task, given, terms=False)


def _heard(task: DistillationTask, given: tuple[Tensor, Tensor, Tensor], terms: bool) -> Heard:
    found: Heard = {}

    def call(bound: Bound, step: Step, *targets: Any) -> Any:
        value = bound.run(step, *targets)
        if isinstance(bound, BoundTerm) == terms:
            found[bound.name] = (step, targets[0] if targets else None, value)
        return value

    plain, task.objective.call = task.objective.call, call
    try:
        with scene.seeded("kit", "heard"):
            task(*given)
    finally:
        task.objective.call = plain
    return found


def loud(logits: Tensor) -> Tensor:
    """Logits [B, K] stretched so that each row has one of 60 and one of -60: its softmax has a 1 and a 0 in float32. With their gradient."""
    low, high = logits.detach().aminmax(dim=1, keepdim=True)
    return (logits - (low + high) / 2) * (2 * LOUD / (high - low).clamp_min(1e-6))


@contextmanager
def shouting(task: DistillationTask) -> Iterator[None]:
    """Within it, networks answer with logits of +-60, and neighbouring exits, and the teacher, disagree."""

    def louder(turn: int) -> Callable[..., Outputs]:
        def hook(module: Any, args: Any, outputs: Outputs) -> Outputs:
            logits = [loud(entry) * (-1) ** (len(outputs.logits) - k + turn) for k, entry in enumerate(outputs.logits)]
            return replace(outputs, logits=logits)

        return hook

    objective, teacher = task.objective, task.teacher
    only = objective.only_logits
    handles = [objective.model.register_forward_hook(louder(0))]
    objective.only_logits = False
    if teacher is not None:
        teacher.only_logits = False
        handles.append(teacher.model.register_forward_hook(louder(1)))
    try:
        with kept_buffers(task):
            yield
    finally:
        objective.only_logits = only
        for handle in handles:
            handle.remove()

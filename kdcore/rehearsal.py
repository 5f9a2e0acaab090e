"""A task's first run, on a small batch of noise: lazy modules take shape, components are checked, what is out of reach is frozen."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from kdcore import checks
from kdcore.context import Context, Shapes
from kdcore.errors import Refused
from kdcore.objective import Bound, BoundTerm, Objective, backbone_within
from kdcore.phases import Phase, PhaseResult
from kdcore.seeds import seeded
from kdcore.tapped import dry
from kdcore.task import DistillationTask


def run_once(
    task: DistillationTask, batch: tuple[Tensor, Tensor, Tensor], seed: int, networks: Sequence[nn.Module | None], advice: str = ""
) -> None:
    """One dry forward pass in which lazy modules take shape, then a forward and backward pass that shows what the terms reach.

    batch: images, labels and sample numbers. networks: all of the run, of which only what the phase trains is free afterwards. Every
    buffer and the random state are put back. Raises KdError, with the advice, where the terms reach nothing that trains.
    """
    objective, phase = task.objective, task.phase
    with dry(task), torch.no_grad(), kept_buffers(task), rehearsed(objective, seed):
        task(*batch)
    for network in networks:
        if network is not None:
            network.requires_grad_(False)
    set_free(objective, phase)  # not before: a component may have made its parameters just now
    free = [p for p in objective.parameters() if p.requires_grad]
    with kept_buffers(task), rehearsed(objective, seed):
        modes = [(module, module.training) for module in objective.modules()]
        objective.model.eval()
        loss = task(*batch)["loss"]
        if not loss.requires_grad:
            raise Refused(
                f"phase '{phase.name}' trains nothing: its terms reach no parameter of {', '.join(phase.trains) or 'anything'}{advice}"
            )
        loss.backward()
        for module, training in modes:
            module.training = training
    for parameter in free:
        parameter.requires_grad_(parameter.grad is not None)
        parameter.grad = None
    objective.freeze_rest()


def set_free(objective: Objective, phase: Phase) -> None:
    """Lets those parameters train whose group the phase names, and no others."""
    objective.parts.requires_grad_("losses" in phase.trains)
    backbone, exits = ("teacher", "teacher_exits") if phase.model == "teacher" else ("student", "exits")
    own = {id(p) for p in backbone_within(objective.model)[0].parameters()}
    for parameter in objective.model.parameters():
        parameter.requires_grad_((backbone if id(parameter) in own else exits) in phase.trains)


@contextmanager
def rehearsed(objective: Objective, seed: int) -> Iterator[None]:
    """Within the block every component is checked as it runs, and draws its random numbers by its own name."""
    plain = objective.call

    def call(bound: Bound, *args: Any) -> Any:
        kind = "term" if isinstance(bound, BoundTerm) else "source"  # a source and a term may share a name
        with seeded(seed, "first run", kind, bound.name):
            return checks.checked_call(bound, *args)

    objective.call = call
    try:
        yield
    finally:
        objective.call = plain


@contextmanager
def kept_buffers(module: nn.Module) -> Iterator[None]:
    """Puts every buffer (BatchNorm's statistics, a memory bank) back after the block; those of lazy modules take shape in it."""
    kept = [(*place, place[2].clone()) for place in buffers_of(module)]
    try:
        yield
    finally:
        with torch.no_grad():
            for owner, name, buffer, value in kept:
                owner._buffers[name] = buffer
                buffer.copy_(value)


def buffers_of(module: nn.Module) -> list[tuple[nn.Module, str, Tensor]]:
    """(Owner, name, tensor) of every buffer that has its shape: a forward pass may put another tensor in its place."""
    found = ((owner, name, buffer) for owner in module.modules() for name, buffer in owner._buffers.items())
    return [(owner, name, buffer) for owner, name, buffer in found if buffer is not None and not is_lazy(buffer)]


def dry_batch(context: Context, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Noise, labels (two neighbours of each class; soft where the run's are) and sample numbers to rehearse with.

    16 rows, as many as components that compare the rows of a batch may ask for (k nearest neighbours), but no more than a batch has; 4 where
    images have more than 64 x 64 pixels, for the sake of memory and time.
    """
    height, width = context.image_size
    rows = max(min(16 if height * width <= 64 * 64 else 4, context.batch_size), 2)
    labels = torch.arange(rows, device=device) // 2 % context.num_classes
    index = torch.arange(rows, device=device) % (context.num_samples or rows)
    if context.soft_labels:
        hard = torch.nn.functional.one_hot(labels, context.num_classes).float()
        labels = 0.7 * hard + 0.3 * hard.flip(0)
    return dry_images(context, device, rows), labels, index


def dry_images(context: Context, device: torch.device, count: int = 2) -> Tensor:
    with seeded("dry images"):
        images = torch.randn(count, context.in_chans, *context.image_size)
    return images.to(device)


def rehearsed_result(phase: Phase, number: int, shapes: Shapes, context: Context) -> PhaseResult:
    """What a schedule is sent in rehearsal for its `number`th phase: better than the last, with the metrics that a run will have.

    shapes: of the phase's network.
    """
    exits = [f"exit{k}" for k, shape in enumerate(shapes.logits, start=1) if shape == (context.num_classes,)]
    tables = exits + ["ensemble"] * (len(exits) > 1)
    values = {"top1": 30.0 + number, "nll": 3.0 - 0.04 * number, "ece": 5.0}
    metrics = {f"{who}/{name}": value for who in tables for name, value in values.items()}
    metrics |= {name: values[name] for name in ("top1", "nll")}
    if not context.has_dev:
        metrics = {}
    return PhaseResult(phase, metrics, f"rehearsal/{number}/last", dict(metrics), f"rehearsal/{number}/best")

"""A component in a run: tiny backbones, batches of noise, and steps as the core's loop takes them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

import kdcore
from kdcore.backbones import create_backbone
from kdcore.composition import Composition
from kdcore.config import Config
from kdcore.exits import attach_exits
from kdcore.methods import declared
from kdcore.optimisation import create_optimizer
from kdcore.options import configured, target_of
from kdcore.phases import Phase
from kdcore.recipes import Recipe
from kdcore.seeds import seeded
from kdcore.tapped import copied
from kdcore.task import DistillationTask

BACKBONES = {
    "resnet": ("test_resnet_32px", 16),
    "vit": ("test_vit", 32),
    "convnext": ("test_convnext", 64),
    "mobilenet": ("mobilenetv3_small_050", 64),
}
"""What every component is built on, with the size of its images in pixels: the smallest of timm that are of each kind."""

CLASSES, ROWS, SAMPLES = 4, 16, 32


_world = [0]


def elsewhere(number: int = 0) -> None:
    """Leaves the random generators of Python, numpy and torch as another program would: the same each time, but in another `world`."""
    import random

    import numpy as np

    seed = 1000 * _world[0] + number
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@contextmanager
def world(number: int) -> Iterator[None]:
    """Within it, whoever draws random numbers that are not the run's draws others than in another world."""
    _world[0] = number
    try:
        yield
    finally:
        _world[0] = 0


@contextmanager
def one_thread() -> Iterator[None]:
    """Networks this small are slower on two threads than on one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def compose(
    resolve: Callable[[bool], Recipe],
    kind: str,
    *,
    backbone: str | None = None,
    teacher: bool = False,
    classes: int = CLASSES,
    seed: int = 0,
    change: Callable[[Recipe], None] | None = None,
    **more: Any,
) -> Composition:
    """A run of a recipe on a tiny backbone, with a teacher where some part needs one that no schedule brings.

    resolve: has_teacher -> recipe. kind: of `BACKBONES`, or `backbone` by its name at that kind's size. change: of the recipe, before it is
    composed.
    """
    elsewhere()
    name, size = BACKBONES[kind]
    name = backbone or name
    recipe = resolve(True)
    wants = teacher or wants_teacher(recipe)
    if not wants:
        recipe = resolve(False)
    if change is not None:
        change(recipe)
    guide = teacher_for(recipe, name, size, classes) if wants else None
    facts = {"batch_size": ROWS, "num_samples": SAMPLES, "epochs": 2, "steps_per_epoch": SAMPLES // ROWS, **more}
    labels = torch.arange(SAMPLES) % classes
    return kdcore.compose(name, recipe, num_classes=classes, teacher=guide, image_size=size, seed=seed, labels=labels, **facts)


def wants_teacher(recipe: Recipe) -> bool:
    """Whether a part needs a teacher that no schedule brings."""
    parts = recipe.components()
    brings = "teacher" in getattr(target_of(parts["schedule"]), "provides", ())
    return any("teacher" in declared(part) for part in parts.values()) and not brings


def teacher_for(recipe: Recipe, name: str, size: int, classes: int) -> nn.Module:
    """A network drawn at random; with linear exits where a source asks it exit by exit, and the method gives it none."""
    with seeded("kit", "teacher"):
        teacher = create_backbone(name, plugins=recipe.plugins, num_classes=classes, img_size=(size, size))
        by_exit = any(configured(source).get("exits") == "match" for source in recipe.method.sources.values())
        if by_exit and recipe.method.exits is not None and recipe.method.teacher_exits is None:
            return attach_exits(teacher, "linear", image_size=size)
    return teacher


def batch(composition: Composition, number: int = 0, rows: int = ROWS) -> tuple[Tensor, Tensor, Tensor]:
    """Noise [B, C, H, W], labels with two neighbours of each class, and sample numbers."""
    context = composition.context
    with seeded("kit", "batch", number):
        images = torch.randn(rows, context.in_chans, *context.image_size)
    index = (torch.arange(rows) + number * rows) % SAMPLES
    return images, torch.arange(rows) // 2 % context.num_classes, index


def started(composition: Composition, phase: Phase, before: nn.Module | None = None) -> tuple[DistillationTask, torch.optim.Optimizer]:
    """A phase's task, in training mode, and its optimiser. before: the network of a result that it may ask for; the student as it stands
    where there is none."""
    before = copied(composition.student) if before is None else before
    composition.start(phase)
    task = composition.task(phase, teacher=before)
    task.train()
    return task, create_optimizer(task.objective, Config(model="kit", data="kit", lr=0.02))


def phases(composition: Composition) -> list[Phase]:
    """The first phase and the last, which may be one; and of those between them each that is the first to train with some term."""
    first, *between, last = composition.phases[0], *composition.phases[1:-1], composition.phases[-1]
    if len(composition.phases) < 3:
        return composition.phases
    unseen = {term.name for term in composition.terms} - _terms(composition, first) - _terms(composition, last)
    chosen = [first]
    for phase in between:
        if unseen and unseen & (there := _terms(composition, phase)):
            chosen.append(phase)
            unseen -= there
    return [*chosen, last]


def _terms(composition: Composition, phase: Phase) -> set[str]:
    return {term.name for term in composition.task(phase, rehearsal=True).objective.terms}


def forward_backward(task: DistillationTask, given: tuple[Tensor, Tensor, Tensor], number: int = 0) -> dict[str, Tensor]:
    """The first half of a step, under random numbers of its own: the clocks, the forward and the backward pass."""
    elsewhere(number)
    task.at(epoch=number / 4, progress=min(number / 8, 1.0))
    with seeded("kit", "step", number):
        answer = task(*given)
        answer["loss"].backward()
    return {name: value.detach() for name, value in answer.items() if name != "output"}


def take_step(task: DistillationTask, optimizer: torch.optim.Optimizer, given: tuple[Tensor, Tensor, Tensor], number: int = 0):
    """One step as the loop takes it. Returns the loss and every term, 0-dim tensors by name."""
    answer = forward_backward(task, given, number)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    task.after_step()
    return answer


def trained(composition: Composition, steps: int = 2) -> list[dict[str, Tensor]]:
    """Some steps of each of `phases`: what each gave."""
    found = []
    for phase in phases(composition):
        task, optimizer = started(composition, phase)
        found += [take_step(task, optimizer, batch(composition, step), step) for step in range(steps)]
    return found


def not_finite(answers: list[dict[str, Tensor]]) -> str | None:
    """`kd is nan`: the first value that is not finite."""
    for answer in answers:
        for name, value in answer.items():
            if not bool(value.isfinite().all()):
                return f"{name} is {float(value)}"
    return None


def first_difference(one: list[dict[str, Tensor]], other: list[dict[str, Tensor]]) -> str | None:
    """`kd was 0.1 and is 0.2 in step 2`: the first value that is not the same to the bit, where both have it."""
    for step, (a, b) in enumerate(zip(one, other, strict=True), start=1):
        for name in a.keys() & b.keys():
            if not torch.equal(a[name], b[name]):
                return f"{name} was {float(a[name]):.9g} and is {float(b[name]):.9g} in step {step}"
    return None


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether two states are the same to the bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)

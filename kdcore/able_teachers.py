"""Whether a given teacher knows anything: it is asked about a few images before a run begins, and what it knows is said.

A teacher at chance is allowed, since there are studies of bad teachers, and refused where a part says `needs = ("able_teacher",)`.
"""

import math
from collections.abc import Iterable
from itertools import islice

import torch
from torch import Tensor, nn

from kdcore.config import Config
from kdcore.data import Batches, Data, Preprocessing
from kdcore.errors import Refused
from kdcore.methods import declared
from kdcore.recipes import Recipe
from kdcore.tapped import dry

BATCH, BATCHES = 32, 8
"""The teacher answers to 256 images at most: ResNet-50 at 224 pixels takes some ten seconds for that on two cores."""

CLEARLY = 2.0
"""Standard deviations of a guess's accuracy by which a teacher has to beat guessing."""


def check_teacher(
    label: str, teacher: nn.Module, recipe: Recipe, data: Data, preprocessing: Preprocessing, device: torch.device, config: Config
) -> list[str]:
    """A line on how often the teacher (images -> Outputs) is right, on dev images or, without such, on training images.

    None for a teacher of other classes. Raises KdError for one that is right no more often than guessing, where a part needs an able one.
    """
    name, split = ("dev", data.dev) if data.dev is not None else ("training", data.train)
    budget = config.resident_gb if split.images is not None else 0.0  # of photos only those are opened that it is asked about
    batches = Batches(split, preprocessing, batch_size=BATCH, shuffle=True, seed=config.seed, device=device, resident_gb=budget)
    guesses, labels = answers(teacher, islice(batches.epoch(0), BATCHES), data.num_classes)
    if guesses is None:
        return []
    right, guessing, able = skill(guesses, labels)
    said = f"the teacher {label} is right on {right:.1%} of {len(labels)} {name} images, and guessing would be on {guessing:.1%}"
    if able:
        return [said]
    for place, component in recipe.components().items():
        if "able_teacher" in declared(component):
            raise Refused(
                f"{said}: it knows nothing that {recipe.labels[place]} could pass on; train it on this data first, or give another --teacher"
                + (", or add --schedule single, which takes any" if place == "schedule" else "")
            )
    return [f"{said}: it has little to teach"]


def answers(teacher: nn.Module, batches: Iterable[tuple[Tensor, Tensor, Tensor]], classes: int) -> tuple[Tensor | None, Tensor]:
    """The classes that the teacher's deepest exit gives, and the right ones, int64 [N]; None for a teacher of other classes."""
    guesses, labels = [], []
    with dry(teacher), torch.no_grad():
        for images, truth, _ in batches:
            logits = teacher(images).logits[-1]
            if logits.shape[-1] != classes:
                return None, truth
            guesses.append(logits.argmax(dim=-1))
            labels.append(truth)
    return torch.cat(guesses).cpu(), torch.cat(labels).cpu()


def skill(guesses: Tensor, labels: Tensor) -> tuple[float, float, bool]:
    """Share that is right, share that guesses with the same frequencies of classes would have right, and whether the first is clearly more.

    Both int64 [N]. Guessing is Cohen's expected agreement, so that a teacher that always says the commonest class is one that guesses.
    """
    count, classes = len(labels), int(max(guesses.max(), labels.max())) + 1
    said, true = (torch.bincount(found, minlength=classes).double() / count for found in (guesses, labels))
    right, guessing = float((guesses == labels).double().mean()), float((said * true).sum())
    return right, guessing, right > guessing + CLEARLY * math.sqrt(guessing * (1 - guessing) / count)

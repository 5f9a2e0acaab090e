"""The virtual teacher: one that is always right, and sure of it to the same degree. It is made of the labels."""

from typing import Annotated, Literal

import torch.nn.functional as F
from annotated_types import Gt, Le
from torch import Tensor

from kdcore import SoftTargets, Step, needs
from kdcore.losses import full
from kdcore.methods import sees


def virtual_probabilities(truth: Tensor, correct: float = 0.99) -> Tensor:
    """The paper's p^d, equation 8: `correct` for the true class, the rest in equal parts for the others.

    truth: labels as probabilities [B, K], one-hot or mixed (a mixture of images gets the mixture of their teachers).
    """
    others = (1 - correct) / max(truth.shape[-1] - 1, 1)
    return others + (correct - others) * truth


@sees("logits")
@needs("views")
def virtual(
    step: Step,
    *,
    correct: Annotated[float, Gt(0), Le(1)] = 0.99,
    temperature: Annotated[float, Gt(0)] = 20.0,
    soften: Literal["teacher", "both"] = "teacher",
) -> SoftTargets:
    """A teacher built from the labels, the same for every exit: `correct` for the true class, equal parts of the rest for the others.

    correct: the paper's a, above 0 and at most 1, .99 in the code. soften: `teacher` gives probabilities, the softmax of those values over the
    `temperature` (the authors' CIFAR-100 code: the student is not softened, and there is no T squared); `both` gives the values as logits,
    so that the loss softens both sides by its own temperature (the paper's equation 9, ImageNet), without `temperature`.
    temperature: T > 0, with `teacher` alone.
    """
    logits, batch = step.outputs.logits[-1], step.batch
    truth = F.one_hot(batch.labels, logits.shape[-1]) if batch.soft_labels is None else batch.soft_labels
    values = virtual_probabilities(truth.to(full(logits).dtype), correct)
    if soften == "both":
        return SoftTargets(logits=[values])
    return SoftTargets(probs=[(values / temperature).softmax(dim=-1)])

"""Decoupled knowledge distillation (Zhao et al., CVPR 2022, arXiv:2203.08679): KD in two parts, each with a weight of its own.

What it registers: the loss `dkd`, and the method `dkd`: cross entropy and that loss, with the weight's warm-up.
"""

from functools import partial
from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from kdcore import CE, Method, SoftTargets, Step, Term, Where, hookimpl, needs, teacher
from kdcore.losses import full, kl, paired
from kdcore.methods import sees


@sees("logits")
@needs("hard_labels")
def decoupled(
    step: Step,
    targets: SoftTargets,
    *,
    alpha: Annotated[float, Ge(0)] = 1.0,
    beta: Annotated[float, Ge(0)] = 8.0,
    temperature: Annotated[float, Gt(0)] = 4.0,
) -> Tensor:
    """T squared (alpha TCKD + beta NCKD), equation 7, for every exit.

    alpha: weight of what the teacher makes of the true class. beta: weight of how it ranks the others; the authors choose it for each
    teacher, 8 for most. temperature: T, on both sides. Do not use it with two classes: NCKD is zero there, and TCKD is plain KD.
    """
    pairs = paired(step.outputs.logits, targets.logits)
    return sum(dkd_loss(full(student), full(target), step.batch.labels, alpha, beta, temperature) for student, target in pairs)


decoupled.reads = ("logits",)


def dkd_loss(student: Tensor, target: Tensor, labels: Tensor, alpha: float = 1.0, beta: float = 8.0, temperature: float = 4.0) -> Tensor:
    """Equation 7 of logits [B, K] twice and labels [B], mean over the batch. In log space: a student's certainty gives no infinity."""
    whether, which = divided(student / temperature, labels)
    target_whether, target_which = divided(target / temperature, labels)
    tckd, nckd = kl(whether, target_whether), kl(which, target_which)  # equation 5's parts, uncoupled: no (1 - p_t)
    return temperature**2 * (alpha * tckd + beta * nckd)


def divided(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Logits whose softmax is b = (p_t, 1 - p_t), [B, 2], and those of the other classes, [B, K - 1], whose softmax is equation 2's."""
    behind = torch.arange(1, logits.shape[-1], device=logits.device)
    true, others = logits.gather(1, labels[:, None]), logits.gather(1, (labels[:, None] + behind) % logits.shape[-1])
    return torch.cat([true, others.logsumexp(dim=1, keepdim=True)], dim=1), others


def warmed_up(where: Where, *, epochs: float) -> float:
    """The authors' min(t / epochs, 1) in epoch t, counted from 1."""
    return min((int(where.epoch) + 1) / epochs, 1.0)


def dkd(
    *,
    alpha: Annotated[float, Ge(0)] = 1.0,
    beta: Annotated[float, Ge(0)] = 8.0,
    temperature: Annotated[float, Gt(0)] = 4.0,
    warmup: Annotated[float, Gt(0)] = 20.0,
) -> Method:
    """Cross entropy, and DKD from a teacher, on every exit. alpha, beta, temperature: as the loss has them. warmup: epochs in which it grows."""
    loss = partial(decoupled, alpha=alpha, beta=beta, temperature=temperature)
    terms = {"ce": Term(CE()), "dkd": Term(loss, source="teacher", weight=partial(warmed_up, epochs=warmup))}
    return Method(sources={"teacher": teacher}, terms=terms)


@hookimpl
def losses():
    return {"dkd": decoupled}


@hookimpl
def methods():
    return {"dkd": dkd}

"""The two methods, with the conventions of the authors' code (yuanli2333/Teacher-free-Knowledge-Distillation, `my_loss_function.py`).

    self:  L = (1 - alpha) CE + alpha m T^2 mean KL(p_teacher^T || p^T)      teacher: the same network, trained before
    reg:   L = (1 - alpha) CE + alpha m mean KL(p_virtual^T || p)            teacher: the labels; only it is softened

The mean is torch's old one, over samples and classes, so that it is K times smaller than the mean over samples; the code makes up for it
by the multiplier m. Both are options here: m with `mean` equals m / K with `batchmean`.
"""

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from kdcore import CE, KL, Method, Taught, Term, teacher
from kdcore_tfkd.schedule import itself
from kdcore_tfkd.virtual import virtual

Reduction = Literal["mean", "batchmean"]


@dataclass(frozen=True)
class Preset:
    """A network's values in the code's `params.json`. Where that has no multiplier, it is 1."""

    alpha: float
    temperature: float
    multiplier: float = 1.0
    reduction: Reduction = "mean"


SELF = {
    "resnet18": Preset(0.95, 6, 50),
    "resnet50": Preset(0.95, 6),
    "mobilenetv2": Preset(0.95, 20, 1),
    "shufflenetv2": Preset(0.95, 20, 1),
    "densenet121": Preset(0.9, 20, 50),
    "googlenet": Preset(0.4, 20, 50),
    "resnext29": Preset(0.9, 20, 100),
    "alexnet": Preset(0.1, 20),
    "imagenet": Preset(0.1, 20),
}
"""Of self-training: CIFAR-100's networks, and the one setting for ImageNet."""

REG = {
    "resnet18": Preset(0.1, 20, 100),
    "mobilenetv2": Preset(0.95, 40, 1),
    "shufflenetv2": Preset(0.95, 10, 1),
    "densenet121": Preset(0.1, 40, reduction="batchmean"),  # no multiplier there, but "batch_mean": 1
    "googlenet": Preset(0.1, 40, 50),
    "resnext29": Preset(0.5, 40, reduction="batchmean"),
}
"""Of the virtual teacher, CIFAR-100."""


def reg(
    *,
    preset: Literal["resnet18", "mobilenetv2", "shufflenetv2", "densenet121", "googlenet", "resnext29"] = "resnet18",
    alpha: Annotated[float, Ge(0), Le(1)] | None = None,
    temperature: Annotated[float, Gt(0)] | None = None,
    multiplier: Annotated[float, Ge(0)] | None = None,
    reduction: Reduction | None = None,
    correct: Annotated[float, Gt(0), Le(1)] = 0.99,
    soften: Literal["teacher", "both"] = "teacher",
) -> Method:
    """Tf-KD_reg (Yuan et al., arXiv:1909.11723): a virtual teacher, made of the labels, regularises every exit. One phase, no second network.

    preset: the network whose values the authors' code has for CIFAR-100; what is not given below is the preset's. alpha: share of the teacher
    in [0, 1], the labels having 1 - alpha. temperature: T > 0. multiplier: on the divergence, beside alpha. reduction: of the divergence,
    `mean` over samples and classes (the code's), or `batchmean`. correct: the teacher's value for the true class. soften: `teacher` alone,
    without T squared (the code for CIFAR-100), or `both` sides with it (the paper's equation 9).
    """
    chosen = _filled(REG[preset], alpha, temperature, multiplier, reduction)
    divergence = KL(temperature=chosen.temperature, reduction=chosen.reduction)  # against probabilities, T is 1 and there is no T squared
    return Method(
        sources={"virtual": partial(virtual, correct=correct, temperature=chosen.temperature, soften=soften)},
        terms={
            "ce": Term(CE(), weight=1 - chosen.alpha),
            "kd": Term(divergence, source="virtual", weight=chosen.alpha * chosen.multiplier),
        },
    )


def self_training(
    *,
    preset: Literal[
        "resnet18", "resnet50", "mobilenetv2", "shufflenetv2", "densenet121", "googlenet", "resnext29", "alexnet", "imagenet"
    ] = "resnet18",
    alpha: Annotated[float, Ge(0), Le(1)] | None = None,
    temperature: Annotated[float, Gt(0)] | None = None,
    multiplier: Annotated[float, Ge(0)] | None = None,
    reduction: Reduction | None = None,
) -> Method:
    """Tf-KD_self (Yuan et al., arXiv:1909.11723): a network teaches another of its kind, which starts from scratch.

    The teacher is `--teacher RUN`, or is trained first, with cross entropy alone, as a phase of the same run (-o tfkd.self.start,
    teacher_epochs and checkpoint say how). preset: the network whose values the authors' code has; what is not given below is the preset's.
    alpha: share of the teacher in [0, 1], the labels having 1 - alpha. temperature: T > 0, on both sides, with T squared. multiplier: on the
    divergence, beside alpha. reduction: of the divergence, `mean` over samples and classes (the code's), or `batchmean`.
    """
    chosen = _filled(SELF[preset], alpha, temperature, multiplier, reduction)
    return Method(
        sources={"teacher": teacher},
        terms={
            "ce": Term(CE(), weight=Taught(1 - chosen.alpha)),
            "kd": Term(
                KL(temperature=chosen.temperature, reduction=chosen.reduction), source="teacher", weight=chosen.alpha * chosen.multiplier
            ),
        },
        schedule=itself,
    )


def _filled(
    preset: Preset, alpha: float | None, temperature: float | None, multiplier: float | None, reduction: Reduction | None
) -> Preset:
    return Preset(
        preset.alpha if alpha is None else alpha,
        preset.temperature if temperature is None else temperature,
        preset.multiplier if multiplier is None else multiplier,
        reduction or preset.reduction,
    )

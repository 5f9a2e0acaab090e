"""The core's losses. They carry the conventions in which the papers differ as options, so that no plugin writes its own."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Lt
from torch import Tensor

from kdcore.context import Context
from kdcore.errors import KdError, Refused
from kdcore.vocabulary import SoftTargets, Step

TINY = torch.finfo(torch.float32).tiny
SHORT = (torch.bfloat16, torch.float16)


def full(tensor: Tensor) -> Tensor:
    """float32 under autocast; float64 stays float64."""
    return tensor.float() if tensor.dtype in SHORT else tensor


def paired(students: list[Tensor], targets: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Each exit with what it imitates: the one target, or its own."""
    return [(student, targets[0] if len(targets) == 1 else targets[k]) for k, student in enumerate(students)]


def alike(tensors: list[Tensor]) -> bool:
    """Whether all have one shape, so that one operation can do the arithmetic of all."""
    return all(tensor.shape == tensors[0].shape for tensor in tensors)


def total(values: list[Tensor]) -> Tensor:
    """The sum of scalars, without a needless operation for one."""
    return values[0] if len(values) == 1 else torch.stack(values).sum()


def stacked(students: list[Tensor], targets: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """As `paired`, but one pair [E, B, K] and [B, K], or [E, B, K] twice, where all exits have the same classes.

    One log-softmax then serves all, and a target that all imitate is softened once. Forward and backward of KL at B = 64, K = 100 on one
    thread: .68 of the time for two exits, .50 for four.
    """
    if len(students) == 1 or not alike(students) or not alike(targets):
        return paired(students, targets)
    return [(torch.stack(students), targets[0] if len(targets) == 1 else torch.stack(targets))]


def cross_entropy(
    logits: Tensor,
    batch_labels: Tensor,
    soft_labels: Tensor | None = None,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
) -> Tensor:
    """Mean cross entropy of logits [B, K] in float32, against labels [B] or soft labels [B, K].

    With class weights [K] the mean is torch's weighted one: the sum of w_y l over the sum of w_y. Soft labels count w_y in proportion, so
    that those with all on one class give what that label gives (torch would divide them by B).
    """
    logits = full(logits)
    if class_weights is None:
        return F.cross_entropy(logits, batch_labels if soft_labels is None else soft_labels, label_smoothing=label_smoothing)
    weight = class_weights.to(logits.dtype)
    if soft_labels is None:
        return F.cross_entropy(logits, batch_labels, weight, label_smoothing=label_smoothing)
    soft = soft_labels.to(logits.dtype)
    return F.cross_entropy(logits, soft, weight, reduction="sum", label_smoothing=label_smoothing) / (soft * weight).sum()


def summed_cross_entropy(logits: list[Tensor], labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """The sum over exits of the mean cross entropy of each against hard labels [B]; every exit's gradient is what it is alone, to the
    bit without smoothing.

    One cross entropy over [E x B, K] where three or more exits have the same classes. Forward and backward at B = 64, K = 100 on one
    thread: .90 of the time for four exits, 1.1 for two, which therefore stay apart; on a GPU it also saves launches.
    """
    if len(logits) > 2 and alike(logits):
        rows = F.cross_entropy(full(torch.cat(logits)), labels.repeat(len(logits)), reduction="sum", label_smoothing=label_smoothing)
        return rows / labels.shape[0]
    return total([F.cross_entropy(full(entry), labels, label_smoothing=label_smoothing) for entry in logits])


def kl(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 1.0,
    *,
    scale_t2: bool = True,
    form: str = "kl",
    direction: str = "forward",
    reduction: str = "batchmean",
) -> Tensor:
    """Divergence between softened logits; `KL` documents the options. The teacher is taken as it comes: detach it first.

    Both are [B, K], or the student's are those of E exits, [E, B, K], and the value is the sum over them.
    """
    student = F.log_softmax(full(student_logits) / temperature, dim=-1)
    teacher = F.log_softmax(full(teacher_logits) / temperature, dim=-1)
    return divergence(student, teacher, form=form, direction=direction, reduction=reduction, times=temperature**2 if scale_t2 else 1.0)


def divergence(
    student: Tensor, target: Tensor, *, form: str = "kl", direction: str = "forward", reduction: str = "batchmean", times: float = 1.0
) -> Tensor:
    """The divergence between log-probabilities [B, K] of student and target, or of E students [E, B, K], summed over E; `times` a number."""
    if form == "soft_ce":
        summed = -(target.exp() * student).sum()
    elif direction == "forward":
        summed = _kl(target, student)
    elif direction == "reverse":
        summed = _kl(student, target)
    else:
        summed = 0.5 * (_kl(target, student) + _kl(student, target))
    count = student.shape[-2] * student.shape[-1] if reduction == "mean" else student.shape[-2]
    return summed / count if times == 1 else summed * (times / count)  # one operation, forward and backward


def _kl(p: Tensor, q: Tensor) -> Tensor:
    return F.kl_div(q, p, reduction="sum", log_target=True)  # (p.exp() * (p - q)).sum() in one call; p and q may broadcast


@dataclass(frozen=True, kw_only=True)
class CE:
    """Cross entropy of every exit against the labels: hard [B], or soft [B, K] where mixup or cutmix made some.

    label_smoothing: share of the target spread over all classes, in [0, 1) (Szegedy et al., arXiv:1512.00567).
    class_weights: `balanced` weighs class c by N / (K N_c) over the training labels, as scikit-learn does; the mean over a batch is then
    the weighted one, see `cross_entropy`. all_views: take the rows of every view, not only of view 0.
    """

    label_smoothing: Annotated[float, Ge(0), Lt(1)] = 0.0
    class_weights: Literal["none", "balanced"] = "none"
    all_views: bool = False
    reads = ()
    sees = ("logits",)

    _weights: Tensor | None = field(default=None, init=False, repr=False, compare=False)  # [K], on the run's device, once it is composed

    @property
    def needs(self) -> tuple[str, ...]:
        return ("views",) if self.all_views else ()

    def setup(self, context: Context) -> None:
        """The weights of the classes, once. Raises KdError where they are asked for and nobody knows the training labels."""
        if self.class_weights == "none":
            return
        if context.labels is None:
            raise KdError("ce: class_weights=balanced counts the training labels, and there are none here: compose(..., labels=...)")
        assert context.student is not None  # it is there from setup on
        weights = balanced_weights(context.labels, context.num_classes).to(next(context.student.parameters()).device)
        object.__setattr__(self, "_weights", weights)  # frozen for its users; this instance is this composition's own

    def __call__(self, step: Step, targets: SoftTargets | None = None) -> Tensor:
        batch, smoothing, logits = step.batch, self.label_smoothing, step.outputs.logits
        if len(logits) == 1:
            return cross_entropy(logits[0], batch.labels, batch.soft_labels, smoothing, self._weights)
        if batch.soft_labels is None and self._weights is None:
            return summed_cross_entropy(logits, batch.labels, smoothing)
        return total([cross_entropy(entry, batch.labels, batch.soft_labels, smoothing, self._weights) for entry in logits])


def balanced_weights(labels: Tensor, num_classes: int) -> Tensor:
    """scikit-learn's balanced class weights, float32 [K]: N / (K N_c), K counting the classes that have a label; 1 for one that has none."""
    from sklearn.utils.class_weight import compute_class_weight

    known = labels.cpu().numpy()
    present = np.unique(known)
    weights = torch.ones(num_classes)
    weights[torch.from_numpy(present)] = torch.from_numpy(compute_class_weight("balanced", classes=present, y=known)).float()
    return weights


@dataclass(frozen=True, kw_only=True)
class KL:
    """Divergence of every exit's softened probabilities from the soft targets' (Hinton et al., arXiv:1503.02531).

    temperature: T > 0, on both sides. scale_t2: multiply by T squared, which keeps the gradient's size. form: `kl`, or `soft_ce`
    (-sum p log q: the same gradient, another value). direction: forward KL(teacher || student), reverse, or jeffreys (their mean).
    reduction: `batchmean` (sum over classes, mean over samples), or torch's `mean` over B x K. all_views: the rows of every view.
    Targets that are probabilities are never softened: against them T is 1 on both sides, without T squared.
    """

    temperature: Annotated[float, Gt(0)] = 4.0
    scale_t2: bool = True
    form: Literal["kl", "soft_ce"] = "kl"
    direction: Literal["forward", "reverse", "jeffreys"] = "forward"
    reduction: Literal["batchmean", "mean"] = "batchmean"
    all_views: bool = False
    _how: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)  # the last three, for `divergence`

    reads = ("logits", "probs")
    sees = ("logits",)

    def __post_init__(self) -> None:
        if self.form == "soft_ce" and self.direction != "forward":
            raise KdError(f"kl: form=soft_ce has no direction but forward, and {self.direction} was asked for; use form=kl")
        object.__setattr__(self, "_how", {"form": self.form, "direction": self.direction, "reduction": self.reduction})

    @property
    def needs(self) -> tuple[str, ...]:
        return ("views",) if self.all_views else ()

    def __call__(self, step: Step, targets: SoftTargets) -> Tensor:
        how = self._how
        if targets.probs is not None:
            losses = [
                divergence(F.log_softmax(full(student), dim=-1), full(probs).clamp_min(TINY).log(), **how)
                for student, probs in stacked(step.outputs.logits, targets.probs)
            ]
        else:
            students, teachers = step.outputs.logits, targets.logits
            assert teachers is not None
            if len(students) == 1:
                return kl(students[0], teachers[0], self.temperature, scale_t2=self.scale_t2, **how)
            losses = [
                kl(student, teacher, self.temperature, scale_t2=self.scale_t2, **how) for student, teacher in stacked(students, teachers)
            ]
        return total(losses)


@dataclass(frozen=True, kw_only=True)
class MSE:
    """Squared difference of every exit from the soft targets.

    space: probabilities (softmax at T = 1), logits, or embeddings [B, D], whose widths must agree. reduction: `mean` over all
    elements, or `batchmean` (sum over elements, mean over samples). all_views: the rows of every view.
    """

    space: Literal["probabilities", "logits", "embeddings"] = "probabilities"
    reduction: Literal["mean", "batchmean"] = "mean"
    all_views: bool = False

    @property
    def reads(self) -> tuple[str, ...]:
        return {"probabilities": ("logits", "probs"), "logits": ("logits",), "embeddings": ("embeddings",)}[self.space]

    @property
    def needs(self) -> tuple[str, ...]:
        return ("views",) if self.all_views else ()

    def __call__(self, step: Step, targets: SoftTargets) -> Tensor:
        if self.space == "embeddings":
            assert targets.embeddings is not None
            pairs = paired(step.outputs.embeddings, targets.embeddings)
            for student, target in pairs:
                if student.shape != target.shape:  # torch would broadcast in silence
                    raise Refused(
                        f"mse compares embeddings {student.shape[-1]} wide with a target {target.shape[-1]} wide: "
                        "take --exits whose embeddings are as wide as that, or leave the term out"
                    )
        elif self.space == "logits":
            assert targets.logits is not None
            pairs = paired(step.outputs.logits, targets.logits)
        else:
            entries = targets.probs
            if entries is None:
                assert targets.logits is not None
                entries = [full(logits).softmax(dim=-1) for logits in targets.logits]
            pairs = [(full(student).softmax(dim=-1), probs) for student, probs in paired(step.outputs.logits, entries)]
        losses = [(full(student) - full(target)).square() for student, target in pairs]
        divisors = [loss.shape[0] if self.reduction == "batchmean" else loss.numel() for loss in losses]
        return total([loss.sum() / divisor for loss, divisor in zip(losses, divisors, strict=True)])

"""The triplet and the ordinal loss on embeddings: equations 4 and 5, and the authors' `TripletLikeLoss`.

    triplet:  max(D(a, p) - D(a, n) + margin, 0)      a, p of one class, n of another
    ordinal:  max(D(a, b) - D(a, c) + margin, 0)      b of a grade beyond a's, c of a grade beyond b's, on the same side

Both take all triplets of the batch, and the mean over those that are not yet satisfied.
"""

from typing import Annotated, Literal

import torch
from annotated_types import Gt
from torch import Tensor

from kdcore import Context, KdError, SoftTargets, Step
from kdcore.losses import full
from kdcore_mango.hinge import Hinges, hinges, pairwise_distances

Average = Literal["positive", "valid"]


def triplet_loss(
    embeddings: Tensor, labels: Tensor, *, margin: float = 2.0, squared: bool = False, average: Average = "positive"
) -> Tensor:
    """The triplet loss of embeddings [B, D] with labels [B]; 0, with gradients of 0, where there is no triplet."""
    alike = labels[:, None] == labels
    return _mean(hinges(pairwise_distances(full(embeddings), squared), alike.clone().fill_diagonal_(False), ~alike, margin), average)


def ordinal_loss(
    embeddings: Tensor,
    grades: Tensor,
    num_grades: int,
    *,
    margin: float = 2.0,
    squared: bool = False,
    average: Average = "positive",
    anchors: Literal["both", "lower"] = "both",
) -> Tensor:
    """The ordinal loss of embeddings [B, D] with grades [B] from 0 to num_grades - 1; 0 where there are fewer than three grades.

    anchors: on `both` sides of b, or below it alone.
    """
    distances = pairwise_distances(full(embeddings), squared)
    below, found = grades[:, None] < grades, None  # [a, x]: a's grade is below x's
    for grade in range(1, num_grades - 1):
        near = (grades == grade).expand_as(below)
        low, high = grades < grade, grades > grade
        far = low[:, None] & high
        sides = near & low[:, None]
        if anchors == "both":
            far, sides = far | (high[:, None] & low), sides | (near & high[:, None])
        more = hinges(distances, sides, far, margin)
        found = more if found is None else found + more
    return (distances * 0).sum() if found is None else _mean(found, average)


def _mean(found: Hinges, average: Average) -> Tensor:
    return found.total / (found.positive if average == "positive" else found.triplets).clamp_min(1)


class TripletLoss:
    """Draws the embeddings of one class together and those of different classes apart, on every exit; the losses of the exits add up.

    margin: the paper's delta, 2. squared: squared Euclidean distances (the paper's equation 4), or plain ones (its code). average: over
    the triplets that are not yet satisfied (`positive`), or over all (`valid`). One matrix product, two sorts and no cube of triplets: at
    a batch of 256 with embeddings of 512 it takes less than a hundredth of the time of a plain step of ResNet-18 at 32 pixels.
    """

    needs = ("hard_labels",)
    reads = ()
    sees = ("embeddings",)

    def __init__(self, *, margin: Annotated[float, Gt(0)] = 2.0, squared: bool = False, average: Average = "positive") -> None:
        self.margin, self.squared, self.average = margin, squared, average

    def __call__(self, step: Step, targets: SoftTargets | None = None) -> Tensor:
        labels = step.batch.labels
        losses = [
            triplet_loss(entry, labels, margin=self.margin, squared=self.squared, average=self.average) for entry in step.outputs.embeddings
        ]
        return torch.stack(losses).sum()


class OrdinalLoss:
    """Keeps the order of classes that are grades: from any sample, the nearer grade lies nearer than the farther one on the same side.

    order: the classes' numbers (from 0, as `kd data` lists them) from the lowest grade to the highest; without it the classes are in order.
    margin: the paper's Delta, 2. anchors: samples on `both` sides of the middle grade, as in the authors' code, or `lower`: those below it,
    as in the paper's equation 5. squared: squared Euclidean distances, or plain ones. average: as for the triplet loss. With two classes it is 0.
    """

    needs = ("hard_labels",)
    reads = ()
    sees = ("embeddings",)

    def __init__(
        self,
        *,
        order: list[int] | None = None,
        margin: Annotated[float, Gt(0)] = 2.0,
        squared: bool = False,
        average: Average = "positive",
        anchors: Literal["both", "lower"] = "both",
    ) -> None:
        self.order, self.margin, self.squared, self.average, self.anchors = order, margin, squared, average, anchors
        self._grades: Tensor | None = None

    def setup(self, context: Context) -> None:
        """Checks the order against the classes. Raises KdError where it is not one of them all."""
        self.grades_of(context.num_classes)
        student = context.student
        assert student is not None  # it is there from setup on
        self._grades = self.grades_of(context.num_classes).to(next(student.parameters()).device)

    def grades_of(self, num_classes: int) -> Tensor:
        """Each class's grade, from 0: int64 [K]."""
        return grade_of_class(self.order, num_classes, "mango.ordinal")

    def __call__(self, step: Step, targets: SoftTargets | None = None) -> Tensor:
        classes = step.outputs.logits[-1].shape[-1]
        grade = self.grades_of(classes).to(step.batch.labels.device) if self._grades is None else self._grades
        grades = grade[step.batch.labels]
        losses = [
            ordinal_loss(entry, grades, len(grade), margin=self.margin, squared=self.squared, average=self.average, anchors=self.anchors)
            for entry in step.outputs.embeddings
        ]
        return torch.stack(losses).sum()


def grade_of_class(order: list[int] | None, num_classes: int, who: str) -> Tensor:
    """Each class's grade, from 0, where `order` names the classes from the lowest grade to the highest."""
    order = list(range(num_classes)) if order is None else list(order)
    if sorted(order) != list(range(num_classes)):
        raise KdError(
            f"{who}: order={order} is no order of the {num_classes} classes: name each of 0 to {num_classes - 1} once, "
            "from the lowest grade to the highest"
        )
    return torch.tensor(order).argsort()

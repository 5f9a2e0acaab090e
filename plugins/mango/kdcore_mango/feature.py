"""The feature loss: every exit's embedding is drawn to the target's, the deepest exit's."""

from typing import Literal

import torch
from torch import Tensor

from kdcore import KdError, SoftTargets, Step
from kdcore.losses import full, paired


class FeatureLoss:
    """The distance of every exit's embedding [B, D] from the soft targets', summed over the exits that it sees.

    reduction: `frobenius`, the norm of the whole [B, D] difference, not squared (the authors' torch.dist), or `batchmean`, the squared norm
    of the paper's equation, as a mean over samples. Widths must agree: KdError where they do not.
    """

    reads = ("embeddings",)
    sees = ("embeddings",)

    def __init__(self, *, reduction: Literal["frobenius", "batchmean"] = "frobenius") -> None:
        self.reduction = reduction

    def __call__(self, step: Step, targets: SoftTargets) -> Tensor:
        assert targets.embeddings is not None
        losses = []
        for student, target in paired(step.outputs.embeddings, targets.embeddings):
            if student.shape != target.shape:
                raise KdError(
                    f"mango.feature compares embeddings {student.shape[-1]} wide with a target {target.shape[-1]} wide: "
                    "--exits mango.shallownet makes them alike; in --method mango, -o feature_weight=0 leaves the comparison out"
                )
            difference = full(student) - full(target)
            norm = torch.linalg.vector_norm(difference)
            losses.append(norm if self.reduction == "frobenius" else difference.square().sum() / len(difference))
        return torch.stack(losses).sum()

"""The feature loss: every exit's embedding is drawn to the deepest exit's. The four published forms are options of one distance."""

from typing import Literal

import torch
from torch import Tensor, nn

from kdcore import KdError, SoftTargets, Step
from kdcore.losses import full, paired

Reduction = Literal["sum", "batchmean", "mean", "frobenius"]


def distance(student: Tensor, target: Tensor, reduction: Reduction = "sum", mask: bool = False) -> Tensor:
    """Distance of embeddings [B, D] from targets [B, D]; `HintLoss` documents the options. Its gradient is zero where it is zero."""
    difference = student - target
    if mask:
        difference = difference * ((student > 0) | (target > 0))
    if reduction == "frobenius":
        return torch.linalg.vector_norm(difference)
    total = difference.square().sum()
    if reduction == "batchmean":
        return total / difference.shape[0]
    return total / difference.numel() if reduction == "mean" else total


class HintLoss(nn.Module):
    """The distance of every exit's embedding [B, D_i] from the soft targets' embedding [B, D], summed over the exits it sees.

    reduction: `sum` of the squares over batch and width (|F_i - F_C|^2 on the paper's slides; grows with the batch), `batchmean` (over
    the width only, mean over samples), `mean` over both, or `frobenius`, the norm of the whole [B, D] matrix, not squared (the journal
    version's torch.dist; grows with the batch's root). mask: count only places where F_i > 0 or F_C > 0 (luanyunteng's code).
    adapter: a learnt linear layer D_i -> D for each exit; without one the widths must agree, or KdError is raised when the run is
    composed. skip_nearest: leave out the last of the exits it sees, the one nearest the teacher, if it sees more than one.

    Adapters take their shapes in the first forward pass, which the core makes before there is an optimiser: only then is it known which
    exits the loss sees and how wide its targets are, be they the deepest exit's or a teacher's.
    """

    reads = ("embeddings",)

    def __init__(self, *, reduction: Reduction = "sum", mask: bool = False, adapter: bool = False, skip_nearest: bool = False) -> None:
        super().__init__()
        self.reduction = reduction
        self.mask = mask
        self.adapter = adapter
        self.skip_nearest = skip_nearest
        self.adapters = nn.ModuleList()

    def forward(self, step: Step, targets: SoftTargets) -> Tensor:
        assert targets.embeddings is not None
        pairs = paired([full(embedding) for embedding in step.outputs.embeddings], [full(embedding) for embedding in targets.embeddings])
        if self.skip_nearest and len(pairs) > 1:
            pairs = pairs[:-1]
        if self.adapter:
            pairs = self._adapted(pairs)
        for student, target in pairs:
            if student.shape[-1] != target.shape[-1]:
                raise KdError(
                    f"byot.hint compares features {student.shape[-1]} wide with a target {target.shape[-1]} wide; "
                    "add a learnt layer between them with -o byot.hint.adapter=true"
                )
        return torch.stack([distance(student, target, self.reduction, self.mask) for student, target in pairs]).sum()

    def _adapted(self, pairs: list[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
        if len(self.adapters) == 0:
            self.adapters.extend(
                nn.Linear(student.shape[-1], target.shape[-1], device=student.device, dtype=student.dtype) for student, target in pairs
            )
        return [(full(adapter(student)), target) for adapter, (student, target) in zip(self.adapters, pairs, strict=True)]

"""The resistor average (Johnson and Sinanovic, 2001), a symmetric divergence: both directions of KL, added as resistors in parallel.

The paper cites it where it introduces KL, without saying what for: an option here. Jeffreys, their mean, is core's `kl.direction=jeffreys`.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Gt
from torch import Tensor

from kdcore import SoftTargets, Step
from kdcore.losses import TINY, full, paired


def resistor_average(student: Tensor, target: Tensor) -> Tensor:
    """1 / (1 / KL(p || q) + 1 / KL(q || p)) of log-probabilities [B, K], the mean over samples; 0 with gradient 0 where they are equal."""
    forward = (target.exp() * (target - student)).sum(dim=-1).clamp_min(0)
    reverse = (student.exp() * (student - target)).sum(dim=-1).clamp_min(0)
    both = forward + reverse
    apart = both > TINY
    return torch.where(apart, forward * reverse / torch.where(apart, both, 1.0), 0.0).mean()


@dataclass(frozen=True, kw_only=True)
class Resistor:
    """The resistor average of every exit's softened probabilities and the soft targets', summed over the exits it sees.

    temperature: T > 0, on both sides. scale_t2: multiply by T squared. Targets that are probabilities are never softened: against them T
    is 1 on both sides, without T squared. At most the smaller of the two directions of KL.
    """

    temperature: Annotated[float, Gt(0)] = 4.0
    scale_t2: bool = True

    reads = ("logits", "probs")
    sees = ("logits",)

    def __call__(self, step: Step, targets: SoftTargets) -> Tensor:
        soft = targets.probs is None
        temperature = self.temperature if soft else 1.0
        if soft:
            assert targets.logits is not None
            wanted = [F.log_softmax(full(logits) / temperature, dim=-1) for logits in targets.logits]
        else:
            assert targets.probs is not None
            wanted = [full(probs).clamp_min(TINY).log() for probs in targets.probs]
        students = [F.log_softmax(full(logits) / temperature, dim=-1) for logits in step.outputs.logits]
        values = [resistor_average(student, target) for student, target in paired(students, wanted)]
        return torch.stack(values).sum() * (temperature**2 if self.scale_t2 else 1.0)

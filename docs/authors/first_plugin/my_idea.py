"""Logit standardisation (Sun et al., CVPR 2024, arXiv:2403.01427): imitate how the teacher ranks the classes, not how far its logits reach."""

from typing import Annotated

import torch.nn.functional as F
from annotated_types import Gt

from kdcore import hookimpl
from kdcore.losses import kl, paired


def zscore(step, targets, *, temperature: Annotated[float, Gt(0)] = 2.0):
    """KL between logits of mean 0 and deviation 1, with T squared. temperature: T, the paper's base temperature.

    Do not use it for two classes: two standardised logits are always 1 and -1, and nothing is left to learn.
    """
    pairs = paired(step.outputs.logits, targets.logits)
    return sum(kl(standardised(student), standardised(teacher), temperature) for student, teacher in pairs)


def standardised(logits):
    """Logits [B, K] less their mean over the classes, over their deviation. (The authors' code takes the sample's deviation, K - 1.)"""
    return F.layer_norm(logits.float(), logits.shape[-1:])


@hookimpl
def losses():
    return {"zscore": zscore}

"""The core's sources of soft targets. What they return is detached by the core, in one place.

Each answers row by row, so all take every view; for a term that sees only view 0, the core cuts what they answer. What they hand on of
embeddings and maps is there whenever a term looks at more than logits.
"""

from typing import Literal

import torch
from torch import Tensor

from kdcore.errors import Refused
from kdcore.losses import full
from kdcore.methods import needs, sees
from kdcore.vocabulary import Outputs, SoftTargets, Step


@sees("logits")
@needs("exits>=2", "views")
def deepest(step: Step) -> SoftTargets:
    """The deepest exit teaches the others: its logits [B, K] and embedding; the maps are all taps'."""
    return _last(step.outputs)


@sees("logits")
@needs("teacher", "views")
def teacher(step: Step, *, exits: Literal["deepest", "match"] = "deepest") -> SoftTargets:
    """The frozen teacher. exits: `deepest` (its head teaches all), or `match` (its exit k teaches exit k)."""
    assert step.teacher is not None
    answered = step.teacher
    if exits == "deepest":
        return _last(answered)
    if len(answered.logits) != len(step.outputs.logits):
        raise Refused(
            f"soft targets 'teacher': the teacher gives {len(answered.logits)} logits for {len(step.outputs.logits)} exits of the student; "
            "with exits=match its exit k teaches exit k: take a teacher with as many exits, --taps that give both as many, "
            "or -o teacher.exits=deepest, where its head teaches all"
        )
    return SoftTargets(answered.logits, None, answered.embeddings, answered.maps, answered.extras)


@sees("logits")
@needs("exits>=2", "views")
def mean_of_exits(step: Step, *, space: Literal["logits", "probabilities"] = "logits") -> SoftTargets:
    """The mean over all exits that have the deepest exit's classes. space: of logits, or of probabilities (at T = 1).

    Embeddings are averaged too where all have one width (Lee & Lee, EED).
    """
    width = step.outputs.logits[-1].shape[-1]
    logits = [entry for entry in step.outputs.logits if entry.shape[-1] == width]
    embeddings = step.outputs.embeddings
    alike = bool(embeddings) and all(entry.shape == embeddings[-1].shape for entry in embeddings)
    mean_embedding = [torch.stack(embeddings).mean(dim=0)] if alike else None
    if space == "probabilities":
        return SoftTargets(probs=[_mean([full(entry).softmax(dim=-1) for entry in logits])], embeddings=mean_embedding)
    return SoftTargets(logits=[_mean([full(entry) for entry in logits])], embeddings=mean_embedding)


deepest.computes = teacher.computes = False


def _mean(entries: list[Tensor]) -> Tensor:
    return torch.stack(entries).mean(dim=0)


def _last(outputs: Outputs) -> SoftTargets:
    return SoftTargets(
        logits=[outputs.logits[-1]],
        embeddings=outputs.embeddings[-1:] or None,
        maps=outputs.maps or None,
        extras=outputs.extras,
    )

"""The words that pass between parts in a step: plain dataclasses of tensors, which compile and DDP take as they are.

Shapes: B batch, K classes, E exits, D embedding width. Exits are ordered shallow to deep; the last is the backbone's own head.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, is_dataclass

import torch
from torch import Tensor


@dataclass
class Batch:
    """What the data gives. `index` is each sample's number in the training set.

    Where a method multiplies views, there are B' = views x B rows: row i * views + v is view v of sample i, and labels and
    index are repeated. `soft_labels` [B, K] is there when mixup or cutmix made some; `labels` then holds their largest class.
    """

    images: Tensor
    labels: Tensor
    index: Tensor | None = None
    soft_labels: Tensor | None = None
    views: int = 1


@dataclass
class Outputs:
    """What a network answers. Student and teacher alike; a plain model has E = 1.

    `logits`: one [B, K] for each exit (an exit may have classes of its own). `embeddings`: the vector [B, D] that enters that exit's
    classifier. `maps`: one [B, C, H, W] for each tap, shallow to deep, the last being the last stage's. `extras`: what only some
    methods have, by name.
    """

    logits: list[Tensor]
    embeddings: list[Tensor] = field(default_factory=list)
    maps: list[Tensor] = field(default_factory=list)
    extras: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class SoftTargets:
    """What to imitate: logits or probabilities, embeddings, maps.

    Every per-exit field has one entry (all exits imitate it) or E (exit k imitates entry k). Probabilities are never softened.
    The core detaches all of it, so a source need not.
    """

    logits: list[Tensor] | None = None
    probs: list[Tensor] | None = None
    embeddings: list[Tensor] | None = None
    maps: list[Tensor] | None = None
    extras: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class Step:
    """What a source or a loss sees: its cut of the batch and of the outputs.

    `epoch` and `progress` (0 to 1 within the phase) are 0-dim tensors filled in place. `teacher` is what the frozen teacher
    answered to the same rows, where the phase has one.
    """

    batch: Batch
    outputs: Outputs
    epoch: Tensor
    progress: Tensor
    teacher: Outputs | None = None


def map_tensors(value, fn):
    """The same nest of dataclasses, lists and dicts, with `fn` applied to every tensor."""
    if isinstance(value, Tensor):
        return fn(value)
    if isinstance(value, dict):
        return {key: map_tensors(item, fn) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [map_tensors(item, fn) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return type(value)(**{f.name: map_tensors(getattr(value, f.name), fn) for f in fields(value)})
    return value


def detached(targets: SoftTargets) -> SoftTargets:
    """Soft targets that carry no gradient: themselves where none of their tensors does, as a teacher's do not."""
    for entries in (targets.logits, targets.probs, targets.embeddings, targets.maps, targets.extras.values()):
        for tensor in entries or ():
            if tensor.requires_grad:
                return map_tensors(targets, torch.detach)
    return targets


def pick(entries: Sequence[Tensor] | None, chosen: Sequence[int], total: int) -> list[Tensor] | None:
    """Entries of the chosen exits, where there is one entry for each of `total` exits; a single entry serves them all."""
    if entries is None:
        return None
    if len(entries) != total or len(entries) == 1:
        return list(entries)
    return [entries[k] for k in chosen]


torch.utils._pytree.register_dataclass(Outputs, serialized_type_name="kdcore.Outputs")

"""The posterior of the k nearest neighbours: of the k samples that a network puts nearest to x, the share of each class."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor, nn

from kdcore import Context, KdError, SoftTargets, Step
from kdcore.losses import full

Metric = Literal["euclidean", "cosine"]


def knn_posterior(
    points: Tensor,
    labels: Tensor,
    num_classes: int,
    *,
    k: int = 8,
    metric: Metric = "euclidean",
    include_self: bool = True,
    memory: Tensor | None = None,
    memory_labels: Tensor | None = None,
) -> Tensor:
    """P(c | x) = k_c / k, the paper's equation 3: points [B, D] with labels [B] to probabilities [B, K].

    Neighbours are the other points and those of the `memory` [M, D], with labels [M] (-1: an empty place). A point is its own first neighbour,
    unless include_self is false. Equal distances (to float32) go by position, the batch before the memory. Where there are fewer than k, all
    vote; where there is none, the point's own label does. One matrix product, one top-k, and no number comes to the host.
    """
    everyone = points if memory is None else torch.cat([points, memory])
    known = labels if memory_labels is None else torch.cat([labels, memory_labels])
    with torch.autocast("cpu" if points.is_meta else points.device.type, enabled=False):  # neighbours are a matter of small differences
        away = distances(points, everyone, metric).float().masked_fill(known < 0, torch.inf)
    # Floats that are not negative sort as their bits do; below them stands the position, so that no two are equal.
    order = away.abs().view(torch.int32).long() * 2**32 + torch.arange(len(known), device=away.device)
    order.fill_diagonal_(-1 if include_self else torch.iinfo(torch.int64).max)
    k = min(k, len(known) - (not include_self))
    voters = known[order.topk(k, largest=False, sorted=False).indices]
    votes = points.new_zeros(len(points), num_classes).scatter_add_(1, voters.clamp_min(0), (voters >= 0).to(points.dtype))
    count = votes.sum(dim=1, keepdim=True)
    own = torch.zeros_like(votes).scatter_(1, labels[:, None], 1.0)
    return torch.where(count > 0, votes / count.clamp_min(1), own)


def distances(points: Tensor, others: Tensor, metric: Metric) -> Tensor:
    """Squared Euclidean distances, or 1 - cosine, from points [B, D] to others [N, D]: [B, N], never negative."""
    if metric == "cosine":
        return (1 - F.normalize(points) @ F.normalize(others).T).clamp_min(0)
    centre = others.mean(dim=0)  # far from the origin the differences would drown in rounding
    points, others = points - centre, others - centre
    squares = points.square().sum(dim=1, keepdim=True) + others.square().sum(dim=1)
    return torch.addmm(squares, points, others.T, alpha=-2).clamp_min(0)


class KNN(nn.Module):
    """Soft labels from the neighbourhood of each sample in the network's output space, found in the batch at hand.

    k: neighbours that vote, 8 or 16 in the paper. space: where neighbours are sought: the softmax `probabilities`, the `logits`, or the
    `embeddings` that enter a classifier. metric: `euclidean` or `cosine`. include_self: a sample votes for its own label. memory: so many of
    the last samples vote too, with what the network answered when it saw them (0: the batch alone); less than the training set has.
    exits: with several, `match` seeks the neighbours of each exit in that exit's own space, and exit k imitates them; `deepest` seeks them
    in the deepest exit's, for all.

    Refused with KdError, when the run is composed, where k is more than a batch and the memory hold. A smaller batch than that has all its
    samples vote, with one warning. Labels must be hard: mixup and cutmix are refused.
    """

    needs = ("hard_labels",)

    def __init__(
        self,
        *,
        k: Annotated[int, Ge(1)] = 8,
        space: Literal["probabilities", "logits", "embeddings"] = "probabilities",
        metric: Metric = "euclidean",
        include_self: bool = True,
        memory: Annotated[int, Ge(0)] = 0,
        exits: Literal["match", "deepest"] = "match",
    ) -> None:
        super().__init__()
        self.k, self.space, self.metric, self.include_self, self.memory, self.exits = k, space, metric, include_self, memory, exits
        self._banks = 0
        self._warned = False
        self._training: Callable[[], bool] = partial(bool, True)

    @property
    def sees(self) -> tuple[str, ...]:
        return ("logits",) if self.space != "embeddings" else ("logits", "embeddings")

    def setup(self, context: Context) -> None:
        """Checks that there can be k neighbours, and makes room for the memory."""
        rows = min(context.batch_size, context.num_samples or context.batch_size)
        there = rows + self.memory - (not self.include_self)
        if self.k > there:
            holds = f"a batch of {rows}" + (f" and a memory of {self.memory}" if self.memory else "")
            own = "" if self.include_self else ", and a sample does not count as its own"
            raise KdError(
                f"osakd.knn: {self.k} neighbours are asked for and {holds} can give {there}{own}: "
                f"add -o osakd.knn.k={max(there, 1)}, or a larger --batch-size"
            )
        if self.memory and context.num_samples and self.memory + rows > context.num_samples:
            raise KdError(
                f"osakd.knn: a memory of {self.memory} beside a batch of {rows} holds more than the {context.num_samples} training images, so "
                f"that a sample would meet itself: at most -o osakd.knn.memory={max(context.num_samples - rows, 0)}"
            )
        student = context.student
        assert student is not None  # it is there from setup on
        self._training = partial(getattr, student, "training")  # and no lambda, which could not be pickled
        if self.memory:
            shapes = context.student_shapes.embeddings if self.space == "embeddings" else context.student_shapes.logits
            shapes = shapes[-1:] if self.exits == "deepest" else shapes
            for k, (width,) in enumerate(shapes):
                self.register_buffer(f"memory{k}", torch.zeros(self.memory, width))
            self.register_buffer("labels", torch.full((self.memory,), -1))
            self._banks = len(shapes)

    def forward(self, step: Step) -> SoftTargets:
        outputs, labels = step.outputs, step.batch.labels
        found = outputs.embeddings if self.space == "embeddings" else outputs.logits
        points = [full(entry.detach()) for entry in (found[-1:] if self.exits == "deepest" else found)]
        if self.space == "probabilities":
            points = [entry.softmax(dim=-1) for entry in points]
        if self.memory and not self._banks:
            raise KdError("osakd.knn: a memory takes its shapes from setup(context); kdcore.compose calls it")
        if len(labels) + self.memory - (not self.include_self) < self.k:
            self._warn(len(labels))
        banks = [getattr(self, f"memory{k}") for k in range(self._banks)] or [None] * len(points)
        probs = [
            knn_posterior(
                entry,
                labels,
                outputs.logits[-1].shape[-1],
                k=self.k,
                metric=self.metric,
                include_self=self.include_self,
                memory=bank,
                memory_labels=None if bank is None else self.labels,
            )
            for entry, bank in zip(points, banks, strict=True)
        ]
        if self.memory:
            for bank, entry in zip(banks, points, strict=True):
                push(bank, entry)
            push(self.labels, labels)
        return SoftTargets(probs=probs)

    def _warn(self, rows: int) -> None:
        """Once, and not while the core rehearses with a few samples in eval mode."""
        if not torch.compiler.is_compiling() and not self._warned and self._training():
            self._warned = True
            warnings.warn(f"osakd.knn: a batch of {rows} has fewer than {self.k} neighbours; all of them vote", stacklevel=3)


def push(bank: Tensor, newest: Tensor) -> None:
    """First in, first out: the newest rows, of all processes, come to the front of the bank, in place."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        world = torch.distributed.get_world_size()
        everywhere = newest.new_empty(world * len(newest), *newest.shape[1:])
        torch.distributed.all_gather_into_tensor(everywhere, newest.contiguous())
        newest = everywhere
    bank.copy_(torch.cat([newest.to(bank.dtype), bank])[: len(bank)])

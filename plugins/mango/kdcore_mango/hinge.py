"""Sums over all triplets of a batch, without the triplets: a hinge is piecewise linear, so it is enough to count.

For an anchor with near distances n and far distances f, the sum of max(n_i - f_j + margin, 0) over all i and j is the sum of n_i + margin,
each as often as there are smaller f_j, less the sum of f_j, each as often as there are larger n_i + margin. The counts come from two
sorted rows. Memory is B^2 and time B^2 log B, where the cube of distances takes B^3 of both (B = 256: 16.8 million numbers, 67 MB).
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Hinges:
    """The sum of the hinges (it carries the gradient), how many are above 0, and how many triplets there are."""

    total: Tensor
    positive: Tensor
    triplets: Tensor

    def __add__(self, other: "Hinges") -> "Hinges":
        return Hinges(self.total + other.total, self.positive + other.positive, self.triplets + other.triplets)


def hinges(distances: Tensor, near: Tensor, far: Tensor, margin: float) -> Hinges:
    """Over every anchor a, every b of near[a] and every c of far[a]: max(distances[a, b] - distances[a, c] + margin, 0).

    distances: [B, B]; near and far: masks [B, B], row by anchor.
    """
    with torch.no_grad():
        reach = (distances + margin).contiguous()
        reached = _count_below(distances.masked_fill(~far, torch.inf), reach).masked_fill(~near, 0)  # far ones within each near one's reach
        # The same comparison, the other way round, so that rounding cannot count a triplet here and not there.
        beyond = near.sum(dim=1, keepdim=True) - _count_below(reach.masked_fill(~near, torch.inf), distances, equal=True)
        reaching = beyond.masked_fill(~far, 0)
        factor = (reached - reaching).to(distances.dtype)
        count = reached.sum()
        triplets = (near.sum(dim=1) * far.sum(dim=1)).sum()
    return Hinges((distances * factor).sum() + margin * count, count, triplets)


def _count_below(row: Tensor, values: Tensor, equal: bool = False) -> Tensor:
    """How many numbers of each row [B, B] are below (or equal to) each of the values [B, B] of that row."""
    return torch.searchsorted(row.sort(dim=1).values.contiguous(), values.contiguous(), right=equal)


def pairwise_distances(points: Tensor, squared: bool) -> Tensor:
    """Euclidean distances of points [B, D], or their squares: [B, B]. Exactly 0 on the diagonal and between points that coincide.

    So are their gradients there, where a root's would be infinite. Coinciding is: nearer than about a thousandth of the points' spread in
    float32, within which the product of matrices knows no difference.
    """
    with torch.autocast("cpu" if points.is_meta else points.device.type, enabled=False):  # torch knows none for meta
        points = points - points.mean(dim=0, keepdim=True).detach()  # far from the origin the differences would drown in rounding
        norms = points.square().sum(dim=1)
        sums = norms[:, None] + norms
        squares = torch.addmm(sums, points, points.T, alpha=-2)
        same = (squares <= 8 * torch.finfo(points.dtype).eps * sums.detach()).fill_diagonal_(True)
        if squared:
            return squares.masked_fill(same, 0)
        return squares.masked_fill(same, 1).sqrt().masked_fill(same, 0)

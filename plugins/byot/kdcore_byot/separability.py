"""How well an exit's embeddings keep the classes apart: the sums of squares of the paper's study of features (figure 6)."""

import torch
from torch import Tensor


def sums_of_squares(embeddings: Tensor, labels: Tensor) -> tuple[float, float]:
    """SSE, within the classes, and SSB, between them, of embeddings [N, D] with labels [N].

    SSE sums each sample's squared distance from its class's mean; SSB sums each class mean's squared distance from the mean of all, once
    for every sample of the class. Deeper exits have a smaller SSE / SSB. Computed in float64.
    """
    points, labels = embeddings.detach().cpu().double(), labels.cpu()  # Apple's MPS has no float64
    classes, position, counts = labels.unique(return_inverse=True, return_counts=True)
    means = torch.zeros(len(classes), points.shape[1], dtype=points.dtype)
    means = means.index_add(0, position, points) / counts[:, None]
    within = (points - means[position]).square().sum()
    between = (counts[:, None] * (means - points.mean(dim=0)).square()).sum()
    return within.item(), between.item()

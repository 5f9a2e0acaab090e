"""Orders of an epoch that are no plain shuffle: every class equally often."""

import torch
from torch import Tensor

from kdcore.seeds import seed_of


def balanced_order(labels: Tensor, seed: int, epoch: int) -> Tensor:
    """Sample numbers int64 [N] of an epoch that shows every class equally often: a function of (seed, epoch), for labels int64 [N].

    An epoch keeps its N samples, N / K of each class (which classes get one of the remainder is drawn anew every epoch). A class that has
    more than its share gives some of its images, none twice; a class that has fewer gives each of them equally often, but for one. A
    repeated image looks the same within an epoch, since its pixels are a function of (seed, epoch, number), and otherwise in the next.
    """
    generator = torch.Generator().manual_seed(seed_of(seed, "balanced", epoch))
    classes = labels.unique()
    classes = classes[torch.randperm(len(classes), generator=generator)]
    share, left = divmod(len(labels), len(classes))
    chosen = []
    for place, label in enumerate(classes.tolist()):
        members, count = (labels == label).nonzero()[:, 0], share + (place < left)
        whole, some = divmod(count, len(members))
        chosen += [members.repeat(whole), members[torch.randperm(len(members), generator=generator)[:some]]]
    order = torch.cat(chosen)
    return order[torch.randperm(len(order), generator=generator)]

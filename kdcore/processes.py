"""Between the processes of a distributed run."""

import torch
import torch.distributed as dist
from torch import Tensor


def gathered(rows: Tensor) -> Tensor:
    """The rows [B, ...] of all processes, one process after the other [processes x B, ...]; as they are where there is one process.

    What a memory writes in `after_step`, so that every process comes to the same. All must have as many rows; no gradient passes.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return rows
    everybody = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
    dist.all_gather(everybody, rows.contiguous())
    return torch.cat(everybody)

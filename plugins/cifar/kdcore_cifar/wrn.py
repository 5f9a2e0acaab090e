"""Wide ResNets (Zagoruyko and Komodakis, arXiv:1605.07146): pre-activation blocks, three stages of width 16k, 32k, 64k.

Maps are the sums that stages end with, before the next BatchNorm and ReLU; `norm=True` gives the last one after them.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdcore_cifar.staged import Staged, initialise, tap


class Block(nn.Module):
    """BN, ReLU, 3 x 3, BN, ReLU, dropout, 3 x 3, and the sum. Where the width changes, the shortcut begins after the first ReLU."""

    def __init__(self, width: int, width_out: int, stride: int, block_drop_rate: float) -> None:
        super().__init__()
        self.bn1, self.act1 = nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(width, width_out, 3, stride=stride, padding=1, bias=False)
        self.bn2, self.act2 = nn.BatchNorm2d(width_out), nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width_out, width_out, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(width, width_out, 1, stride=stride, bias=False) if width != width_out else None
        self.block_drop_rate = block_drop_rate

    def forward(self, x: Tensor) -> Tensor:
        activated = self.act1(self.bn1(x))
        inner = self.act2(self.bn2(self.conv1(activated)))
        if self.block_drop_rate:
            inner = F.dropout(inner, p=self.block_drop_rate, training=self.training)
        return torch.add(x if self.shortcut is None else self.shortcut(activated), self.conv2(inner))


class WideResNet(Staged):
    """depth: 6n + 4, which counts the shortcuts' convolutions; 6n + 2, as in BYOT's WRN20-8 and WRN44-8, counts none of them.

    drop_rate: before the classifier. block_drop_rate: within the blocks (the paper's dropout, 0.3 where it has any).
    """

    stage, normed_by = "block", "act"

    def __init__(
        self,
        depth: int,
        width: int,
        num_classes: int = 10,
        in_chans: int = 3,
        drop_rate: float = 0.0,
        block_drop_rate: float = 0.0,
        global_pool: str = "avg",
    ) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 2, 6)
        if rest not in (0, 2):
            raise ValueError(f"a WRN of {depth} layers: the depth is 6n + 4, or 6n + 2 without the shortcuts")
        widths = (16, 16 * width, 32 * width, 64 * width)
        self.conv1 = nn.Conv2d(in_chans, widths[0], 3, padding=1, bias=False)
        self.feature_info = [tap("conv1", widths[0], 1, "block1.0.bn1")]
        for number in (1, 2, 3):
            stride = 1 if number == 1 else 2
            first = Block(widths[number - 1], widths[number], stride, block_drop_rate)
            others = (Block(widths[number], widths[number], 1, block_drop_rate) for _ in range(blocks - 1))
            self.add_module(f"block{number}", nn.Sequential(first, *others))
            self.feature_info.append(tap(f"block{number}", widths[number], 2 ** (number - 1), f"block{number + 1}.0.bn1"))
        self.feature_info[-1]["preact"] = "bn1"
        self.bn1, self.act = nn.BatchNorm2d(widths[3]), nn.ReLU(inplace=True)
        self.steps = ("conv1", "block1", "block2", "block3", "bn1", "act")
        self.finish(widths[3], num_classes, in_chans, drop_rate, global_pool)
        initialise(self.modules())
        if isinstance(self.fc, nn.Linear):
            nn.init.zeros_(self.fc.bias)

"""PyramidNet (Han et al., arXiv:1610.02915): every block is a little wider than the one before; additive, with bottlenecks or without.

Shortcuts have no parameters: they are pooled where the stride is 2, and padded with zero channels.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from kdcore_cifar.staged import Staged, initialise, tap


class Block(nn.Module):
    """Pre-activation without the first ReLU, and a BatchNorm last. Bottlenecks end four times as wide as they are inside."""

    def __init__(self, width: int, inner: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        kernels = (1, 3, 1) if bottleneck else (3, 3)
        widths = (width, inner, inner, 4 * inner) if bottleneck else (width, inner, inner)
        self.body = nn.Sequential(nn.BatchNorm2d(width))
        for k, kernel in enumerate(kernels):
            step = stride if k == len(kernels) - 2 else 1  # the 3 x 3 of a bottleneck, the first of a pair
            self.body.append(nn.Conv2d(widths[k], widths[k + 1], kernel, step, kernel // 2, bias=False))
            self.body.append(nn.BatchNorm2d(widths[k + 1]))
            if k < len(kernels) - 1:
                self.body.append(nn.ReLU(inplace=True))
        self.pool = nn.AvgPool2d(2, ceil_mode=True) if stride == 2 else None
        self.padding = widths[-1] - width

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.pool is None else self.pool(x)
        return self.body(x) + F.pad(shortcut, (0, 0, 0, 0, 0, self.padding))


class PyramidNet(Staged):
    """depth: 9n + 2 with bottlenecks, 6n + 2 without. alpha: by how many channels the last block is wider than the stem (16).

    Maps are the sums that stages end with, before the next BatchNorm; `norm=True` gives the last one after BatchNorm and ReLU.
    """

    normed_by = "act"

    def __init__(
        self,
        depth: int,
        alpha: int,
        bottleneck: bool = True,
        num_classes: int = 10,
        in_chans: int = 3,
        drop_rate: float = 0.0,
        global_pool: str = "avg",
    ) -> None:
        super().__init__()
        blocks = (depth - 2) // (9 if bottleneck else 6)
        self.conv1, self.bn1 = nn.Conv2d(in_chans, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.feature_info = [tap("bn1", 16, 1)]
        width, wanted = 16, 16.0
        for number in (1, 2, 3):
            stage = nn.Sequential()
            for k in range(blocks):
                wanted += alpha / (3 * blocks)
                stage.append(Block(width, round(wanted), 2 if k == 0 and number > 1 else 1, bottleneck))
                width = round(wanted) * (4 if bottleneck else 1)
            self.add_module(f"layer{number}", stage)
            self.feature_info.append(tap(f"layer{number}", width, 2 ** (number - 1), "bn_final" if number == 3 else None))
        self.bn_final, self.act = nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        self.steps = ("conv1", "bn1", "layer1", "layer2", "layer3", "bn_final", "act")
        self.finish(width, num_classes, in_chans, drop_rate, global_pool)
        initialise(self.modules())

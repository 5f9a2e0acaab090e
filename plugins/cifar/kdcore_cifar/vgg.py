"""VGG with BatchNorm for 32 pixels, as RepDistiller has it: five blocks and one linear layer (after Simonyan and Zisserman, arXiv:1409.1556).

There is no pooling after the fourth block where its map is smaller than 8 pixels (of 32-pixel images it is 4), as in RepDistiller.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from kdcore_cifar.staged import Staged, initialise, tap, tapped_relu

LAYERS = {8: (1, 1, 1, 1, 1), 11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
WIDTHS = (64, 128, 256, 512, 512)


class VGG(Staged):
    """depth: 8, 11, 13, 16 or 19."""

    stage, blockwise = "block", False

    def __init__(self, depth: int, num_classes: int = 10, in_chans: int = 3, drop_rate: float = 0.0, global_pool: str = "avg") -> None:
        super().__init__()
        self.feature_info, steps, width = [], [], in_chans
        for number, (layers, width_out) in enumerate(zip(LAYERS[depth], WIDTHS, strict=True)):
            block = nn.Sequential()
            for layer in range(layers):
                block.append(nn.Conv2d(width, width_out, 3, padding=1)).append(nn.BatchNorm2d(width_out))
                block.append(tapped_relu() if layer == layers - 1 else nn.ReLU(inplace=True))
                width = width_out
            self.add_module(f"block{number}", block)
            self.feature_info.append(tap(f"block{number}", width, 2 ** min(number, 3), f"block{number}.{len(block) - 1}.preact"))
            steps.append(f"block{number}")
            if number < 4:
                self.add_module(f"pool{number}", nn.MaxPool2d(2) if number < 3 else PoolFrom8())
                steps.append(f"pool{number}")
        self.steps = tuple(steps)
        self.finish(width, num_classes, in_chans, drop_rate, global_pool)
        initialise(self.modules())
        if isinstance(self.fc, nn.Linear):
            nn.init.normal_(self.fc.weight, std=0.01)
            nn.init.zeros_(self.fc.bias)

    def group_matcher(self, coarse: bool = False) -> dict:
        return {"stem": r"^block0\.", "blocks": r"^block(\d+)" if coarse else r"^block(\d+)\.(\d+)"}


class PoolFrom8(nn.Module):
    """Maximum of 2 x 2 where the map has at least 8 pixels on its shorter side; smaller maps stay."""

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, 2) if min(x.shape[-2:]) >= 8 else x

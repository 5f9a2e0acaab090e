"""MobileNetV2 of half width for 32 pixels, as RepDistiller has it (after Sandler et al., arXiv:1801.04381): ReLU, and a stem with stride 2."""

from torch import Tensor, nn

from kdcore_cifar.staged import Staged, initialise, tap

SETTING = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, channels, repeats and stride of each stage. The second has stride 1: images are small."""


class InvertedResidual(nn.Module):
    """1 x 1 up, depthwise 3 x 3, 1 x 1 down without an activation."""

    def __init__(self, width: int, width_out: int, stride: int, expansion: int) -> None:
        super().__init__()
        middle = width * expansion
        self.adds = stride == 1 and width == width_out
        self.conv = nn.Sequential(
            *_conv_bn(width, middle),
            nn.ReLU(inplace=True),
            *_conv_bn(middle, middle, 3, stride, middle),
            nn.ReLU(inplace=True),
            *_conv_bn(middle, width_out),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.adds else self.conv(x)


class MobileNetV2(Staged):
    """Taps where RepDistiller has them: after the stages of 24, 32, 96 and 320 channels (before the width's factor). No ReLU ends a stage."""

    stage = "blocks"

    def __init__(
        self, width: float = 0.5, num_classes: int = 10, in_chans: int = 3, drop_rate: float = 0.0, global_pool: str = "avg"
    ) -> None:
        super().__init__()
        now, reduction = int(32 * width), 2
        self.conv1 = nn.Sequential(*_conv_bn(in_chans, now, 3, 2), nn.ReLU(inplace=True))
        self.feature_info = [tap("conv1", now, reduction, "conv1.1")]
        self.blocks = nn.Sequential()
        for number, (expansion, channels, repeats, stride) in enumerate(SETTING):
            wide = int(channels * width)
            first = InvertedResidual(now, wide, stride, expansion)
            self.blocks.append(nn.Sequential(first, *(InvertedResidual(wide, wide, 1, expansion) for _ in range(repeats - 1))))
            now, reduction = wide, reduction * stride
            if number in (1, 2, 4, 6):
                self.feature_info.append(tap(f"blocks.{number}", wide, reduction))
        self.conv2 = nn.Sequential(*_conv_bn(now, 1280), nn.ReLU(inplace=True))
        self.steps = ("conv1", *(f"blocks.{number}" for number in range(len(SETTING))), "conv2")
        self.finish(1280, num_classes, in_chans, drop_rate, global_pool)
        initialise(self.modules())
        if isinstance(self.fc, nn.Linear):
            nn.init.normal_(self.fc.weight, std=0.01)
            nn.init.zeros_(self.fc.bias)


def _conv_bn(width: int, width_out: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(width, width_out, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(width_out)]

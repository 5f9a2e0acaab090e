"""ShuffleNet v1 and v2 for 32 pixels, as RepDistiller has them: a 1 x 1 stem of 24 channels and three stages that halve.

After Zhang et al., arXiv:1707.01083, and Ma et al., arXiv:1807.11164. torch's own shuffle keeps channels last, which the views of public code
do not.
"""

import torch
from torch import Tensor, nn

from kdcore_cifar.staged import Staged, tap, tapped_relu


def _conv(width: int, width_out: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(width, width_out, kernel, stride, padding=kernel // 2, groups=groups, bias=False)


class V1Block(nn.Module):
    """A grouped 1 x 1, a shuffle, a depthwise 3 x 3, a grouped 1 x 1. With stride 2 the pooled input is concatenated, else added."""

    def __init__(self, width: int, width_out: int, stride: int, groups: int) -> None:
        super().__init__()
        new = width_out - width if stride == 2 else width_out
        middle = new // 4
        first_groups = 1 if width == 24 else groups  # the stem's few channels are not grouped
        self.conv1, self.bn1, self.act1 = _conv(width, middle, groups=first_groups), nn.BatchNorm2d(middle), nn.ReLU(inplace=True)
        self.shuffle = nn.ChannelShuffle(first_groups)
        self.conv2, self.bn2, self.act2 = _conv(middle, middle, 3, stride, middle), nn.BatchNorm2d(middle), nn.ReLU(inplace=True)
        self.conv3, self.bn3 = _conv(middle, new, groups=groups), nn.BatchNorm2d(new)
        self.pool = nn.AvgPool2d(3, stride=2, padding=1) if stride == 2 else None
        self.act3 = tapped_relu()

    def forward(self, x: Tensor) -> Tensor:
        y = self.shuffle(self.act1(self.bn1(self.conv1(x))))
        y = self.bn3(self.conv3(self.act2(self.bn2(self.conv2(y)))))
        return self.act3(y + x if self.pool is None else torch.cat([y, self.pool(x)], dim=1))


class V2Unit(nn.Module):
    """Half of the channels pass through, the other half through 1 x 1, depthwise 3 x 3, 1 x 1; then all are shuffled."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.conv1, self.bn1, self.act1 = _conv(half, half), nn.BatchNorm2d(half), nn.ReLU(inplace=True)
        self.conv2, self.bn2 = _conv(half, half, 3, groups=half), nn.BatchNorm2d(half)
        self.conv3, self.bn3, self.act3 = _conv(half, half), nn.BatchNorm2d(half), nn.ReLU(inplace=True)
        self.shuffle = nn.ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        kept, y = x.chunk(2, dim=1)
        y = self.bn2(self.conv2(self.act1(self.bn1(self.conv1(y)))))
        return self.shuffle(torch.cat([kept, self.act3(self.bn3(self.conv3(y)))], dim=1))


class V2Down(nn.Module):
    """Both halves are computed from all channels, with stride 2."""

    def __init__(self, width: int, width_out: int) -> None:
        super().__init__()
        half = width_out // 2
        self.conv1, self.bn1 = _conv(width, width, 3, 2, width), nn.BatchNorm2d(width)
        self.conv2, self.bn2, self.act2 = _conv(width, half), nn.BatchNorm2d(half), nn.ReLU(inplace=True)
        self.conv3, self.bn3, self.act3 = _conv(width, half), nn.BatchNorm2d(half), nn.ReLU(inplace=True)
        self.conv4, self.bn4 = _conv(half, half, 3, 2, half), nn.BatchNorm2d(half)
        self.conv5, self.bn5, self.act5 = _conv(half, half), nn.BatchNorm2d(half), nn.ReLU(inplace=True)
        self.shuffle = nn.ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        left = self.act2(self.bn2(self.conv2(self.bn1(self.conv1(x)))))
        right = self.bn4(self.conv4(self.act3(self.bn3(self.conv3(x)))))
        return self.shuffle(torch.cat([left, self.act5(self.bn5(self.conv5(right)))], dim=1))


class _ShuffleNet(Staged):
    def _build(self, in_chans: int, stages: list[nn.Sequential], widths: tuple[int, ...], preacts: bool) -> None:
        self.conv1, self.bn1, self.act1 = nn.Conv2d(in_chans, 24, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU(inplace=True)
        self.feature_info = [tap("act1", 24, 1, "bn1")]
        for number, (stage, width) in enumerate(zip(stages, widths, strict=True), start=1):
            self.add_module(f"layer{number}", stage)
            preact = f"layer{number}.{len(stage) - 1}.act3.preact" if preacts else None
            self.feature_info.append(tap(f"layer{number}", width, 2**number, preact))
        self.steps = ("conv1", "bn1", "act1", "layer1", "layer2", "layer3")


class ShuffleNetV1(_ShuffleNet):
    """groups 3, stages of 240, 480 and 960 channels: the paper's 1x."""

    def __init__(
        self,
        widths: tuple[int, ...] = (240, 480, 960),
        groups: int = 3,
        num_classes: int = 10,
        in_chans: int = 3,
        drop_rate: float = 0.0,
        global_pool: str = "avg",
    ) -> None:
        super().__init__()
        stages, width = [], 24
        for width_out, repeats in zip(widths, (4, 8, 4), strict=True):
            first = V1Block(width, width_out, 2, groups)
            stages.append(nn.Sequential(first, *(V1Block(width_out, width_out, 1, groups) for _ in range(repeats - 1))))
            width = width_out
        self._build(in_chans, stages, widths, preacts=True)
        self.finish(width, num_classes, in_chans, drop_rate, global_pool)


class ShuffleNetV2(_ShuffleNet):
    """Stages of 116, 232 and 464 channels and a 1 x 1 convolution to 1024: the paper's 1x. Only half of a map has a ReLU last: no `preact`."""

    def __init__(
        self,
        widths: tuple[int, ...] = (116, 232, 464),
        last: int = 1024,
        num_classes: int = 10,
        in_chans: int = 3,
        drop_rate: float = 0.0,
        global_pool: str = "avg",
    ) -> None:
        super().__init__()
        stages, width = [], 24
        for width_out, repeats in zip(widths, (3, 7, 3), strict=True):
            stages.append(nn.Sequential(V2Down(width, width_out), *(V2Unit(width_out) for _ in range(repeats))))
            width = width_out
        self._build(in_chans, stages, widths, preacts=False)
        self.conv2, self.bn2, self.act2 = nn.Conv2d(width, last, 1, bias=False), nn.BatchNorm2d(last), nn.ReLU(inplace=True)
        self.steps = (*self.steps, "conv2", "bn2", "act2")
        self.finish(last, num_classes, in_chans, drop_rate, global_pool)

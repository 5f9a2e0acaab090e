"""What both kinds of exits are made of: separable convolutions, the attention in front of an exit, and the initial weights.

Shapes follow the authors' code, ArchipLab-LinfengZhang/pytorch-scalable-neural-networks (`sresnet.py`, called "scan" here) and
ArchipLab-LinfengZhang/pytorch-self-distillation-final (`resnet.py`, called "final").
"""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

AttentionKind = Literal["none", "scan", "final"]


class SepConv(nn.Sequential):
    """Two depthwise separable 3x3 convolutions: [B, channels, H, W] -> [B, channels_out, ceil(H / stride), ceil(W / stride)]."""

    def __init__(self, channels: int, channels_out: int, stride: int = 2) -> None:
        super().__init__(*_separable(channels, channels, stride), *_separable(channels, channels_out, stride=1))


def _separable(channels: int, channels_out: int, stride: int) -> list[nn.Module]:
    return [
        nn.Conv2d(channels, channels, 3, stride=stride, padding=1, groups=channels, bias=False),
        nn.Conv2d(channels, channels_out, 1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
    ]


class Attention(nn.Module):
    """x * sigmoid(look(x)) for a map x [B, C, H, W]; what `look` sees, at about that size or half of it, is brought to exactly H x W."""

    def __init__(self, look: nn.Module) -> None:
        super().__init__()
        self.look = look

    def forward(self, features: Tensor) -> Tensor:
        # The sources double the size and need even H and W. Interpolating to the map's own size is the same there and fits odd maps too.
        gate = F.interpolate(self.look(features), size=features.shape[-2:], mode="bilinear", align_corners=False)
        return features * gate.sigmoid()


def attention_layer(kind: AttentionKind, channels: int) -> nn.Module:
    """The module in front of an exit. scan: a convolution down and a transposed one up; final: a separable convolution, upsampled."""
    if kind == "scan":
        down = [nn.Conv2d(channels, channels, 3, stride=2, padding=1), nn.BatchNorm2d(channels), nn.ReLU()]
        up = [nn.ConvTranspose2d(channels, channels, 4, stride=2, padding=1), nn.BatchNorm2d(channels)]
        return Attention(nn.Sequential(*down, *up))
    if kind == "final":
        return Attention(SepConv(channels, channels, stride=2))
    return nn.Identity()


def initialised(module: nn.Module) -> nn.Module:
    """The module, with the sources' initial weights: every convolution from Kaiming's normal distribution over its fan-out."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
    return module

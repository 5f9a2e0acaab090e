"""Parameters and MACs from the papers' definitions alone: kernels, widths, places. Nothing here is built, and no module is asked.

A count is (parameters, MACs). Convolutions without bias, BatchNorm with two numbers a channel and no MACs, a linear layer with bias.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple


class Count(NamedTuple):
    parameters: int
    macs: int


def total(*counts: Count) -> Count:
    return Count(sum(count.parameters for count in counts), sum(count.macs for count in counts))


def conv(width: int, out: int, kernel: int, side: int, groups: int = 1, *, norm: bool = True, bias: bool = False) -> Count:
    """With its BatchNorm, unless norm is False. side: of the map that it gives."""
    weights = kernel * kernel * width * out // groups
    return Count(weights + 2 * out * norm + out * bias, weights * side * side)


def bn(width: int) -> Count:
    return Count(2 * width, 0)


def linear(width: int, out: int = 10) -> Count:
    return Count(width * out + out, width * out)


def shortcut(width: int, out: int, side: int) -> Count:
    """Option B: a 1 x 1 convolution with BatchNorm where the width changes (all stages begin there, or keep width and side)."""
    return conv(width, out, 1, side) if width != out else Count(0, 0)


def resnet(stem: int, widths: tuple[int, ...], layers: tuple[int, ...]) -> Count:
    """He et al., section 4.2, or with four stages: blocks of two 3 x 3; each stage but the first halves the side."""
    parts, width = [conv(3, stem, 3, 32)], stem
    for number, (out, blocks) in enumerate(zip(widths, layers, strict=True)):
        side = 32 >> number
        for _ in range(blocks):
            parts += [conv(width, out, 3, side), conv(out, out, 3, side), shortcut(width, out, side)]
            width = out
    return total(*parts, linear(width))


def cifar_resnet(depth: int, width: int = 1, stem: int = 16) -> Count:
    """6n + 2 layers."""
    return resnet(stem, (16 * width, 32 * width, 64 * width), ((depth - 2) // 6,) * 3)


def bottlenecks(widths: tuple[int, ...], layers: tuple[int, ...], cardinality: int = 1, base: int = 64) -> Count:
    """1 x 1, 3 x 3 (which has the stride, and the groups), 1 x 1 to four times the stage's width; inside base/64 of it per group."""
    parts, width = [conv(3, 64, 3, 32)], 64
    for number, (stage, blocks) in enumerate(zip(widths, layers, strict=True)):
        side, inside, out = 32 >> number, stage * base // 64 * cardinality, 4 * stage
        for block in range(blocks):
            before = side * 2 if number and not block else side
            parts += [conv(width, inside, 1, before), conv(inside, inside, 3, side, cardinality), conv(inside, out, 1, side)]
            parts.append(shortcut(width, out, side))
            width = out
    return total(*parts, linear(width))


def wrn(blocks: int, factor: int) -> Count:
    """Zagoruyko and Komodakis, table 1: BN comes before a convolution, a shortcut has none. blocks: of each stage, (depth - 4) / 6."""
    parts, width = [conv(3, 16, 3, 32, norm=False)], 16
    for number in range(3):
        side, out = 32 >> number, 16 * factor << number
        for _ in range(blocks):
            parts += [bn(width), conv(width, out, 3, side), conv(out, out, 3, side, norm=False)]
            parts += [conv(width, out, 1, side, norm=False)] if width != out else []
            width = out
    return total(*parts, bn(width), linear(width))


def vgg(layers: tuple[int, ...], last_side: int = 4) -> Count:
    """Convolutions with bias and BN. last_side: of the fifth block's maps; 4 in RepDistiller, 2 where the fourth block is pooled too."""
    parts, width = [], 3
    for number, (out, count) in enumerate(zip((64, 128, 256, 512, 512), layers, strict=True)):
        for _ in range(count):
            parts.append(conv(width, out, 3, (32, 16, 8, 4, last_side)[number], bias=True))
            width = out
    return total(*parts, linear(width))


def pyramid(depth: int, alpha: int, *, bottleneck: bool = True) -> Count:
    """Han et al., equation 3: the width grows by alpha / N in each of N blocks, and is rounded; shortcuts have no parameters."""
    blocks = (depth - 2) // (9 if bottleneck else 6)
    parts, width = [conv(3, 16, 3, 32)], 16
    for k in range(3 * blocks):
        inside, side = round(16 + alpha * (k + 1) / (3 * blocks)), 32 >> k // blocks
        before = side * 2 if k and k % blocks == 0 else side
        parts.append(bn(width))
        if bottleneck:
            parts += [conv(width, inside, 1, before), conv(inside, inside, 3, side), conv(inside, 4 * inside, 1, side)]
        else:
            parts += [conv(width, inside, 3, side), conv(inside, inside, 3, side)]
        width = 4 * inside if bottleneck else inside
    return total(*parts, bn(width), linear(width))


def shufflenetv1(groups: int = 3) -> Count:
    """Zhang et al., table 1, 1x with 3 groups; RepDistiller's stem is a 1 x 1 convolution, and its bottleneck a quarter of what is new."""
    parts, width, side = [conv(3, 24, 1, 32)], 24, 32
    for out, blocks in ((240, 4), (480, 8), (960, 4)):
        for block in range(blocks):
            new, after = (out - width, side // 2) if not block else (out, side)  # the pooled input is concatenated
            inside = new // 4
            parts += [conv(width, inside, 1, side, 1 if width == 24 else groups), conv(inside, inside, 3, after, inside)]
            parts.append(conv(inside, new, 1, after, groups))
            width, side = out, after
    return total(*parts, linear(width))


def shufflenetv2(stem_kernel: int = 1) -> Count:
    """Ma et al., table 5, 1x, without the stem's stride and pooling; RepDistiller's stem is 1 x 1, the usual one 3 x 3."""
    parts, width, side = [conv(3, 24, stem_kernel, 32)], 24, 32
    for out, units in ((116, 3), (232, 7), (464, 3)):
        half, after = out // 2, side // 2
        parts += [conv(width, width, 3, after, width), conv(width, half, 1, after)]
        parts += [conv(width, half, 1, side), conv(half, half, 3, after, half), conv(half, half, 1, after)]
        parts += [conv(half, half, 1, after), conv(half, half, 3, after, half), conv(half, half, 1, after)] * units
        width, side = out, after
    return total(*parts, conv(width, 1024, 1, side), linear(1024))


def mobile_half(second: int = 12, side: int = 16) -> Count:
    """Sandler et al., table 2, at half of every width but the last (1280); 32 pixels, strides 2, 1, 1, 2, 2, 1, 2, 1.

    second: channels of the second stage, 16 where widths are multiples of 8. side: of the stem's maps, 32 where its stride is 1.
    """
    parts, width = [conv(3, 16, 3, side)], 16
    for expansion, out, blocks, stride in (
        (1, 8, 1, 1),
        (6, second, 2, 1),
        (6, 16, 3, 2),
        (6, 32, 4, 2),
        (6, 48, 3, 1),
        (6, 80, 3, 2),
        (6, 160, 1, 1),
    ):
        for block in range(blocks):
            inside, after = expansion * width, side // stride if not block else side
            parts += [conv(width, inside, 1, side), conv(inside, inside, 3, after, inside), conv(inside, out, 1, after)]
            width, side = out, after
    return total(*parts, conv(width, 1280, 1, side), linear(1280))


def lenet(channels: tuple[int, int], hidden: tuple[int, ...], side: int, in_chans: int = 3) -> Count:
    """Two 5 x 5 convolutions with bias, each halved by pooling, and linear layers."""
    first, second = side - 4, (side - 4) // 2 - 4
    plain = {"norm": False, "bias": True}
    parts = [conv(in_chans, channels[0], 5, first, **plain), conv(channels[0], channels[1], 5, second, **plain)]
    widths = (channels[1] * (second // 2) ** 2, *hidden, 10)
    return total(*parts, *(linear(width, out) for width, out in pairwise(widths)))


FOUR = (64, 128, 256, 512)
BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
VGG = {8: (1, 1, 1, 1, 1), 11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
_WRN = ((16, 1), (16, 2), (16, 4), (16, 8), (22, 8), (28, 4), (28, 10), (28, 12), (40, 1), (40, 2), (40, 4))

FORMULAS: dict[str, Callable[[], Count]] = {
    **{f"resnet{depth}": lambda depth=depth: cifar_resnet(depth) for depth in (8, 14, 20, 32, 44, 56, 110)},
    **{f"resnet{depth}x4": lambda depth=depth: cifar_resnet(depth, 4, 32) for depth in (8, 14, 20, 32)},
    **{f"resnet{depth}x2": lambda depth=depth: cifar_resnet(depth, 2) for depth in (38, 110)},
    "resnet10": lambda: resnet(64, FOUR, (1, 1, 1, 1)),
    "resnet18": lambda: resnet(64, FOUR, (2, 2, 2, 2)),
    "resnet34": lambda: resnet(64, FOUR, (3, 4, 6, 3)),
    **{f"resnet{depth}": lambda layers=layers: bottlenecks(FOUR, layers) for depth, layers in BLOCKS.items()},
    **{f"wrn_{depth}_{factor}": lambda depth=depth, factor=factor: wrn((depth - 4) // 6, factor) for depth, factor in _WRN},
    "wrn_20_8": lambda: wrn(3, 8),
    "wrn_44_8": lambda: wrn(7, 8),
    **{f"vgg{depth}": lambda layers=layers: vgg(layers) for depth, layers in VGG.items()},
    "shufflenetv1": shufflenetv1,
    "shufflenetv2": shufflenetv2,
    "mobile_half": mobile_half,
    "resnext29_8x64d": lambda: bottlenecks((64, 128, 256), (3, 3, 3), 8),
    "resnext29_16x64d": lambda: bottlenecks((64, 128, 256), (3, 3, 3), 16),
    "pyramidnet101_240": lambda: pyramid(101, 240),
    "pyramidnet110_84": lambda: pyramid(110, 84, bottleneck=False),
    "pyramidnet200_240": lambda: pyramid(200, 240),
    "cnn_6_16": lambda: lenet((6, 16), (120, 84), 32),
    "cnn_20_50": lambda: lenet((20, 50), (500,), 28),
    "lenet5": lambda: lenet((6, 16), (120, 84), 32),
}
"""With 10 classes, three channels, and 32 pixels (28 for cnn_20_50), as `NETWORKS` has them."""

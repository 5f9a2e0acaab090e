"""The journal version's exits: separable convolutions that halve the map and double the channels, once for each stage that remains.

After ArchipLab-LinfengZhang/pytorch-self-distillation-final (`resnet.py`): chains of 3, 2, 1 after the stages of a CIFAR ResNet. Here the
count is the measured number of halvings from a tap's map to the last one.
"""

import math

from torch import nn

from kdcore import Branch, Context, MultiExit, Pooled, Tap, Tapped
from kdcore_byot.layers import AttentionKind, SepConv, attention_layer, initialised


def sepconv(backbone: Tapped, context: Context, *, attention: AttentionKind = "final") -> MultiExit:
    """Attention, separable convolutions, global average pooling and a linear layer on every tap but the last.

    An exit's embedding has its tap's channels, doubled with every halving: as many as the deepest exit's in a ResNet, and not in other
    backbones. attention: what an exit, and only the exit, sees of its map: none, "scan" or "final".
    """
    branches = []
    for tap in backbone.taps[:-1]:
        count = halvings(tap, backbone.taps[-1])
        width = tap.channels * 2**count
        branches.append(Branch(chain(tap.channels, count, attention=attention), nn.Linear(width, context.num_classes)))
    return MultiExit(backbone, branches)


def halvings(tap: Tap, last: Tap) -> int:
    """How many times a tap's map is halved on its way to the last stage; 0 in a flat model, such as a ViT."""
    ratio = max(tap.height / last.height, tap.width / last.width)
    return max(round(math.log2(ratio)), 0)


def chain(channels: int, count: int, *, attention: AttentionKind = "final") -> nn.Module:
    """[B, channels, H, W] -> [B, channels * 2**count]. Where nothing is left to halve, one convolution of stride 1 keeps the width."""
    halving: list[nn.Module] = [SepConv(channels * 2**k, channels * 2 ** (k + 1)) for k in range(count)]
    layers = halving or [SepConv(channels, channels, stride=1)]
    return initialised(nn.Sequential(attention_layer(attention, channels), *layers, Pooled()))

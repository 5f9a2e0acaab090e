"""The paper's exits: 1x1, then k x k with stride k, then 1x1, then a pooled vector as wide as the deepest exit's.

After `ScalaNet` of ArchipLab-LinfengZhang/pytorch-scalable-neural-networks (`sresnet.py`), where k is 8, 4, 2 after the stages of a
CIFAR ResNet. Here k is the measured ratio of a tap's map to the last one, so any backbone will do.
"""

from typing import Annotated, Literal

from annotated_types import Ge
from torch import nn

from kdcore import Branch, Context, MultiExit, Pooled, Tap, Tapped
from kdcore_byot.layers import AttentionKind, attention_layer, initialised


def bottleneck(
    backbone: Tapped,
    context: Context,
    *,
    width: Annotated[int, Ge(1)] | Literal["quarter"] = 128,
    attention: AttentionKind = "none",
) -> MultiExit:
    """A bottleneck, global average pooling and a linear layer on every tap but the last. Embeddings are as wide as the deepest exit's.

    width: channels within the bottleneck, 128 in the authors' code; "quarter" of the deepest embedding in luanyunteng's. attention: what
    an exit, and only the exit, sees of its map: none, "scan" or "final".
    """
    deepest = backbone.embedding_dim
    middle = max(deepest // 4, 1) if width == "quarter" else width
    branches = []
    for tap in backbone.taps[:-1]:
        body = squeeze(tap.channels, middle, deepest, kernel=shrinkage(tap, backbone.taps[-1]), attention=attention)
        branches.append(Branch(body, nn.Linear(deepest, context.num_classes)))
    return MultiExit(backbone, branches)


def shrinkage(tap: Tap, last: Tap) -> tuple[int, int]:
    """How many times higher and wider a tap's map is than the last: never less than 1, never more than the map itself."""
    return max(round(tap.height / last.height), 1), max(round(tap.width / last.width), 1)


def squeeze(channels: int, middle: int, channels_out: int, *, kernel: tuple[int, int], attention: AttentionKind = "none") -> nn.Module:
    """[B, channels, H, W] -> [B, channels_out]."""
    return initialised(
        nn.Sequential(
            attention_layer(attention, channels),
            *_block(channels, middle),
            *_block(middle, middle, kernel),
            *_block(middle, channels_out),
            Pooled(),
        )
    )


def _block(channels: int, channels_out: int, kernel: tuple[int, int] = (1, 1)) -> list[nn.Module]:
    return [nn.Conv2d(channels, channels_out, kernel, stride=kernel), nn.BatchNorm2d(channels_out), nn.ReLU()]

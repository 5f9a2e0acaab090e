"""The paper's exits: for each stage that remains, a bottleneck that takes its map down as that stage would have.

After `ShallowNet` and `DownSampleBottleneck` of WeichiChen1210/Mango-Classification (`Grade Classification/models/shallownet.py`).
"""

from itertools import pairwise
from typing import Annotated, Literal

from annotated_types import Ge
from torch import Tensor, nn

from kdcore import Branch, Context, MultiExit, Pooled, Tap, Tapped


def shallownet(
    backbone: Tapped,
    context: Context,
    *,
    width: Annotated[int, Ge(1)] = 128,
    pooling: Literal["adaptive", "top_left"] = "adaptive",
) -> MultiExit:
    """A chain of bottlenecks, pooling and a linear layer on every tap but the last. Embeddings are as wide as the deepest exit's.

    width: channels within a bottleneck, 128 in the code. pooling: the mean of the whole map, or `top_left`, of its first 4 x 4 places,
    which is what the code's AvgPool2d(4, 4) leaves of a map of 7 x 7.
    """
    branches = []
    for k, tap in enumerate(backbone.taps[:-1]):
        body = nn.Sequential(*chain([tap, *backbone.taps[k + 1 :]], backbone.embedding_dim, width), Pooled())
        if pooling == "top_left":
            body.insert(len(body) - 1, TopLeft(4))
        branches.append(Branch(body, nn.Linear(backbone.embedding_dim, context.num_classes)))
    return MultiExit(backbone, branches)


def chain(taps: list[Tap], embedding_dim: int, width: int = 128) -> list[nn.Module]:
    """One bottleneck from each tap to the next; the last ends as wide as the deepest embedding."""
    steps = list(pairwise(taps))
    return [
        down_sample_bottleneck(here.channels, embedding_dim if after is taps[-1] else after.channels, stride(here, after), width)
        for here, after in steps
    ]


def stride(here: Tap, after: Tap) -> tuple[int, int]:
    """How far the map shrinks from one tap to the next: 2 in a ResNet, 1 in a flat model."""
    return max(round(here.height / after.height), 1), max(round(here.width / after.width), 1)


def down_sample_bottleneck(channels: int, channels_out: int, stride: tuple[int, int], width: int = 128) -> nn.Sequential:
    """[B, channels, H, W] -> [B, channels_out, ceil(H / stride), ceil(W / stride)]: 1 x 1, 3 x 3 with the stride, 1 x 1."""
    return nn.Sequential(
        *_block(nn.Conv2d(channels, width, 1)),
        *_block(nn.Conv2d(width, width, 3, stride=stride, padding=1)),
        *_block(nn.Conv2d(width, channels_out, 1)),
    )


def _block(convolution: nn.Conv2d) -> list[nn.Module]:
    return [convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU()]


class TopLeft(nn.Module):
    """The first `side` x `side` places of a map, or all of a smaller one."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, features: Tensor) -> Tensor:
        return features[..., : self.side, : self.side]

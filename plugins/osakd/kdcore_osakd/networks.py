"""The paper's two small networks, in timm's shape: two convolutions of 5 x 5 and a head of linear layers.

The paper gives the convolutions (6 and 16 for CIFAR-10 and SVHN, 20 and 50 for Fashion-MNIST); the widths of its linear layers are taken
from the networks that its convolutions are known from, PyTorch's tutorial and LeNet.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn


class SmallNet(nn.Module):
    """images [B, C, H, W] -> logits [B, num_classes]: for each of `channels` a convolution, ReLU and pooling by 2; then linear layers.

    img_size: pixels of the sides; the first linear layer depends on it. Raises ValueError below 16 pixels, where no map would be left.
    """

    def __init__(
        self,
        name: str,
        channels: Sequence[int],
        hidden: Sequence[int],
        *,
        num_classes: int = 10,
        in_chans: int = 3,
        img_size: int | tuple[int, int] = 32,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        if min(height, width) < 16:
            raise ValueError(f"images of {height} x {width} pixels are too small for two convolutions of 5 x 5; 16 are needed")
        self.num_classes, self.in_chans, self.drop_rate = num_classes, in_chans, drop_rate
        self.stages, self.feature_info = nn.ModuleList(), []
        for k, count in enumerate(channels):
            before = in_chans if k == 0 else channels[k - 1]
            self.stages.append(nn.Sequential(nn.Conv2d(before, count, 5), nn.ReLU(), nn.MaxPool2d(2)))
            self.feature_info.append({"num_chs": count, "reduction": 2 ** (k + 1), "module": f"stages.{k}"})
            height, width = (height - 4) // 2, (width - 4) // 2
        widths = [channels[-1] * height * width, *hidden]
        self.hidden = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(widths))
        self.num_features = self.head_hidden_size = widths[-1]
        self.fc = nn.Linear(widths[-1], num_classes)
        size = (in_chans, *((img_size, img_size) if isinstance(img_size, int) else img_size))
        self.pretrained_cfg = self.default_cfg = {
            "architecture": name,
            "input_size": size,
            "num_classes": num_classes,
            "mean": (0.5,) * in_chans,
            "std": (0.5,) * in_chans,
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "classifier": "fc",
            "first_conv": "stages.0.0",
        }

    def get_classifier(self) -> nn.Module:
        return self.fc

    def forward_intermediates(
        self,
        x: Tensor,
        indices: Sequence[int] | int | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """timm's: the last map and those of the stages asked for, each after its pooling."""
        count = len(self.stages)
        chosen = range(count) if indices is None else range(count - indices, count) if isinstance(indices, int) else indices
        wanted = [index % count for index in chosen]
        found = []
        for k, stage in enumerate(self.stages):
            if stop_early and k > max(wanted):
                break
            x = stage(x)
            if k in wanted:
                found.append(x)
        return found if intermediates_only else (x, found)

    def forward_features(self, x: Tensor) -> Tensor:
        return self.forward_intermediates(x)[0]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = x.flatten(1)
        for layer in self.hidden:
            x = layer(x).relu()
        x = F.dropout(x, self.drop_rate, self.training) if self.drop_rate else x
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        return {"stem": r"^stages\.0", "blocks": [(r"^stages\.(\d+)", None), (r"^hidden\.(\d+)", (99,))]}


def cnn(pretrained: bool = False, **kwargs: Any) -> SmallNet:
    """The paper's network for CIFAR-10 and SVHN: convolutions of 6 and 16, linear layers of 120, 84 and the classes; 62,006 parameters."""
    return SmallNet("osakd/cnn", (6, 16), (120, 84), **_scratch("cnn", pretrained, kwargs))


def lenet(pretrained: bool = False, **kwargs: Any) -> SmallNet:
    """The paper's network for Fashion-MNIST: convolutions of 20 and 50, linear layers of 500 and the classes."""
    return SmallNet("osakd/lenet", (20, 50), (500,), **({"img_size": 28, "in_chans": 1} | _scratch("lenet", pretrained, kwargs)))


def _scratch(name: str, pretrained: bool, kwargs: dict[str, Any]) -> dict[str, Any]:
    from kdcore import KdError

    if pretrained:
        raise KdError(f"osakd/{name} has no pretrained weights; train it with --scratch or --init FILE")
    return {key: value for key, value in kwargs.items() if key not in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")}

"""torchvision's small networks in timm's shape, under torchvision's own names of tensors, so that its weights load as they are.

SqueezeNet (arXiv:1602.07360), MobileNetV2 (arXiv:1801.04381) and ShuffleNet v2 (arXiv:1807.11164) for images of 224 pixels.
"""

from typing import Any

from timm.layers import SelectAdaptivePool2d
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import WeightsEnum, mobilenetv2, shufflenetv2, squeezenet

from kdcore_cifar.staged import Staged, tap


class SqueezeNet(Staged, squeezenet.SqueezeNet):
    """version: "1_0" or "1_1". Its classifier is a convolution, a ReLU and pooling: the embedding is the pooled map in front of it."""

    stage, blockwise, head = "features", False, "classifier.1"

    def __init__(
        self, version: str = "1_1", num_classes: int = 1000, in_chans: int = 3, drop_rate: float = 0.5, global_pool: str = "avg"
    ) -> None:
        super().__init__(version=version, num_classes=max(num_classes, 1))
        _take_channels(self, "features.0", in_chans)
        self.steps = tuple(f"features.{k}" for k in range(len(self.features)))
        places = {"1_0": (1, 5, 10, 12), "1_1": (1, 4, 7, 12)}[version]
        channels = (96 if version == "1_0" else 64, 256 if version == "1_0" else 128, 512 if version == "1_0" else 256, 512)
        self.feature_info = [tap(f"features.{k}", c, r) for k, c, r in zip(places, channels, (2, 4, 8, 16), strict=True)]
        self.feature_info[0]["preact"] = "features.0"
        self.num_features = self.head_hidden_size = 512
        self.num_classes, self.in_chans, self.drop_rate = num_classes, in_chans, drop_rate
        self.global_pool = SelectAdaptivePool2d(pool_type=global_pool, flatten=True)
        if not num_classes:
            self.reset_classifier(0)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        if pre_logits or not self.num_classes:
            return self.global_pool(x)
        x = F.dropout(x, p=float(self.drop_rate), training=self.training)
        return self.global_pool(F.relu(self.classifier[1](x)))

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        some = next(self.parameters())
        self.num_classes = num_classes
        if global_pool is not None:
            self.global_pool = SelectAdaptivePool2d(pool_type=global_pool, flatten=bool(global_pool))
        conv = nn.Conv2d(512, num_classes, 1, device=some.device, dtype=some.dtype) if num_classes else nn.Identity()
        if num_classes:
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.zeros_(conv.bias)
        self.classifier[1] = conv.train(self.training)


class MobileNetV2(Staged, mobilenetv2.MobileNetV2):
    """torchvision's, with ReLU6 and a stem with stride 2. No ReLU ends a stage."""

    stage, blockwise, head = "features", False, "classifier.1"

    def __init__(self, num_classes: int = 1000, in_chans: int = 3, drop_rate: float = 0.2, global_pool: str = "avg") -> None:
        super().__init__(num_classes=max(num_classes, 1))
        _take_channels(self, "features.0.0", in_chans)
        self.steps = tuple(f"features.{k}" for k in range(len(self.features)))
        places = ((1, 16, 2), (3, 24, 4), (6, 32, 8), (13, 96, 16), (17, 320, 32))
        self.feature_info = [tap(f"features.{k}", channels, reduction) for k, channels, reduction in places]
        _take_head(self, self.last_channel, num_classes, in_chans, drop_rate, global_pool)

    forward = Staged.forward


class ShuffleNetV2(Staged, shufflenetv2.ShuffleNetV2):
    """widths: of the stem, the three stages and the last convolution. Only half of a map has a ReLU last: no `preact`."""

    def __init__(
        self, widths: tuple[int, ...], num_classes: int = 1000, in_chans: int = 3, drop_rate: float = 0.0, global_pool: str = "avg"
    ) -> None:
        super().__init__([4, 8, 4], list(widths), num_classes=max(num_classes, 1))
        _take_channels(self, "conv1.0", in_chans)
        self.steps = ("conv1", "maxpool", "stage2", "stage3", "stage4", "conv5")
        self.feature_info = [tap("conv1", widths[0], 2, "conv1.1")]
        self.feature_info += [tap(f"stage{k}", widths[k - 1], 2 ** (k + 1)) for k in (2, 3, 4)]
        _take_head(self, widths[-1], num_classes, in_chans, drop_rate, global_pool)

    stage = "stage"
    forward = Staged.forward


def _take_channels(net: nn.Module, name: str, in_chans: int) -> None:
    """Another first convolution, where images are not of three channels."""
    old = net.get_submodule(name)
    if in_chans != 3:
        new = nn.Conv2d(in_chans, old.out_channels, old.kernel_size, old.stride, old.padding, bias=old.bias is not None)
        nn.init.kaiming_normal_(new.weight, mode="fan_out")
        net.set_submodule(name, new)


def _take_head(net: Staged, width: int, num_classes: int, in_chans: int, drop_rate: float, pool: str) -> None:
    """timm's pooling and attributes around torchvision's own linear layer."""
    net.num_features = net.head_hidden_size = width
    net.num_classes, net.in_chans, net.drop_rate = num_classes, in_chans, drop_rate
    net.global_pool = SelectAdaptivePool2d(pool_type=pool, flatten=bool(pool))
    if not num_classes:
        net.reset_classifier(0)


def pretrained_cfg(weights: WeightsEnum, first_conv: str, classifier: str) -> dict[str, Any]:
    """What timm wants to know of torchvision's weights, from torchvision's own words: where they are, and how they want their images."""
    seen = weights.transforms()
    return {
        "url": weights.url,
        "num_classes": len(weights.meta["categories"]),
        "input_size": (3, seen.crop_size[0], seen.crop_size[0]),
        "crop_pct": seen.crop_size[0] / seen.resize_size[0],
        "interpolation": seen.interpolation.value,
        "mean": tuple(seen.mean),
        "std": tuple(seen.std),
        "first_conv": first_conv,
        "classifier": classifier,
        "license": "bsd-3-clause",
        "origin_url": weights.meta["recipe"],
    }

"""The list: every network by its name, with its paper. `build` makes one; each is registered with timm as `cifar_<name>`."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, Bottleneck
from torch import nn
from torchvision import models as torchvision

from kdcore import KdError
from kdcore_cifar import lenet, mobilenet, pyramidnet, resnet, shufflenet, tv, vgg, wrn

MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
"""Of CIFAR-100's training images, as RepDistiller normalises them."""


@dataclass(frozen=True)
class Network:
    """A class of this package, its options, and where it comes from. `config`: what timm's `pretrained_cfg` says beyond the usual."""

    make: type[nn.Module]
    options: dict[str, Any]
    paper: str
    config: dict[str, Any] = field(default_factory=dict)


HE, WRN, VGG = "1512.03385", "1605.07146", "1409.1556"


def _torchvision(make: type[nn.Module], options: dict[str, Any], paper: str, weights: Any, first_conv: str, classifier: str) -> Network:
    return Network(make, options, paper, tv.pretrained_cfg(weights.DEFAULT, first_conv, classifier))


_SQUEEZE = ("1602.07360", "features.0", "classifier.1")
_SHUFFLE = ("1807.11164", "conv1.0", "fc")

NETWORKS: dict[str, Network] = {
    **{f"resnet{depth}": Network(resnet.ResNet, resnet.cifar_resnet(depth), HE) for depth in (8, 14, 20, 32, 44, 56, 110)},
    **{f"resnet{depth}x4": Network(resnet.ResNet, resnet.cifar_resnet(depth, width=4, stem=32), HE) for depth in (8, 14, 20, 32)},
    **{f"resnet{depth}x2": Network(resnet.ResNet, resnet.cifar_resnet(depth, width=2), HE) for depth in (38, 110)},
    "resnet10": Network(resnet.ResNet, resnet.small_stem(BasicBlock, 1, 1, 1, 1), HE),
    "resnet18": Network(resnet.ResNet, resnet.small_stem(BasicBlock, 2, 2, 2, 2), HE),
    "resnet34": Network(resnet.ResNet, resnet.small_stem(BasicBlock, 3, 4, 6, 3), HE),
    "resnet50": Network(resnet.ResNet, resnet.small_stem(Bottleneck, 3, 4, 6, 3), HE),
    "resnet101": Network(resnet.ResNet, resnet.small_stem(Bottleneck, 3, 4, 23, 3), HE),
    "resnet152": Network(resnet.ResNet, resnet.small_stem(Bottleneck, 3, 8, 36, 3), HE),
    **{
        f"wrn_{depth}_{width}": Network(wrn.WideResNet, {"depth": depth, "width": width}, WRN)
        for depth, width in (
            (16, 1),
            (16, 2),
            (16, 4),
            (16, 8),
            (20, 8),
            (22, 8),
            (28, 4),
            (28, 10),
            (28, 12),
            (40, 1),
            (40, 2),
            (40, 4),
            (44, 8),
        )
    },
    **{f"vgg{depth}": Network(vgg.VGG, {"depth": depth}, VGG) for depth in vgg.LAYERS},
    "shufflenetv1": Network(shufflenet.ShuffleNetV1, {}, "1707.01083"),
    "shufflenetv2": Network(shufflenet.ShuffleNetV2, {}, "1807.11164"),
    "mobile_half": Network(mobilenet.MobileNetV2, {}, "1801.04381", {"first_conv": "conv1.0"}),
    "resnext29_8x64d": Network(resnet.ResNet, resnet.resnext29(8, 64), "1611.05431"),
    "resnext29_16x64d": Network(resnet.ResNet, resnet.resnext29(16, 64), "1611.05431"),
    "pyramidnet101_240": Network(pyramidnet.PyramidNet, {"depth": 101, "alpha": 240}, "1610.02915"),
    "pyramidnet110_84": Network(pyramidnet.PyramidNet, {"depth": 110, "alpha": 84, "bottleneck": False}, "1610.02915"),
    "pyramidnet200_240": Network(pyramidnet.PyramidNet, {"depth": 200, "alpha": 240}, "1610.02915"),
    "cnn_6_16": Network(lenet.LeNet, {}, "OSAKD, for CIFAR-10 and SVHN"),
    "cnn_20_50": Network(
        lenet.LeNet,
        {"channels": (20, 50), "hidden": (500,), "act_conv": False, "img_size": 28},
        "OSAKD, for Fashion-MNIST",
        {"input_size": (3, 28, 28)},
    ),
    "lenet5": Network(lenet.LeNet, {"act": nn.Tanh, "pool": nn.AvgPool2d}, "LeCun et al., 1998"),
    "squeezenet1_0": _torchvision(tv.SqueezeNet, {"version": "1_0"}, _SQUEEZE[0], torchvision.SqueezeNet1_0_Weights, *_SQUEEZE[1:]),
    "squeezenet1_1": _torchvision(tv.SqueezeNet, {"version": "1_1"}, _SQUEEZE[0], torchvision.SqueezeNet1_1_Weights, *_SQUEEZE[1:]),
    "mobilenet_v2": _torchvision(tv.MobileNetV2, {}, "1801.04381", torchvision.MobileNet_V2_Weights, "features.0.0", "classifier.1"),
    "shufflenet_v2_x0_5": _torchvision(
        tv.ShuffleNetV2, {"widths": (24, 48, 96, 192, 1024)}, _SHUFFLE[0], torchvision.ShuffleNet_V2_X0_5_Weights, *_SHUFFLE[1:]
    ),
    "shufflenet_v2_x1_0": _torchvision(
        tv.ShuffleNetV2, {"widths": (24, 116, 232, 464, 1024)}, _SHUFFLE[0], torchvision.ShuffleNet_V2_X1_0_Weights, *_SHUFFLE[1:]
    ),
}

_USUAL = {
    "num_classes": 10,
    "input_size": (3, 32, 32),
    "crop_pct": 1.0,
    "mean": MEAN,
    "std": STD,
    "first_conv": "conv1",
    "classifier": "fc",
}
default_cfgs = generate_default_cfgs({f"cifar_{name}": _USUAL | network.config for name, network in NETWORKS.items()})


def build(name: str, pretrained: bool = False, **options: Any) -> nn.Module:
    """A network of the list, as timm's own functions build theirs: num_classes, in_chans, drop_rate, global_pool and timm's keywords.

    Raises KdError where weights are asked for and there are none.
    """
    network, elsewhere = NETWORKS[name], options.get("pretrained_cfg") or options.get("pretrained_cfg_overlay")
    if pretrained and not elsewhere and "url" not in network.config:
        raise KdError(f"there are no pretrained weights of 'cifar/{name}': train it with --scratch, or give weights with --init FILE")
    feature_cfg = {"feature_cls": "getter", "out_indices": None}
    if options.get("features_only"):
        feature_cfg["out_indices"] = tuple(range(len(network.make(**network.options).feature_info)))
    return build_model_with_cfg(network.make, f"cifar_{name}", pretrained, feature_cfg=feature_cfg, **(network.options | options))


def _entry(name: str) -> Callable[..., nn.Module]:
    def create(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return build(name, pretrained, **kwargs)

    create.__name__ = create.__qualname__ = f"cifar_{name}"
    paper, size = NETWORKS[name].paper, NETWORKS[name].config.get("input_size", (3, 32, 32))[1]
    create.__doc__ = f"For images of {size} pixels, after {'arXiv:' if paper[0].isdigit() else ''}{paper}."
    return register_model(create)


ENTRIES = {name: _entry(name) for name in NETWORKS}
"""What the hook `backbones` answers with."""

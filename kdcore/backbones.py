"""Backbones: timm's, those that plugins register, and 32-pixel stems as timm models of their own."""

from typing import TYPE_CHECKING, Any

import timm
import torch
from timm.models import is_model, register_model
from torch import nn

from kdcore.errors import KdError, nearest

if TYPE_CHECKING:
    from kdcore.plugins import Plugins


def _small_stem(name: str, **kwargs: Any) -> nn.Module:
    """A timm ResNet for 32-pixel images: a 3 x 3 stem with stride 1 and no pooling, the same stages after it."""
    pretrained = kwargs.pop("pretrained", False)
    if pretrained:
        raise KdError(f"{name}_32px is an architecture of its own and has no pretrained weights; train it with --scratch or --init FILE")
    for key in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
        kwargs.pop(key, None)
    net = timm.create_model(name, pretrained=False, **kwargs)
    width = net.conv1[-1].out_channels if isinstance(net.conv1, nn.Sequential) else net.conv1.out_channels
    net.conv1 = nn.Conv2d(kwargs.get("in_chans", 3), width, 3, stride=1, padding=1, bias=False)
    nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
    net.maxpool = nn.Identity()
    for info in net.feature_info if isinstance(net.feature_info, list) else net.feature_info.info:
        info["reduction"] //= 4 if info["module"] != "act1" else 2
    size = (kwargs.get("in_chans", 3), 32, 32)
    net.pretrained_cfg = {
        **net.pretrained_cfg,
        "architecture": f"{name}_32px",
        "input_size": size,
        "url": "",
        "hf_hub_id": None,
        "first_conv": "conv1",
    }
    net.default_cfg = net.pretrained_cfg
    return net


@register_model
def resnet18_32px(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-18 with a small stem (the CIFAR ResNet-18 of the papers)."""
    return _small_stem("resnet18", pretrained=pretrained, **kwargs)


@register_model
def resnet34_32px(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-34 with a small stem."""
    return _small_stem("resnet34", pretrained=pretrained, **kwargs)


@register_model
def resnet50_32px(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-50 with a small stem."""
    return _small_stem("resnet50", pretrained=pretrained, **kwargs)


@register_model
def test_resnet_32px(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """timm's `test_resnet` (four stages of one block, 0.3 M parameters) with a small stem."""
    return _small_stem("test_resnet", pretrained=pretrained, **kwargs)


def create_backbone(name: str, *, plugins: "Plugins | None" = None, pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """A backbone by its timm name, or by a plugin's (`cifar/resnet20`). Raises KdError for an unknown one, or weights that cannot be had."""
    kwargs = {key: value for key, value in kwargs.items() if value is not None}
    try:
        if "/" in name and not name.startswith(("hf-hub:", "hf_hub:", "local-dir:")):
            from kdcore.plugins import Plugins

            part = (plugins or Plugins()).part("backbones", name)
            return part.target(pretrained=pretrained, **kwargs)
        if not name.startswith(("hf-hub:", "hf_hub:", "local-dir:")) and not is_model(name.partition(".")[0]):
            near = nearest(name, timm.list_models())
            raise KdError(f"there is no backbone '{name}'{near if 'did you mean' in near else '; timm.list_models() names them all'}")
        return timm.create_model(name, pretrained=pretrained, **kwargs)
    except (KdError, TypeError, AssertionError):
        raise
    except Exception as error:
        if pretrained:
            raise KdError(
                f"the pretrained weights of '{name}' cannot be loaded ({type(error).__name__}: {str(error).splitlines()[0][:120]}); "
                "train from scratch with --scratch, or give weights with --init FILE"
            ) from error
        raise


def parameter_count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def macs(module: nn.Module, images: torch.Tensor) -> int:
    """Multiply-accumulates of one image, from torch's own FLOP counter (2 FLOPs each); matrix products, convolutions and attention."""
    from torch.utils.flop_counter import FlopCounterMode

    from kdcore.tapped import dry

    with dry(module), torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(images[:1])
    return counter.get_total_flops() // 2

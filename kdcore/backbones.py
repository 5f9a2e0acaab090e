"""Backbones: timm's, those that plugins register, and 32-pixel stems as timm models of their own."""

import logging
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import timm
import torch
from timm.models import is_model, load_pretrained, register_model
from torch import nn

from kdcore.errors import KdError, nearest
from kdcore.seeds import seeded

if TYPE_CHECKING:
    from kdcore.plugins import Plugins


def _small_stem(name: str, **kwargs: Any) -> nn.Module:
    """A timm ResNet for 32-pixel images: a 3 x 3 stem with stride 1 and no pooling, the same stages after it."""
    pretrained, given = kwargs.pop("pretrained", False), kwargs.pop("pretrained_cfg", None)
    own = given if isinstance(given, dict) else {}  # of a local-dir: or hf-hub: name, which bring weights of this very architecture
    if pretrained and not own:
        raise KdError(f"{name}_32px is an architecture of its own and has no pretrained weights; train it with --scratch or --init FILE")
    for key in ("pretrained_cfg_overlay", "cache_dir"):
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
        **own,
    }
    net.default_cfg = net.pretrained_cfg
    if pretrained:
        load_pretrained(net, net.pretrained_cfg, num_classes=net.num_classes, in_chans=size[0])
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


FLAGS = {"drop_rate": "--drop", "drop_path_rate": "--drop-path", "img_size": "--img-size"}
"""How the command spells what not every backbone takes."""


def create_backbone(
    name: str,
    *,
    plugins: "Plugins | None" = None,
    pretrained: bool = False,
    img_size: tuple[int, int] | int | None = None,
    **kwargs: Any,
) -> nn.Module:
    """A backbone by its timm name, or by a plugin's (`cifar/resnet20`).

    img_size: of the images to come. A backbone whose layers depend on it is built for it; one that takes images of any size is as without.
    Raises KdError for an unknown backbone or option, or weights that cannot be had.
    """
    kwargs = {key: value for key, value in kwargs.items() if value is not None}
    if img_size is not None:
        size = (img_size, img_size) if isinstance(img_size, int) else (int(img_size[0]), int(img_size[1]))
        if needs_size(name, size, plugins, **kwargs):
            kwargs["img_size"] = size
    try:
        return _build(name, plugins, pretrained, kwargs)
    except (KdError, AssertionError):
        raise
    except Exception as error:
        if refused := _refused_option(error, kwargs):
            flag = f" ({FLAGS[refused]})" if refused in FLAGS else ""
            raise KdError(f"backbone '{name}' takes no {refused}{flag}: leave it out, or choose another backbone") from error
        if pretrained and not isinstance(error, TypeError):
            raise KdError(
                f"the pretrained weights of '{name}' cannot be loaded ({_reason(error)}); "
                "train from scratch with --scratch, or give weights with --init FILE"
            ) from error
        if source_of(name) is not None:
            raise KdError(f"backbone '{name}' cannot be read: {_reason(error)}") from error
        raise


def made_for(device: torch.device | str) -> AbstractContextManager[Any]:
    """Within it networks are made on the meta device, where that is theirs, and so never take memory; for others on the CPU, to be moved."""
    return torch.device("meta") if torch.device(device).type == "meta" else nullcontext()


def _reason(error: Exception) -> str:
    """The first sentence of an error, and a plain word for a hub that cannot be reached."""
    if type(error).__name__ in ("LocalEntryNotFoundError", "OfflineModeIsEnabled", "ConnectionError", "ConnectTimeout"):
        return "not in the cache, and the hub cannot be reached"
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:160]}"


def _build(name: str, plugins: "Plugins | None", pretrained: bool, kwargs: dict[str, Any]) -> nn.Module:
    if "/" in name and source_of(name) is None:
        from kdcore.plugins import Plugins

        part = (plugins or Plugins()).part("backbones", name)
        return part.target(pretrained=pretrained, **kwargs)
    if source_of(name) is None and not is_model(name.partition(".")[0]):
        near = nearest(name, timm.list_models())
        raise KdError(f"there is no backbone '{name}'{near if 'did you mean' in near else '; timm.list_models() names them all'}")
    with _quiet_hub():
        return timm.create_model(name, pretrained=pretrained, **kwargs)


@contextmanager
def _quiet_hub() -> Iterator[None]:
    """Without the hub's own lines about every retry: what went wrong is said once, at the end."""
    loggers = [logging.getLogger(name) for name in ("huggingface_hub", "timm.models._builder", "timm.models._hub")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def needs_size(name: str, size: tuple[int, int], plugins: "Plugins | None" = None, **kwargs: Any) -> bool:
    """Whether a backbone has to be told the size of its images: it is not the backbone's own, and there is an option with which it runs.

    Tried on the meta device: without memory, and without drawing from the caller's random numbers.
    """
    from kdcore.tapped import default_size

    with torch.device("meta"), torch.no_grad(), seeded(name):
        try:
            if default_size(_build(name, plugins, False, kwargs)) == size:
                return False
            net = _build(name, plugins, False, {**kwargs, "img_size": size}).eval()
            net(torch.zeros(1, kwargs.get("in_chans", 3), *size))
        except KdError:
            raise
        except Exception:  # no such option, or none for this size (crossvit); what else is wrong, the real build or its dry run says
            return False
    return True


def _refused_option(error: Exception, kwargs: dict[str, Any]) -> str | None:
    """The option that a backbone's constructor does not have, by Python's own words."""
    found = re.search(r"unexpected keyword argument '(\w+)'", str(error)) if isinstance(error, TypeError) else None
    return found[1] if found and found[1] in kwargs else None


def source_of(name: str) -> str | None:
    """`hf-hub` or `local-dir` where a name says that its architecture stands in a config.json there, None for a name of timm or a plugin."""
    scheme = name.partition(":")[0].replace("_", "-")
    return scheme if scheme in ("hf-hub", "local-dir") and ":" in name else None


def architecture_of(name: str, net: nn.Module) -> tuple[str, dict[str, Any]]:
    """A name and options that build the same architecture where neither hub nor folder can be read. net: built by that name alone."""
    if source_of(name) is None:
        return name, {}
    own = {key: value for key, value in getattr(net, "_model_args", {}).items() if key not in ("num_classes", "in_chans", "img_size")}
    return str((getattr(net, "pretrained_cfg", None) or {})["architecture"]), own


def checkpoint_gradients(net: nn.Module, image_size: tuple[int, int]) -> None:
    """Lets a backbone compute activations again in the backward pass in place of keeping them.

    Raises KdError where timm's model cannot, or does so only in a way that exits do not go (its `forward_intermediates`).
    """
    from kdcore.tapped import backbone_name

    refused = KdError(f"backbone '{backbone_name(net)}' has no gradient checkpointing: leave out --grad-checkpointing")
    plain = _kept_values(net, image_size)
    try:
        net.set_grad_checkpointing(True)
    except (AttributeError, AssertionError, TypeError) as error:
        raise refused from error
    if _kept_values(net, image_size) >= plain:
        raise refused


def _kept_values(net: nn.Module, image_size: tuple[int, int]) -> int:
    """How many numbers one forward pass in training mode keeps for the backward pass. All state is put back."""
    from kdcore.rehearsal import kept_buffers
    from kdcore.tapped import feature_infos

    kept = 0

    def count(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += tensor.numel()
        return tensor

    some = next(net.parameters())
    images = torch.zeros(2, int(getattr(net, "in_chans", 3)), *image_size, device=some.device)
    modes = [(module, module.training) for module in net.modules()]
    try:
        with seeded("kept values"), kept_buffers(net), torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            net.train()
            net.forward_intermediates(images, indices=[len(feature_infos(net)) - 1], output_fmt="NCHW")
    finally:
        for module, training in modes:
            module.training = training
    return kept


def parameter_count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def macs(module: nn.Module, images: torch.Tensor) -> int:
    """Multiply-accumulates of one image, from torch's own FLOP counter (2 FLOPs each); matrix products, convolutions, attention, LSTMs."""
    from torch.utils.flop_counter import FlopCounterMode

    from kdcore.shaped import shaped_lstms
    from kdcore.tapped import dry

    with dry(module), torch.no_grad(), _without_gradients(module), shaped_lstms(module), FlopCounterMode(display=False) as counter:
        module(images[:1])
    return counter.get_total_flops() // 2


@contextmanager
def _without_gradients(module: nn.Module) -> Iterator[None]:
    """No parameter asks for a gradient within the block: the FLOP counter hooks every argument of a module that does, and fails under `no_grad` on
    a view of a parameter (the class token of CaiT and PiT, the query of an attention pool), which has no gradient function there."""
    free = [parameter for parameter in module.parameters() if parameter.requires_grad]
    module.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in free:
            parameter.requires_grad_(True)

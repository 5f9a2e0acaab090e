"""One backbone as plain values: parameters, multiply-accumulates, default taps, and whether exits attach. On the meta device."""

import warnings
from typing import Any

import timm
import torch
from torch import nn

from kdcore.backbones import create_backbone, macs, parameter_count
from kdcore.errors import KdError
from kdcore.exits import MultiExit, attach_exits
from kdcore.plugins import Plugins
from kdcore.shaped import shaped_lstms, shaped_maps
from kdcore.tapped import dry

Facts = dict[str, Any]

CLASSES = 1000
"""Of the head that is built, as training builds one for its data: some of timm's encoders have none by default, and can have one."""


def facts_of(name: str, *, family: str = "", img_size: int | None = None, plugins: Plugins | None = None) -> Facts:
    """What `name` is as a student with the core's linear exits at its default taps, as JSON values.

    img_size: pixels of a side (default: the backbone's own size). Parameters and MACs are those of the plain backbone with a head of 1,000
    classes, MACs of one image.
    `refused`: the one line that a run would end with, or None. `failed`: what no user should see, an error that is not kdcore's, or shapes
    that are not those that were promised; or None.
    """
    facts: Facts = {"name": name, "family": family, "timm": timm.__version__, "refused": None, "failed": None}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with torch.device("meta"):
                net = create_backbone(name, plugins=plugins, img_size=img_size, num_classes=CLASSES)
            facts |= {"parameters": parameter_count(net), "pretrained": has_weights(net)}
            facts |= _as_student(net, img_size)
        except KdError as error:
            facts["refused"] = str(error)
        except Exception as error:
            facts["failed"] = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"
    return facts


def has_weights(net: nn.Module) -> bool:
    """Whether timm knows where pretrained weights of this architecture are."""
    config = getattr(net, "pretrained_cfg", None) or {}
    return any(config.get(key) for key in ("url", "hf_hub_id", "file"))


def _as_student(net: nn.Module, img_size: int | None) -> Facts:
    with shaped_lstms(net), shaped_maps(net):
        model = attach_exits(net, image_size=img_size)
        assert isinstance(model, MultiExit)
        _check(model)
    backbone = model.backbone
    return {
        "image_size": list(backbone.image_size),
        "in_chans": backbone.in_chans,
        "macs": macs(net, torch.zeros(1, backbone.in_chans, *backbone.image_size, device="meta")),
        "embedding": backbone.embedding_dim,
        "taps": [
            {"module": tap.module, "channels": tap.channels, "height": tap.height, "width": tap.width, "reduction": tap.reduction}
            for tap in backbone.taps
        ],
    }


def _check(model: MultiExit, count: int = 3) -> None:
    """Raises AssertionError where a forward pass over `count` images does not have the shapes that attaching found."""
    backbone = model.backbone
    with dry(model), torch.no_grad():
        outputs = model(torch.zeros(count, backbone.in_chans, *backbone.image_size, device="meta"))
    exits = len(backbone.taps)
    assert [tuple(logits.shape) for logits in outputs.logits] == [(count, CLASSES)] * exits, "logits of another shape"
    widths = [tap.channels for tap in backbone.taps[:-1]] + [backbone.embedding_dim]
    assert [tuple(vector.shape) for vector in outputs.embeddings] == [(count, width) for width in widths], "embeddings of another shape"
    promised = [(count, tap.channels, tap.height, tap.width) for tap in backbone.taps]
    assert [tuple(found.shape) for found in outputs.maps] == promised, "maps of another shape"


def is_flat(facts: Facts) -> bool:
    """Whether all taps lie at one reduction, as in a plain ViT."""
    return len({tap["reduction"] for tap in facts["taps"]}) == 1

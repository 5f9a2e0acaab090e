"""Exits that are copies of what remains of the backbone: its stages after the tap, pooling, and a linear layer, all drawn anew.

HSAKD's auxiliary classifiers are built so (winycg/HSAKD, `models/`). There each network has a class of its own for it; here the stages are
found: the modules that follow the tap's, up to that of the last map, if running them one after the other does give that map.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from kdcore import Branch, Context, KdError, MultiExit, Pooled, Tap, Tapped
from kdcore.backbones import create_backbone, made_for
from kdcore.seeds import seeded
from kdcore.tapped import backbone_name, copied, dry, unhooked


def replica(backbone: Tapped, context: Context) -> MultiExit:
    """On every tap but the last: the remaining stages with weights of their own, global average pooling and a linear layer.

    What normalises the last map before the backbone pools it (a WRN's last BatchNorm and ReLU) is copied too. An exit costs as much as the
    backbone from its tap on. Raises KdError for a backbone whose stages are no chain of modules (a ViT, say), with what to type.
    """
    images = _noise(backbone)
    with dry(backbone), torch.no_grad():
        outputs = backbone(images)
        end = closing(backbone, outputs.maps[-1], outputs.embeddings[-1])
        branches = []
        for tap, found in zip(backbone.taps[:-1], outputs.maps, strict=False):
            stages = remaining(backbone.net, tap.module, backbone.taps[-1].module)
            if not stages or not _gives(_chain(backbone.net, stages), found, outputs.maps[-1]):
                raise KdError(_refusal(backbone, tap))
            body = nn.Sequential(*redrawn(backbone, [*stages, *end]), Pooled())
            with dry(body):
                width = body(found.clone()).shape[1]
            branches.append(Branch(body, nn.Linear(width, context.num_classes)))
    return MultiExit(backbone, branches)


replica.cannot = {"vit": "a ViT's stages are no chain of modules that gives its last map, so they cannot be copied"}  # type: ignore[attr-defined]


def remaining(net: nn.Module, after: str, last: str) -> list[str]:
    """Names of the modules that follow the module `after`, in the order in which they were registered, up to and with `last`.

    The two may lie in different containers (`blocks.1.2` and `blocks.6`): then what is left of the first comes before what lies between.
    None where a name is that of no module, as `stage1` in timm's HRNets.
    """
    if not {after, last} <= {name for name, _ in net.named_modules()}:
        return []
    begin, end = after.split("."), last.split(".")
    common = next((k for k, (one, other) in enumerate(zip(begin, end, strict=False)) if one != other), None)
    if common is None:
        return []
    names: list[str] = []
    for depth in range(len(begin) - 1, common, -1):
        names += _children(net, begin[:depth], begin[depth], None)
    names += _children(net, begin[:common], begin[common], end[common])
    for depth in range(common + 1, len(end)):
        names += _children(net, end[:depth], None, end[depth])
    return [*names, last]


def closing(backbone: Tapped, last: Tensor, embedding: Tensor) -> list[str]:
    """Names of the modules between the last map [B, C, H, W] and global average pooling: none in a ResNet, `bn1` and `act` in a WRN.

    Found by what they give: the mean over their map's places is the backbone's embedding [B, D]. None where no such modules are.
    """
    path, names = backbone.taps[-1].module.split("."), list[str]()
    if backbone.taps[-1].module not in dict(backbone.net.named_modules()):
        return []
    following = [name for depth in range(len(path) - 1, -1, -1) for name in _children(backbone.net, path[:depth], path[depth], None)]
    features = last.clone()
    for name in [None, *following]:
        if name is not None:
            names.append(name)
            try:
                features = backbone.net.get_submodule(name)(features)
            except Exception:  # what takes no map is the head's
                return []
        if not isinstance(features, Tensor) or features.ndim != 4:
            return []
        if _alike(features.mean(dim=(2, 3)), embedding):
            return names
    return []


def redrawn(backbone: Tapped, names: Iterable[str]) -> list[nn.Module]:
    """Copies of these modules of the backbone, with the weights that its architecture begins with.

    The architecture is built once more, so that weights are drawn as timm draws them. Raises KdError where it is known by no name, or
    its modules are others.
    """
    name = backbone_name(backbone.net)
    refused = KdError(
        f"mskd.replica draws the weights of copied stages by building '{name}' once more, and what that gives is another network: "
        "give the backbone by its timm name, or take other exits"
    )
    try:
        with made_for(next(backbone.parameters()).device):
            fresh = create_backbone(name, img_size=backbone.image_size)
    except KdError as error:
        raise refused from error
    modules = []
    for part in names:
        module = unhooked(copied(backbone.net.get_submodule(part)))
        try:
            module.load_state_dict(fresh.get_submodule(part).state_dict())
        except (AttributeError, RuntimeError) as error:
            raise refused from error
        modules.append(module.requires_grad_())
    return modules


def _children(net: nn.Module, parent: list[str], after: str | None, before: str | None) -> list[str]:
    """Full names of the parent's children that stand between two of them; None is the beginning, or the end."""
    children = [name for name, _ in net.get_submodule(".".join(parent)).named_children()]
    begin = 0 if after is None else children.index(after) + 1
    end = len(children) if before is None else children.index(before)
    return [".".join([*parent, name]) for name in children[begin:end]]


def _chain(net: nn.Module, names: list[str]) -> nn.Sequential:
    return nn.Sequential(*(net.get_submodule(name) for name in names))


def _gives(chain: nn.Module, features: Tensor, wanted: Tensor) -> bool:
    try:
        return _alike(chain(features.clone()), wanted)  # a clone: the first module may write into it
    except Exception:  # whatever it is: the modules are no chain from map to map
        return False


def _alike(found: object, wanted: Tensor) -> bool:
    if not isinstance(found, Tensor) or found.shape != wanted.shape:
        return False
    return found.is_meta or torch.allclose(found, wanted, rtol=1e-3, atol=1e-4)


def _noise(backbone: Tapped) -> Tensor:
    some = next(backbone.parameters())
    with seeded("replica"):
        images = torch.randn(2, backbone.in_chans, *backbone.image_size)
    return images.to(some.device)


def _refusal(backbone: Tapped, tap: Tap) -> str:
    return (
        f"mskd.replica cannot copy what follows '{tap.module}' in backbone '{backbone_name(backbone.net)}': "
        "its stages are no chain of modules that gives its last map; take --exits byot.bottleneck (kdcore-byot) or --exits linear"
    )

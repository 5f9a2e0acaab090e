"""Exits on any timm backbone: branches on its taps, and a module for each exit alone."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from kdcore.checks import guarded
from kdcore.context import Context
from kdcore.errors import KdError
from kdcore.options import validate
from kdcore.plugins import Plugins
from kdcore.seeds import seeded
from kdcore.tapped import Tapped, TapSpec, copied, default_size, dry, same_bits, unhooked
from kdcore.vocabulary import Outputs


class Branch(nn.Module):
    """One exit: `body` from a map [B, C, H, W] to an embedding [B, D], then `classifier` to logits [B, K]."""

    def __init__(self, body: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.classifier = classifier

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        embedding = self.body(features)
        return self.classifier(embedding), embedding


class MultiExit(nn.Module):
    """A tapped backbone with a branch on each tap but the last (None: that tap carries no exit); its own head is the last exit.

    branches: modules from a map to (logits, embedding), such as `Branch`.
    """

    def __init__(self, backbone: Tapped, branches: Sequence[nn.Module | None]) -> None:
        super().__init__()
        if len(branches) >= len(backbone.taps) and len(branches) > 0:
            raise KdError(f"{len(branches)} branches for {len(backbone.taps) - 1} taps before the last stage")
        self.backbone = backbone
        self.branches = nn.ModuleDict({str(k): branch for k, branch in enumerate(branches) if branch is not None})

    def forward(self, images: Tensor) -> Outputs:
        outputs = self.backbone(images)
        answers = [branch(outputs.maps[int(k)]) for k, branch in self.branches.items()]
        logits = [answer[0] for answer in answers] + outputs.logits
        embeddings = [answer[1] for answer in answers] + outputs.embeddings
        return Outputs(logits, embeddings, outputs.maps, outputs.extras)

    def strip(self, exit: int = -1) -> nn.Module:
        """A copy that computes one exit alone, images -> logits [B, K]. exit: from 1, -1 being the last, an ordinary timm model."""
        count = len(self.branches) + 1
        number = count if exit == -1 else exit
        if not 1 <= number <= count:
            raise KdError(f"there is no exit {exit}: exits are numbered 1 (shallowest) to {count} (the backbone's own head)")
        if number == count:
            return self.backbone.strip()
        key = list(self.branches)[number - 1]
        return SingleExit(self.backbone, int(key), self.branches[key])


class SingleExit(nn.Module):
    """A backbone up to one tap, and that tap's exit. Layers after the tap are removed where timm can, and are never computed."""

    def __init__(self, backbone: Tapped, position: int, branch: nn.Module) -> None:
        super().__init__()
        tap = backbone.taps[position]
        self.branch = copied(branch)
        self.backbone: nn.Module
        if tap.index is None:
            self.backbone = _UpToTap(copied(backbone), position)
            return
        self.backbone = unhooked(copied(backbone.net))
        with seeded("strip"):
            images = torch.rand(2, backbone.in_chans, *backbone.image_size).to(next(backbone.parameters()).device)
        with dry(backbone), torch.no_grad():
            wanted = backbone(images).maps[position]
        for candidate in (_pruned(self.backbone, tap.index), _Early(copied(self.backbone), tap.index)):
            if candidate is not None and _agrees(candidate, images, wanted):
                self.backbone = candidate
                return
        self.backbone = _UpToTap(copied(backbone), position)

    def forward(self, images: Tensor) -> Tensor:
        return self.branch(self.backbone(images))[0]


class _Early(nn.Module):
    """A timm model that stops after one intermediate."""

    def __init__(self, net: nn.Module, index: int) -> None:
        super().__init__()
        self.net = net
        self.index = index

    def forward(self, images: Tensor) -> Tensor:
        return self.net.forward_intermediates(images, indices=[self.index], output_fmt="NCHW", stop_early=True, intermediates_only=True)[0]


class _UpToTap(nn.Module):
    """The plain way, where a model can neither be pruned nor stopped early: run it all and take the tap's map."""

    def __init__(self, tapped: Tapped, position: int) -> None:
        super().__init__()
        self.tapped = tapped
        self.position = position

    def forward(self, images: Tensor) -> Tensor:
        return self.tapped(images).maps[self.position]


def _pruned(net: nn.Module, index: int) -> nn.Module | None:
    pruned = copied(net)
    try:
        pruned.prune_intermediate_layers([index], prune_norm=True, prune_head=True)
    except Exception:  # a model that cannot be pruned is stopped early instead
        return None
    return _Early(pruned, index)


def _agrees(candidate: nn.Module, images: Tensor, wanted: Tensor) -> bool:
    try:
        with dry(candidate), torch.no_grad():
            found = candidate(images)
    except Exception:  # pruning broke it: the next candidate is tried
        return False
    return found.shape == wanted.shape and same_bits(found, wanted)


class Pooled(nn.Module):
    """The mean over a map's places: [B, C, H, W] -> [B, C]."""

    def forward(self, features: Tensor) -> Tensor:
        return features.mean(dim=(2, 3))


def linear(backbone: Tapped, context: Context) -> nn.Module:
    """The plainest exits: global average pooling and one linear layer on every tap but the last."""
    branches = [Branch(Pooled(), nn.Linear(tap.channels, context.num_classes)) for tap in backbone.taps[:-1]]
    return MultiExit(backbone, branches)


def attach_exits(
    backbone: nn.Module | str,
    exits: str = "linear",
    *,
    taps: TapSpec = None,
    image_size: tuple[int, int] | int | None = None,
    seed: int = 0,
    plugins: Plugins | None = None,
    **options,
) -> nn.Module:
    """A multi-exit model from any timm backbone: `attach_exits("resnet18", "byot.bottleneck")(images) -> Outputs`.

    backbone: a timm model or its name. taps: None for the stages, "quarters", feature numbers, or dotted module names. image_size: of the
    images to come, in pixels (default: the backbone's own). Channels and shapes are found, never typed. Raises KdError for a backbone
    that does not classify, a tap that does not exist, an unknown exit or option.
    """
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    if isinstance(backbone, str):
        from kdcore.backbones import create_backbone

        backbone = create_backbone(backbone, plugins=plugins, img_size=size)
    part = (plugins or Plugins()).part("exits", exits)
    tapped = Tapped(backbone, taps, size or default_size(backbone))
    context = Context(num_classes=tapped.num_classes, image_size=tapped.image_size, in_chans=tapped.in_chans, seed=seed, taps=taps)
    with seeded(seed, part.name):
        return attached(partial(part.target, **validate(part.target, options, part.label)), part.label, tapped, context)


def attached(exits: Callable, label: str, backbone: Tapped, context: Context) -> nn.Module:
    """What `exits(backbone, context)` makes, on the backbone's device, after the dry run in which lazy modules take shape.

    The caller seeds both. `label` is how errors name the exits.
    """
    backbone.trunk = True
    device = next(backbone.parameters()).device
    model = guarded(label, exits, backbone, context)
    if not isinstance(model, nn.Module):
        raise KdError(f"{label} must return a module, not {type(model).__name__}")
    model.to(device)
    with dry(model), torch.no_grad():
        guarded(label, model, torch.zeros(2, backbone.in_chans, *backbone.image_size, device=device))
    return model

"""What the networks share: a chain of named modules, taps after some of them, and a head. From these follows the whole of timm's interface."""

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

from timm.layers import create_classifier
from timm.models import checkpoint, checkpoint_seq
from timm.models._features import feature_take_indices
from torch import Tensor, nn
from torch.nn import functional as F


class Staged(nn.Module):
    """A classifier whose features are a chain: `steps` names its modules in order, `feature_info` those after which maps are taken.

    A subclass builds its modules under these names and calls `finish`. `forward` takes [B, in_chans, H, W] and gives logits [B, num_classes].
    `feature_info` has timm's keys, and `preact`: the module that gives the same map before its last ReLU (None where there is no such map).
    """

    steps: tuple[str, ...] = ()
    stage = "layer"
    """How the names of the stages begin: they are what layer decay groups and gradient checkpointing go by."""
    normed_by: str | None = None
    """The step that ends the last stage's normalisation, in networks whose stages end before it: the last map with `norm=True`."""
    blockwise = True
    """Whether a stage's children are blocks, each worth a checkpoint of its own."""
    head = "fc"
    """The linear layer's name."""
    checkpointed: frozenset[str] = frozenset()

    def finish(self, width: int, num_classes: int, in_chans: int, drop_rate: float, pool: str = "avg") -> None:
        """The head after `width` channels: pooling, dropout, a linear layer. num_classes 0: none."""
        self.num_features = self.head_hidden_size = width
        self.num_classes, self.in_chans, self.drop_rate = num_classes, in_chans, drop_rate
        self.global_pool, self.fc = create_classifier(width, num_classes, pool_type=pool)

    def _step(self, name: str, x: Tensor) -> Tensor:
        module: nn.Module = self
        for part in name.split("."):
            module = getattr(module, part)
        if name in self.checkpointed and self.training:
            return checkpoint_seq(module, x) if self.blockwise else checkpoint(module, x)
        return module(x)

    def forward_features(self, x: Tensor) -> Tensor:
        for name in self.steps:
            x = self._step(name, x)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = self.global_pool(x)
        if self.drop_rate:
            x = F.dropout(x, p=float(self.drop_rate), training=self.training)
        return x if pre_logits else self.get_classifier()(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """The final features and the maps at `indices` into `feature_info`, shallow to deep. Arguments as everywhere in timm."""
        assert output_fmt == "NCHW", "Output shape must be NCHW."
        last = len(self.feature_info) - 1
        taken, deepest = feature_take_indices(last + 1, indices)
        modules = [info["module"] for info in self.feature_info]
        if norm and self.normed_by:
            modules[last] = self.normed_by
        wanted = {modules[k] for k in taken}
        maps = []
        for name in self.steps:
            x = self._step(name, x)
            if name in wanted:
                maps.append(x)
            if stop_early and name == modules[deepest]:
                break
        return maps if intermediates_only else (x, maps)

    def prune_intermediate_layers(self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True) -> list[int]:
        """Drops the steps after the deepest of `indices` (timm's `features_only`), and the head with them."""
        taken, deepest = feature_take_indices(len(self.feature_info), indices)
        ends = self.feature_info[deepest]["module"]
        if self.normed_by and deepest == len(self.feature_info) - 1 and not prune_norm:
            ends = self.normed_by
        kept = self.steps[: self.steps.index(ends) + 1]
        for name in self.steps[len(kept) :]:
            self.set_submodule(name, nn.Identity())
        if len(kept) < len(self.steps):
            self.steps = kept
            self.num_features = self.head_hidden_size = self.feature_info[deepest]["num_chs"]
            prune_head = True
        if prune_head:
            self.reset_classifier(0, "")
        return taken

    def get_classifier(self) -> nn.Module:
        return self.get_submodule(self.head)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Another head, drawn anew. global_pool: as it is (None), or timm's names; '' for none."""
        some = next(self.parameters())
        self.num_classes = num_classes
        pool = self.global_pool.pool_type if global_pool is None else global_pool
        made = create_classifier(self.num_features, num_classes, pool_type=pool, device=some.device, dtype=some.dtype)
        self.global_pool = made[0].train(self.training)
        self.set_submodule(self.head, made[1].train(self.training))

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Stages compute their activations again in the backward pass, block by block. An activation in place cannot: its input is gone."""
        stages = [name for name in self.steps if name.startswith(self.stage)]
        self.checkpointed = frozenset(name for name in stages if enable and any(True for _ in self.get_submodule(name).parameters()))

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """The steps before the first stage, each stage (or its blocks), and, as timm has it for whatever is left, the head."""
        first = next(k for k, name in enumerate(self.steps) if name.startswith(self.stage))
        blocks = rf"^{self.stage}\.?(\d+)" + ("" if coarse or not self.blockwise else r"\.(\d+)")
        return {"stem": "|".join(rf"^{name}\." for name in self.steps[:first]) or r"^$", "blocks": blocks}


def tapped_relu() -> nn.Sequential:
    """A ReLU whose input has a module's name: `preact`, for losses that look at a map before its activation (AB)."""
    return nn.Sequential(OrderedDict(preact=nn.Identity(), act=nn.ReLU(inplace=True)))


def tap(module: str, channels: int, reduction: int, preact: str | None = None) -> dict[str, Any]:
    return {"num_chs": channels, "reduction": reduction, "module": module, "preact": preact}


def initialise(modules: Iterable[nn.Module]) -> None:
    """The papers' draw: He's for convolutions, from the number of outputs; BatchNorm at 1 and 0. Linear layers stay as torch draws them."""
    for module in modules:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)

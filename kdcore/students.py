"""Students: a backbone with its exits, built the same way for training, for evaluation and for a fresh start."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kdcore.backbones import checkpoint_gradients, create_backbone, made_for
from kdcore.context import Context
from kdcore.errors import KdError
from kdcore.exits import attached
from kdcore.recipes import Recipe
from kdcore.seeds import seeded
from kdcore.tapped import Tapped, TapSpec, default_size
from kdcore.weights import head_is_drawn, load_initial


class Students:
    """Makes the student of a recipe: `first()` is the one that trains, `fresh(label)` one drawn anew.

    The backbone is drawn under the run's seed, the exits under theirs, so that exits do not change the backbone's initial weights.
    `head_drawn`: the head is random, as no weights were given, or such as know other classes.
    """

    def __init__(
        self,
        recipe: Recipe,
        backbone: str | nn.Module,
        *,
        num_classes: int | None,
        in_chans: int = 3,
        image_size: tuple[int, int] | int | None = None,
        taps: TapSpec = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
        pretrained: bool = False,
        init: Mapping[str, Tensor] | None = None,
        backbone_options: Mapping[str, Any] | None = None,
        grad_checkpointing: bool = False,
        labels: Tensor | None = None,
        **facts: Any,
    ) -> None:
        self.recipe = recipe
        self.name = backbone if isinstance(backbone, str) else None
        self.device = device
        self.seed = seed
        self.size = (image_size, image_size) if isinstance(image_size, int) else image_size
        self.options = dict(backbone_options or {}) | {"in_chans": in_chans, "num_classes": num_classes}
        with seeded(seed, "student"):
            self.net = self._draw(backbone, pretrained) if isinstance(backbone, str) else backbone
        self.head_drawn = not pretrained or head_is_drawn(self.net, num_classes)
        if init is not None:
            self.head_drawn = bool(load_initial(self.net, init))
        if grad_checkpointing:
            checkpoint_gradients(self.net, self.size or default_size(self.net))
        self.context = Context(
            num_classes=num_classes or int(self.net.num_classes),
            image_size=self.size or default_size(self.net),
            in_chans=int(getattr(self.net, "in_chans", in_chans)),
            seed=seed,
            labels=labels,
            taps=taps,
            backbone=self.another,
            **facts,
        )

    def _draw(self, name: str | None, pretrained: bool = False) -> nn.Module:
        if name is None:
            raise KdError("another backbone can be built only from a name: write compose('resnet18', ...) and not compose(model, ...)")
        with made_for(self.device):
            return create_backbone(name, plugins=self.recipe.plugins, pretrained=pretrained, img_size=self.size, **self.options)

    def another(self, name: str | None = None) -> Tapped:
        """Another backbone, freshly drawn and tapped as the student is: what `context.backbone` gives to exits."""
        return Tapped(self._draw(name or self.name), self.context.taps, self.context.image_size)

    def first(self) -> nn.Module:
        return self._attach(self.net, "student")

    def fresh(self, label: str) -> nn.Module:
        with seeded(self.seed, label, "student"):
            net = self._draw(self.name)
        return self._attach(net, label)

    def _attach(self, net: nn.Module, label: str) -> nn.Module:
        backbone = Tapped(net, self.context.taps, self.context.image_size).to(self.device)
        exits = self.recipe.method.exits
        if exits is None:
            return backbone
        with seeded(self.seed, label, "exits"):
            return attached(exits, self.recipe.labels["exits"], backbone, self.context)

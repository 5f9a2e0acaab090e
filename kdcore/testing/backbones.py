"""Checks of backbones that a plugin brings: timm-shaped networks that timm lacks."""

import pickle
from typing import ClassVar

import pytest
import torch
from torch import nn

from kdcore.backbones import create_backbone
from kdcore.errors import KdError
from kdcore.exits import attach_exits
from kdcore.seeds import seeded
from kdcore.tapped import copied
from kdcore.testing.base import ComponentKit, fail, one_line
from kdcore.testing.scene import CLASSES, elsewhere, one_thread


class BackboneTests(ComponentKit):
    """`component` is `plugin/name`. `size`: of its images, in pixels (default: what its configuration says)."""

    family = "backbones"
    size: ClassVar[int | None] = None

    @classmethod
    def drawn(cls, seed: int = 0) -> nn.Module:
        with seeded("kit", "backbone", seed):
            return create_backbone(cls.component, plugins=cls.plugins(), num_classes=CLASSES, **cls.options)

    def _drawn(self) -> nn.Module:
        try:
            return self.drawn()
        except Exception:
            pytest.skip("it is not built: test_exits_attach says why")

    @classmethod
    def images(cls, net: nn.Module) -> torch.Tensor:
        channels, height, width = net.pretrained_cfg["input_size"]
        size = (cls.size, cls.size) if cls.size else (int(height), int(width))
        return torch.randn(2, int(channels), *size, generator=torch.Generator().manual_seed(0))

    @staticmethod
    def attached(net: nn.Module, images: torch.Tensor) -> nn.Module:
        return attach_exits(net, "linear", image_size=(int(images.shape[2]), int(images.shape[3])))

    def test_exits_attach(self) -> None:
        """It is built with other classes, linear exits attach to it, and a step reaches them with a finite gradient."""
        with self.advising("forward_intermediates and feature_info must speak as timm's do"), one_thread():
            net = self.drawn()
            images = self.images(net)
            model = self.attached(net, images).train()
            outputs = model(images)
            sum(entry.square().mean() for entry in outputs.logits).backward()
            if any(entry.shape != (2, CLASSES) for entry in outputs.logits):
                raise KdError(f"an exit answers {[list(entry.shape) for entry in outputs.logits]} for 2 images and {CLASSES} classes")
            grads = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
            if not grads or not all(bool(grad.isfinite().all()) for grad in grads):
                raise KdError("its gradient is not finite on a batch of noise")

    def test_stripped_student_is_timm(self) -> None:
        """Without its exits it is what it was, in names and in answers."""
        net = self._drawn()
        with self.advising(), one_thread(), torch.no_grad():
            images = self.images(net)
            try:
                model = self.attached(copied(net), images).eval()
            except Exception:
                pytest.skip("exits do not attach: test_exits_attach says why")
            plain = model.strip(-1).eval()
            if plain.state_dict().keys() != net.state_dict().keys():
                fail(f"{self.about()}: the stripped student has other names of weights; build everything in __init__")
            wanted = net.eval()(images)
            if not torch.allclose(plain(images), wanted, atol=1e-5) or not torch.allclose(model(images).logits[-1], wanted, atol=1e-5):
                fail(f"{self.about()}: forward and forward_intermediates with forward_head answer differently; they must compute the same")

    def test_same_seed_same_numbers(self) -> None:
        """Its weights are drawn by torch alone."""
        self._drawn()
        states = []
        for seed in (1, 2):
            elsewhere(seed)
            states.append(self.drawn().state_dict())
        if any(not torch.equal(states[0][name], states[1][name]) for name in states[0]):
            fail(f"{self.about()}: two networks of one seed differ; draw weights with torch, not with Python's random or numpy")

    def test_pickles(self) -> None:
        """A network goes through pickle as a whole; its function is found by its name."""
        try:
            pickle.loads(pickle.dumps(self._drawn()))
        except Exception as error:
            fail(f"{self.about()}: it does not pickle: {one_line(error)}; define its classes at the top of a module, and keep no lambda")

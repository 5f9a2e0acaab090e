"""What a researcher writes by hand: networks small enough that only the host's work counts, and each method's step without any library."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TEMPERATURE = {"kd": 4.0, "byot": 3.0}


class Tiny(nn.Module):
    """Two convolutions of 4 and 8 channels and a linear layer, as a timm model: its arithmetic takes next to no time."""

    def __init__(self, num_classes: int = 10, in_chans: int = 3) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(nn.Conv2d(in_chans, 4, 3, stride=2, padding=1), nn.ReLU())
        self.stage2 = nn.Sequential(nn.Conv2d(4, 8, 3, stride=2, padding=1), nn.ReLU())
        self.fc = nn.Linear(8, num_classes)
        self.num_classes, self.in_chans, self.num_features = num_classes, in_chans, 8
        self.feature_info = [
            {"num_chs": 4, "reduction": 2, "module": "stage1"},
            {"num_chs": 8, "reduction": 4, "module": "stage2"},
        ]
        norm = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
        self.pretrained_cfg = {"architecture": "tiny", "input_size": (in_chans, 8, 8), "num_classes": num_classes, **norm}

    def get_classifier(self) -> nn.Module:
        return self.fc

    def forward_intermediates(self, images: Tensor, indices: Any = None, output_fmt: str = "NCHW", **_: Any) -> tuple[Tensor, list[Tensor]]:
        first = self.stage1(images)
        second = self.stage2(first)
        return second, [map for k, map in enumerate((first, second)) if indices is None or k in indices]

    def forward_features(self, images: Tensor) -> Tensor:
        return self.stage2(self.stage1(images))

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        embedding = features.mean(dim=(2, 3))
        return embedding if pre_logits else self.fc(embedding)

    def forward(self, images: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(images))


Step = Callable[[Tensor, Tensor], Tensor]
"""(images, labels) -> loss."""


def plain(student: nn.Module) -> Step:
    net = student.net

    def step(images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(net(images).float(), labels)

    return step


def deep_supervision(student: nn.Module) -> Step:
    net, branches = student.backbone.net, list(student.branches.values())
    indices = [tap.index for tap in student.backbone.taps]

    def step(images: Tensor, labels: Tensor) -> Tensor:
        final, maps = net.forward_intermediates(images, indices=indices)
        loss = F.cross_entropy(net.forward_head(final).float(), labels)
        for branch, features in zip(branches, maps[:-1], strict=True):
            loss = loss + F.cross_entropy(branch(features)[0].float(), labels)
        return loss

    return step


def byot(student: nn.Module) -> Step:
    """The `conference` preset: alpha .5, T = 3, soft cross entropy times T squared, the sum of squares times 5e-7."""
    net, branches, fc = student.backbone.net, list(student.branches.values()), student.backbone.net.get_classifier()
    indices, T = [tap.index for tap in student.backbone.taps], TEMPERATURE["byot"]

    def step(images: Tensor, labels: Tensor) -> Tensor:
        final, maps = net.forward_intermediates(images, indices=indices)
        embedding = net.forward_head(final, pre_logits=True)
        logits = fc(embedding).float()
        soft, deep = F.log_softmax(logits.detach() / T, dim=-1).exp(), embedding.detach().float()
        ce_deepest, ce, kd, hint = F.cross_entropy(logits, labels), 0.0, 0.0, 0.0
        for branch, features in zip(branches, maps[:-1], strict=True):
            answer, vector = branch(features)
            answer = answer.float()
            ce = ce + F.cross_entropy(answer, labels)
            kd = kd - (soft * F.log_softmax(answer / T, dim=-1)).sum() / len(answer) * T**2
            hint = hint + (vector.float() - deep).square().sum()
        return ce_deepest + 0.5 * ce + 0.5 * kd + 5e-7 * hint

    return step


def kd(student: nn.Module, teacher: nn.Module) -> Step:
    net, T = student.net, TEMPERATURE["kd"]
    teacher.eval()

    def step(images: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad():
            soft = F.log_softmax(teacher(images).float() / T, dim=-1)
        logits = net(images).float()
        kl = F.kl_div(F.log_softmax(logits / T, dim=-1), soft, reduction="batchmean", log_target=True) * T**2
        return F.cross_entropy(logits, labels) + kl

    return step


def loop(step: Step, batches: list, optimizer: torch.optim.Optimizer, autocast: Callable) -> None:
    """One epoch."""
    for images, labels, _ in batches:
        with autocast():
            loss = step(images, labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

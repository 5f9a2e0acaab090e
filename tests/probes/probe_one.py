"""ONE's and FFL's skeleton (Lan et al., arXiv:1806.04606; Kim et al., arXiv:1904.09058): branches whose gated ensemble teaches each of them.

It stretches the contract by branches that share one tap, by logits that belong to no exit (`extras`), by an ensemble as the teacher, by a
weight that ramps up, and by a fusion module with a learning rate and weight decay of its own.
"""

from typing import Annotated

import torch
from annotated_types import Gt
from torch import Tensor, nn

from kdcore import CE, KL, Context, Method, Outputs, Sigmoid, SoftTargets, Step, Tapped, Term, hookimpl
from kdcore.exits import Branch, Pooled, SingleExit


@hookimpl
def exits():
    return {"branches": Branches}


@hookimpl
def methods():
    return {"probe_one": one}


def one(*, temperature: Annotated[float, Gt(0)] = 3.0, ramp: Annotated[float, Gt(0)] = 80) -> Method:
    return Method(
        exits=Branches,
        sources={"gated": gated, "mean": mean_of_branches},
        terms={
            "ce": Term(CE()),
            "ce_gated": Term(CE(), exits="gated"),
            "ce_fused": Term(CE(), exits="fused"),
            "kd": Term(KL(temperature=temperature), source="gated", weight=Sigmoid(epochs=ramp)),
            "kd_fused": Term(KL(temperature=temperature), source="mean", weight=Sigmoid(epochs=ramp), exits="fused"),
        },
    )


def gated(step: Step) -> SoftTargets:
    return SoftTargets(logits=[step.outputs.extras["gated"]])


def mean_of_branches(step: Step) -> SoftTargets:
    return SoftTargets(logits=[torch.stack(step.outputs.logits).mean(dim=0)])


class Branches(nn.Module):
    """Twins of the last stage on the tap before it; the backbone's own last stage and head are the deepest exit."""

    def __init__(self, backbone: Tapped, context: Context, *, twins: int = 1, fusion_lr: float = 0.02, fusion_weight_decay: float = 1e-5):
        super().__init__()
        self.backbone = backbone
        shared, width = backbone.taps[-2], backbone.embedding_dim
        self.twins = nn.ModuleList(branch(shared.channels, width, context.num_classes) for _ in range(twins))
        self.gate = nn.Sequential(Pooled(), nn.Linear(shared.channels, twins + 1), nn.BatchNorm1d(twins + 1), nn.ReLU(), nn.Softmax(dim=-1))
        self.fusion = nn.Sequential(nn.LazyLinear(width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, context.num_classes))
        self.optim = {"fusion": {"lr": fusion_lr, "weight_decay": fusion_weight_decay}}

    def forward(self, images: Tensor) -> Outputs:
        last = self.backbone(images)
        shared = last.maps[-2]
        answers = [twin(shared) for twin in self.twins]
        logits = [answer[0] for answer in answers] + last.logits
        embeddings = [answer[1] for answer in answers] + last.embeddings
        ensemble = (torch.stack(logits, dim=-1) * self.gate(shared)[:, None, :]).sum(dim=-1)
        fused = self.fusion(torch.cat(embeddings, dim=1))
        return Outputs(logits, embeddings, last.maps, {"gated": ensemble, "fused": fused})

    def strip(self, exit: int = -1) -> nn.Module:
        if exit in (-1, len(self.twins) + 1):
            return self.backbone.strip()
        return SingleExit(self.backbone, len(self.backbone.taps) - 2, self.twins[exit - 1])


def branch(channels: int, width: int, classes: int) -> Branch:
    body = nn.Sequential(nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(), Pooled())
    return Branch(body, nn.Linear(width, classes))

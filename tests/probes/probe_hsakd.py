"""HSAKD's skeleton (Yang et al., arXiv:2109.03075): exits that tell class and rotation at once, first the teacher's, then the student's.

It stretches the contract by views that multiply the rows, by exits with classes of their own on student and teacher, and by a phase that
trains the teacher's exits alone.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdcore import CE, KL, Context, Method, MultiExit, Phase, SoftTargets, Step, Tapped, Term, hookimpl, needs, teacher
from kdcore.exits import Branch, Pooled

VIEWS = 4


@hookimpl
def exits():
    return {"joint": joint_exits}


@hookimpl
def methods():
    return {"probe_hsakd": hsakd}


def hsakd() -> Method:
    return Method(
        exits=joint_exits,
        teacher_exits=joint_exits,
        sources={"teacher": partial(teacher, exits="match")},
        terms={
            "joint": Term(joint_ce, exits="shallow"),
            "ce": Term(CE(), exits="deepest"),
            "kd": Term(KL(temperature=3, all_views=True), source="teacher"),
        },
        schedule=teacher_exits_first,
        views=rotations,
    )


def teacher_exits_first(context: Context):
    yield Phase("teacher-exits", model="teacher", teacher=None, trains=("teacher_exits",), terms=("joint",))
    yield Phase("student", terms=("ce", "kd"))


def rotations(images: Tensor) -> Tensor:
    """[B, C, H, W] -> [4 B, C, H, W]: row 4 i + r is image i, turned r times."""
    return torch.stack([torch.rot90(images, turns, (2, 3)) for turns in range(VIEWS)], dim=1).flatten(0, 1)


def joint_exits(backbone: Tapped, context: Context) -> nn.Module:
    classes = VIEWS * context.num_classes
    return MultiExit(backbone, [exit_on(tap.channels, 32, classes) for tap in backbone.taps[:-1]])


def exit_on(channels: int, width: int, classes: int) -> Branch:
    body = nn.Sequential(nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(), Pooled())
    return Branch(body, nn.Linear(width, classes))


@needs("views")
def joint_ce(step: Step, targets: SoftTargets | None) -> Tensor:
    """Cross entropy over the joint labels 4 y + r, where y is the class and r the rotation."""
    rotation = torch.arange(VIEWS, device=step.batch.labels.device).repeat(step.batch.labels.shape[0] // VIEWS)
    labels = VIEWS * step.batch.labels + rotation
    return torch.stack([F.cross_entropy(logits.float(), labels) for logits in step.outputs.logits]).sum()

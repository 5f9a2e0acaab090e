"""FitNet's skeleton (Romero et al., arXiv:1412.6550): the lower half of a student learns a teacher's maps, then all of it learns as in KD.

It stretches the contract by a phase that trains only what one term reaches, and by a layer that takes its shape in the first run.
"""

from typing import Annotated

from annotated_types import Ge, Gt
from torch import Tensor, nn
from torch.nn import functional as F

from kdcore import CE, KL, Context, Method, Phase, SoftTargets, Step, Term, hookimpl, teacher


@hookimpl
def losses():
    return {"hint": Hint}


@hookimpl
def schedules():
    return {"hint-first": hint_first}


@hookimpl
def methods():
    return {"probe_fitnet": fitnet}


def fitnet(*, alpha: Annotated[float, Ge(0)] = 0.9, temperature: Annotated[float, Gt(0)] = 4.0) -> Method:
    return Method(
        sources={"teacher": teacher},
        terms={
            "hint": Term(Hint, source="teacher"),
            "ce": Term(CE(), weight=1 - alpha),
            "kd": Term(KL(temperature=temperature), source="teacher", weight=alpha),
        },
        schedule=hint_first,
    )


def hint_first(context: Context, *, hint_epochs: Annotated[int, Ge(1)] | None = None):
    """hint_epochs: as many as the main phase where none are given."""
    yield Phase("hint", epochs=hint_epochs, terms=("hint",))
    yield Phase("kd", terms=("ce", "kd"))


class Hint(nn.Module):
    """The mean squared difference between the teacher's map at one tap and a learnt projection of the student's."""

    needs = ("maps", "teacher")
    reads = ("maps",)

    def __init__(self, *, tap: Annotated[int, Ge(0)] = 1) -> None:
        super().__init__()
        self.tap = tap
        self.projector: nn.Module | None = None

    def setup(self, context: Context) -> None:
        channels = context.teacher_shapes.maps[self.tap][0]
        self.projector = nn.Sequential(nn.LazyConv2d(channels, 1, bias=False), nn.LazyBatchNorm2d())

    def forward(self, step: Step, targets: SoftTargets) -> Tensor:
        wanted = targets.maps[self.tap].float()
        student = F.adaptive_avg_pool2d(step.outputs.maps[self.tap].float(), wanted.shape[-2:])
        return F.mse_loss(self.projector(student), wanted)

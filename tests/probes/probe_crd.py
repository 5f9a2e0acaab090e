"""CRD's skeleton (Tian et al., arXiv:1910.10699): the student's embedding of a sample is told from a memory of the teacher's, and back.

It stretches the contract by sample numbers, by layers on the teacher's side that train with the student, and by two memories that all
processes must keep equal.
"""

from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from kdcore import CE, Context, Method, SoftTargets, Step, Term, gathered, hookimpl, teacher


@hookimpl
def losses():
    return {"contrast": Contrast}


@hookimpl
def methods():
    return {"probe_crd": crd}


def crd(*, beta: Annotated[float, Ge(0)] = 0.8) -> Method:
    return Method(sources={"teacher": teacher}, terms={"ce": Term(CE()), "contrast": Term(Contrast, "teacher", beta, "deepest")})


class Contrast(nn.Module):
    """Each side's embedding, projected and normalised, must find its own sample among all that the other side's memory holds."""

    needs = ("index", "teacher")
    reads = ("embeddings",)

    def __init__(self, *, dim: int = 128, temperature: Annotated[float, Gt(0)] = 0.1, momentum: Annotated[float, Le(1)] = 0.5) -> None:
        super().__init__()
        self.dim, self.temperature, self.momentum = dim, temperature, momentum
        self.seen: tuple[Tensor, Tensor, Tensor] | None = None

    def setup(self, context: Context) -> None:
        self.of_student = nn.Linear(*context.student_shapes.embeddings[-1], self.dim)
        self.of_teacher = nn.Linear(*context.teacher_shapes.embeddings[-1], self.dim)
        for name in ("student_bank", "teacher_bank"):
            self.register_buffer(name, F.normalize(torch.randn(context.num_samples, self.dim), dim=1))

    def forward(self, step: Step, targets: SoftTargets) -> Tensor:
        student = F.normalize(self.of_student(step.outputs.embeddings[-1].float()), dim=1)
        teacher = F.normalize(self.of_teacher(targets.embeddings[-1].float()), dim=1)
        self.seen = (step.batch.index, student.detach(), teacher.detach())
        return found(student, self.teacher_bank, step.batch.index, self.temperature) + found(
            teacher, self.student_bank, step.batch.index, self.temperature
        )

    @torch.no_grad()
    def after_step(self) -> None:
        index, student, teacher = map(gathered, self.seen)
        for bank, now in ((self.student_bank, student), (self.teacher_bank, teacher)):
            bank[index] = F.normalize(self.momentum * bank[index] + (1 - self.momentum) * now, dim=1)


def found(anchors: Tensor, bank: Tensor, index: Tensor, temperature: float) -> Tensor:
    """InfoNCE of anchors [B, D] among a bank [N, D]; the positive of row i is bank[index[i]]."""
    return F.cross_entropy(anchors @ bank.T / temperature, index)

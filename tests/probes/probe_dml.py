"""DML's skeleton (Zhang et al., arXiv:1706.00384): a cohort of networks that learn from the labels and from each other.

It stretches the contract by exits that are whole networks, drawn anew and not copied, and by soft targets with an entry for each exit.
"""

from functools import partial
from typing import Annotated

from annotated_types import Ge
from torch import Tensor, nn

from kdcore import CE, KL, Context, Method, Outputs, SoftTargets, Step, Tapped, Term, hookimpl, needs


@hookimpl
def exits():
    return {"cohort": Cohort}


@hookimpl
def methods():
    return {"probe_dml": dml}


def dml(*, peers: Annotated[int, Ge(1)] = 1) -> Method:
    """peers: networks besides the student. Each exit imitates the mean, over the others, of KL(other || self) at T = 1."""
    shifts = range(1, peers + 1)
    return Method(
        exits=partial(Cohort, peers=peers),
        sources={f"other{shift}": partial(others, shift=shift) for shift in shifts},
        terms={"ce": Term(CE()), **{f"kl{shift}": Term(KL(), source=f"other{shift}", weight=1 / peers) for shift in shifts}},
    )


@needs("exits>=2")
def others(step: Step, *, shift: int = 1) -> SoftTargets:
    """Exit k imitates exit k + shift, counted round the cohort."""
    logits = step.outputs.logits
    return SoftTargets(logits=logits[shift:] + logits[:shift])


class Cohort(nn.Module):
    """Peers side by side. The student is the last exit; every exit is an ordinary network."""

    def __init__(self, backbone: Tapped, context: Context, *, peers: int = 1) -> None:
        super().__init__()
        self.peers = nn.ModuleList(context.backbone() for _ in range(peers))
        self.backbone = backbone

    def forward(self, images: Tensor) -> Outputs:
        answers = [network(images) for network in [*self.peers, self.backbone]]
        logits = [answer.logits[0] for answer in answers]
        return Outputs(logits, [answer.embeddings[0] for answer in answers], answers[-1].maps)

    def strip(self, exit: int = -1) -> nn.Module:
        return [*self.peers, self.backbone][exit - 1 if exit > 0 else exit].strip()

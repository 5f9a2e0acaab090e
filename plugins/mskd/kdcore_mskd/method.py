"""The methods: every exit learns from the labels and from a teacher.

    mskd:  L = sum over exits k of [ gamma CE(z_k, y) + alpha T^2 KL(teacher's head || z_k) ]
    oto:   the same, with the teacher's exit k in place of its head
    tskd:  mskd + sum over shallow k of [ beta T^2 KL(z_K || z_k) + lambda |F_k - F_K|^2 ], K being the student's deepest exit

The paper's equations are in no text version, and its gamma, alpha and T are unknown: see the README for what is open.
"""

from functools import partial
from typing import Annotated, Literal

from annotated_types import Ge, Gt

from kdcore import CE, KL, MSE, Method, Taught, Term, deepest, teacher
from kdcore_mskd.replica import replica
from kdcore_mskd.resistor import Resistor
from kdcore_mskd.schedule import joint

Weight = Annotated[float, Ge(0)]
Temperature = Annotated[float, Gt(0)]
Divergence = Literal["forward", "jeffreys", "resistor"]


def mskd(*, gamma: Weight = 1.0, alpha: Weight = 1.0, temperature: Temperature = 4.0, divergence: Divergence = "forward") -> Method:
    """MSKD (Xu et al., Applied Sciences 12:9453): the teacher's output guides every exit of the student. Its figure is the ensemble's.

    gamma: weight of the labels on every exit. alpha: weight of the teacher on every exit. temperature: T > 0 on both sides, with T squared.
    divergence: `forward` KL(teacher || student), `jeffreys` (the mean of both directions), or `resistor` (half of their harmonic mean). Needs
    `--teacher`. Exits are copies of the remaining stages; where a backbone has none that can be copied, --exits byot.bottleneck.
    """
    return Method(exits=replica, sources={"teacher": teacher}, terms=_terms(gamma, alpha, temperature, divergence), schedule=joint)


def oto(*, gamma: Weight = 1.0, alpha: Weight = 1.0, temperature: Temperature = 4.0, divergence: Divergence = "forward") -> Method:
    """OtO (Xu et al., Applied Sciences 12:9453): the teacher gets exits too, trained first, and its exit k guides the student's exit k.

    gamma: weight of the labels on every exit. alpha: weight of the teacher on every exit. temperature: T > 0 on both sides, with T squared.
    divergence: `forward`, `jeffreys` or `resistor`, as in `mskd`. How the teacher's exits train: -o mskd.joint.teacher_exits=joint, teacher_epochs and teacher_milestones. A teacher
    that comes with exits (a run of `--method deep-supervision --exits mskd.replica`, say) keeps them. Needs `--teacher`, with as many exits
    as the student.
    """
    method = mskd(gamma=gamma, alpha=alpha, temperature=temperature, divergence=divergence)
    method.sources["teacher"] = partial(teacher, exits="match")
    method.teacher_exits = replica
    return method


def tskd(
    *,
    gamma: Weight = 1.0,
    alpha: Weight = 1.0,
    beta: Weight = 1.0,
    hint_weight: Weight = 6.4e-5,
    temperature: Temperature = 4.0,
    divergence: Divergence = "forward",
) -> Method:
    """TSKD's form (Xu et al., Applied Intelligence, 2022): `mskd`, and the student's deepest exit as the second teacher of its shallow ones.

    gamma: weight of the labels on every exit. alpha: weight of the teacher on every exit. beta: weight of the deepest exit's answers.
    hint_weight: lambda, of the squared distance from its features, summed over their width, the mean over samples; 6.4e-5 is BYOT's 5e-7 for
    a sum over 128 samples. temperature: T > 0 on both sides, with T squared. divergence: `forward`, `jeffreys` or `resistor`, as in `mskd`. Only the paper's abstract and
    introduction could be read: a combination after what they say, and no reproduction.
    """
    method = mskd(gamma=gamma, alpha=alpha, temperature=temperature, divergence=divergence)
    method.sources["deepest"] = deepest
    method.terms["self_kd"] = Term(_soft(temperature, divergence), source="deepest", weight=beta, exits="shallow")
    method.terms["hint"] = Term(MSE(space="embeddings", reduction="batchmean"), source="deepest", weight=hint_weight, exits="shallow")
    return method


def _terms(gamma: float, alpha: float, temperature: float, divergence: Divergence) -> dict[str, Term]:
    return {
        "ce": Term(CE(), weight=Taught(gamma)),  # the teacher's exits, which have labels alone, are not weighted by it
        "kd": Term(_soft(temperature, divergence), source="teacher", weight=alpha),
    }


def _soft(temperature: float, divergence: Divergence) -> KL | Resistor:
    return Resistor(temperature=temperature) if divergence == "resistor" else KL(temperature=temperature, direction=divergence)

"""The core's own parts, which come through the same hooks as everybody's: proof that the hooks suffice."""

from typing import Annotated

from annotated_types import Ge, Gt, Le

from kdcore.exits import linear
from kdcore.hookspecs import hookimpl
from kdcore.losses import CE, KL, MSE
from kdcore.methods import Method, Taught, Term
from kdcore.schedules import single
from kdcore.targets import deepest, mean_of_exits, teacher


def plain() -> Method:
    """Cross entropy on the backbone as it is: the baseline that keeps everyone honest."""
    return Method(terms={"ce": Term(CE(), exits="deepest")})


def deep_supervision() -> Method:
    """Cross entropy on every exit and nothing else (DSN: Lee et al., arXiv:1409.5185, without its companions' squared hinge and decay)."""
    return Method(exits=linear, terms={"ce": Term(CE())})


def kd(
    *,
    alpha: Annotated[float, Ge(0), Le(1)] = 0.9,
    temperature: Annotated[float, Gt(0)] = 4.0,
) -> Method:
    """Knowledge distillation (Hinton et al., arXiv:1503.02531): (1 - alpha) CE + alpha T^2 KL(teacher || student), on every exit.

    Defaults as in RepDistiller: .1 and .9, T = 4. Needs `--teacher`, or a schedule that makes one; CE has all of the weight where it made none yet.
    alpha: the weight of the teacher, in [0, 1]; the labels have the rest. temperature: T > 0, of both sides.
    """
    return Method(
        sources={"teacher": teacher},
        terms={
            "ce": Term(CE(), weight=Taught(1 - alpha)),
            "kd": Term(KL(temperature=temperature), source="teacher", weight=alpha),
        },
    )


@hookimpl
def exits():
    return {"linear": linear}


@hookimpl
def soft_targets():
    return {"deepest": deepest, "teacher": teacher, "mean-of-exits": mean_of_exits}


@hookimpl
def losses():
    return {"ce": CE, "kl": KL, "mse": MSE}


@hookimpl
def schedules():
    return {"single": single}


@hookimpl
def methods():
    return {"plain": plain, "deep-supervision": deep_supervision, "kd": kd}

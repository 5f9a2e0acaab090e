"""The method: Be Your Own Teacher's terms, and two losses that put the embeddings in order.

    L = (1 - alpha) L_c + alpha L_k + lambda L_l + beta L_t + gamma L_o       (equation 6)

L_c: cross entropy of the exits; L_k: divergence of shallow exits from the deepest; L_l: distance of their embeddings from its; L_t and L_o:
triplet and ordinal loss of every exit's embedding. Where paper and code differ, each preset follows one:

- author_code: WeichiChen1210/Mango-Classification (`Grade Classification/train.py`, `loss.py`, `parameter.py`);
- mended: the same without its slip, which multiplies two terms of the deepest exit by their weight twice; beta and gamma are every exit's;
- paper: the equations as they are printed.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from kdcore import CE, KL, Method, Term, deepest
from kdcore_mango.feature import FeatureLoss
from kdcore_mango.shallownet import shallownet
from kdcore_mango.triplets import OrdinalLoss, TripletLoss


@dataclass(frozen=True)
class Preset:
    """One form. `deepest_coef_quirk`: the deepest exit's triplet and ordinal losses are multiplied by their weight twice."""

    squared: bool
    anchors: Literal["both", "lower"]
    reduction: Literal["frobenius", "batchmean"]
    deepest_shares_alpha: bool
    deepest_coef_quirk: bool


AUTHOR_CODE = Preset(squared=False, anchors="both", reduction="frobenius", deepest_shares_alpha=False, deepest_coef_quirk=True)

PRESETS = {
    "mended": replace(AUTHOR_CODE, deepest_coef_quirk=False),
    "author_code": AUTHOR_CODE,
    "paper": Preset(squared=True, anchors="lower", reduction="batchmean", deepest_shares_alpha=True, deepest_coef_quirk=False),
}


def mango(
    *,
    preset: Literal["mended", "author_code", "paper"] = "mended",
    alpha: Annotated[float, Ge(0), Le(1)] = 0.005,
    temperature: Annotated[float, Gt(0)] = 3.0,
    feature_weight: Annotated[float, Ge(0)] = 0.01,
    triplet_weight: Annotated[float, Ge(0)] = 0.5,
    ordinal_weight: Annotated[float, Ge(0)] = 0.5,
    margin: Annotated[float, Gt(0)] = 2.0,
    order: list[int] | None = None,
    use_ce: bool = True,
    squared: bool | None = None,
    deepest_coef_quirk: bool | None = None,
) -> Method:
    """Mango self-distillation (Chen & Chu): Be Your Own Teacher with triplet and ordinal losses, for classes that are grades.

    preset: `author_code`, `mended` (that without its slip) or `paper`; squared and deepest_coef_quirk are the preset's where they are not
    given. alpha: share of the soft targets in [0, 1]. temperature: T > 0. feature_weight: the paper's lambda. triplet_weight: its beta.
    ordinal_weight: its gamma. margin: its delta and Delta. order: the classes' numbers from the lowest grade to the highest; without it, they are in
    order. use_ce: keep the cross entropy. squared: squared distances in the triplet and ordinal losses. deepest_coef_quirk: the deepest exit's
    have their weight squared.
    """
    chosen = PRESETS[preset]
    squared = chosen.squared if squared is None else squared
    quirk = chosen.deepest_coef_quirk if deepest_coef_quirk is None else deepest_coef_quirk
    triplet = partial(TripletLoss, margin=margin, squared=squared)
    ordinal = partial(OrdinalLoss, margin=margin, squared=squared, anchors=chosen.anchors, order=order)
    terms = {
        "ce_deepest": Term(CE(), weight=(1 - alpha if chosen.deepest_shares_alpha else 1.0) * use_ce, exits="deepest"),
        "ce_shallow": Term(CE(), weight=(1 - alpha) * use_ce, exits="shallow"),
        "kd": Term(KL(temperature=temperature), source="deepest", weight=alpha, exits="shallow"),
        "feature": Term(partial(FeatureLoss, reduction=chosen.reduction), source="deepest", weight=feature_weight, exits="shallow"),
    }
    for name, loss, weight in (("triplet", triplet, triplet_weight), ("ordinal", ordinal, ordinal_weight)):
        if quirk:
            terms |= {f"{name}_deepest": Term(loss, weight=weight**2, exits="deepest"), name: Term(loss, weight=weight, exits="shallow")}
        else:
            terms[name] = Term(loss, weight=weight)
    return Method(exits=shallownet, sources={"deepest": deepest}, terms=terms)

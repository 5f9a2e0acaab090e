"""The method: cross entropy, and a distance from the soft labels that the batch itself gives.

    (a) convex_sd:   L = (1 - lambda) CE + lambda SD
    (b) additive:    L = CE + lambda SD
    (c) convex_ce:   L = lambda CE + (1 - lambda) SD

The paper's equation 5 "balances the importance between hard labels and soft labels" by lambda (.9; .99 for Tiny ImageNet), and does not
say which of the three it is, nor over what the squared error is averaged.
"""

from functools import partial
from typing import Annotated, Literal

from annotated_types import Ge, Le, MinLen

from kdcore import CE, KL, MSE, Method, Term
from kdcore_osakd.knn import KNN


def osakd(
    *,
    k: Annotated[int, Ge(1)] = 8,
    lam: Annotated[float, Ge(0), Le(1)] = 0.9,
    balance: Literal["convex_sd", "additive", "convex_ce"] = "convex_sd",
    loss: Literal["mse", "kl"] = "mse",
    reduction: Literal["mean", "batchmean"] = "mean",
    exits: Literal["all", "shallow", "deepest"] | Annotated[list[int], MinLen(1)] = "all",
) -> Method:
    """OSAKD (Tzelepi & Tefas, arXiv:2108.11798): the classes of a sample's nearest neighbours in the batch are its soft label. No teacher.

    k: neighbours, 8 or 16 in the paper. lam: its lambda in [0, 1], .9 (.99 for Tiny ImageNet). balance: what lambda weighs: `convex_sd`,
    (1 - lam) CE + lam SD; `additive`, CE + lam SD; `convex_ce`, lam CE + (1 - lam) SD. loss: `mse` between probabilities, as in the paper,
    or `kl`. reduction: `mean` over samples and classes, or `batchmean`, the sum over classes. exits: those that have soft labels; the
    cross entropy of every exit has the same weight. With convex_sd the cross entropy weighs a tenth: the learning rate has to rise with it.
    """
    ce, sd = {"convex_sd": (1 - lam, lam), "additive": (1.0, lam), "convex_ce": (lam, 1 - lam)}[balance]
    distance = MSE(space="probabilities", reduction=reduction) if loss == "mse" else KL(temperature=1.0, reduction=reduction)
    return Method(
        sources={"knn": partial(KNN, k=k)},
        terms={"ce": Term(CE(), weight=ce), "sd": Term(distance, source="knn", weight=sd, exits=exits)},
    )

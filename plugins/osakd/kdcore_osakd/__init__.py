"""Online self-acquired knowledge distillation (Tzelepi & Tefas, ICME 2021, arXiv:2108.11798): a batch's neighbours make soft labels.

What it registers: the soft targets `osakd.knn`, the method `osakd`, the paper's networks `osakd/cnn` and `osakd/lenet`,
and the analyses `osakd.soft-labels`, `osakd.curves` and `osakd.training-cost`.
"""

from kdcore import hookimpl
from kdcore_osakd.knn import KNN, knn_posterior
from kdcore_osakd.method import osakd
from kdcore_osakd.networks import cnn, lenet

__all__ = ["KNN", "cnn", "knn_posterior", "lenet", "osakd"]


@hookimpl
def soft_targets():
    return {"knn": KNN}


@hookimpl
def methods():
    return {"osakd": osakd}


@hookimpl
def backbones():
    return {"cnn": cnn, "lenet": lenet}


@hookimpl
def analyses():
    from kdcore_osakd.studies import curves, soft_labels, training_cost  # they read whole runs, which training does not need

    return {"soft-labels": soft_labels, "curves": curves, "training-cost": training_cost}

"""Online self-acquired knowledge distillation (Tzelepi & Tefas, ICME 2021, arXiv:2108.11798): a batch's neighbours make soft labels.

What it registers: the soft targets `osakd.knn`, the method `osakd`, and the paper's networks `osakd/cnn` and `osakd/lenet`.
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

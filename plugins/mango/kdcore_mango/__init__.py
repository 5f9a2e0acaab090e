"""Self-distillation for mango grades (Chen & Chu): classes that have an order, and embeddings that keep it.

What it registers: the losses `mango.triplet`, `mango.ordinal` and `mango.feature`, the exits `mango.shallownet`, the method `mango`, and
the metric `mango.grades`, which joins the report of every run that uses the plugin, and the analysis `mango.confusion`.
"""

from kdcore import hookimpl
from kdcore_mango.feature import FeatureLoss
from kdcore_mango.grades import confusion, grades
from kdcore_mango.method import mango
from kdcore_mango.shallownet import shallownet
from kdcore_mango.triplets import OrdinalLoss, TripletLoss, ordinal_loss, triplet_loss

__all__ = ["FeatureLoss", "OrdinalLoss", "TripletLoss", "confusion", "grades", "mango", "ordinal_loss", "shallownet", "triplet_loss"]


@hookimpl
def exits():
    return {"shallownet": shallownet}


@hookimpl
def losses():
    return {"triplet": TripletLoss, "ordinal": OrdinalLoss, "feature": FeatureLoss}


@hookimpl
def methods():
    return {"mango": mango}


@hookimpl
def metrics():
    return {"grades": grades}


@hookimpl
def analyses():
    return {"confusion": confusion}

"""Teacher-free knowledge distillation (Yuan et al., CVPR 2020, arXiv:1909.11723): no stronger teacher is needed.

What it registers: the soft targets `tfkd.virtual`, a teacher made of the labels; the schedule `tfkd.self`, a network and then another of
its kind that it teaches; and the methods `tfkd.reg` and `tfkd.self`.
"""

from kdcore import hookimpl
from kdcore_tfkd.method import reg, self_training
from kdcore_tfkd.schedule import itself
from kdcore_tfkd.virtual import virtual, virtual_probabilities

__all__ = ["itself", "reg", "self_training", "virtual", "virtual_probabilities"]


@hookimpl
def soft_targets():
    return {"virtual": virtual}


@hookimpl
def schedules():
    return {"self": itself}


@hookimpl
def methods():
    return {"reg": reg, "self": self_training}

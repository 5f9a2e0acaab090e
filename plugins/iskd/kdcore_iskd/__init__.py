"""Iterative self-knowledge distillation (Peng, ICASSP 2022, arXiv:2202.02265): each generation learns from the one before it.

What it registers: the schedule `iskd.generations` and the method `iskd`; the paper's two baselines with as many epochs, `iskd.large-epoch` and
`iskd.tfkd-self`, each a schedule and a method; and the analyses `iskd.teacher-student`, `iskd.alpha-sweep` and `iskd.size-accuracy`.
"""

from kdcore import hookimpl
from kdcore_iskd.method import iskd, large, self_taught
from kdcore_iskd.schedule import generations, large_epoch, tfkd_self

__all__ = ["generations", "iskd", "large", "large_epoch", "self_taught", "tfkd_self"]


@hookimpl
def schedules():
    return {"generations": generations, "large-epoch": large_epoch, "tfkd-self": tfkd_self}


@hookimpl
def methods():
    return {"iskd": iskd, "large-epoch": large, "tfkd-self": self_taught}


@hookimpl
def analyses():
    from kdcore_iskd.studies import alpha_sweep, size_accuracy, teacher_student  # they read whole runs, which training does not need

    return {"teacher-student": teacher_student, "alpha-sweep": alpha_sweep, "size-accuracy": size_accuracy}

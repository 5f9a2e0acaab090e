"""Multiple-stage KD (Xu et al., Applied Sciences 12:9453, 2022): a teacher guides every exit of its student, or in OtO exit k guides exit k.

What it registers: the exits `mskd.replica`, copies of the remaining stages; the loss `mskd.resistor`, a symmetric divergence; the schedules
`mskd.joint` and `mskd.phased`, which train a teacher's new exits before the student; and the methods `mskd`, `mskd.oto` and `mskd.tskd`.
"""

from kdcore import hookimpl
from kdcore_mskd.method import mskd, oto, tskd
from kdcore_mskd.replica import replica
from kdcore_mskd.resistor import Resistor, resistor_average
from kdcore_mskd.schedule import joint, phased

__all__ = ["Resistor", "joint", "mskd", "oto", "phased", "replica", "resistor_average", "tskd"]


@hookimpl
def exits():
    return {"replica": replica}


@hookimpl
def losses():
    return {"resistor": Resistor}


@hookimpl
def schedules():
    return {"joint": joint, "phased": phased}


@hookimpl
def methods():
    return {"mskd": mskd, "oto": oto, "tskd": tskd}

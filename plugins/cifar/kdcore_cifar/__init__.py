"""The papers' small networks that timm lacks, as timm models: `cifar/resnet20` for kd, `cifar_resnet20` for timm once this is imported.

What it registers: the backbones of `kdcore_cifar.networks`. `convert` reads checkpoints of RepDistiller's.
"""

from kdcore import hookimpl
from kdcore_cifar.convert import convert
from kdcore_cifar.networks import ENTRIES, NETWORKS

__all__ = ["NETWORKS", "convert"]


@hookimpl
def backbones():
    return ENTRIES

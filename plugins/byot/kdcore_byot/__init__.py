"""Be Your Own Teacher (Zhang et al., ICCV 2019, arXiv:1905.08094): the deepest exit of a network teaches its shallower ones.

What it registers: the exits `byot.bottleneck` and `byot.sepconv`, the loss `byot.hint`, and the method `byot`; and the analyses `byot.noise`,
`byot.gradients`, `byot.separability`, `byot.cost`, `byot.shallow-gain`, `byot.ensemble` and `byot.gradcam`. In Python there is
`sums_of_squares` too, the paper's measure of how well an exit's embeddings keep the classes apart.
"""

from kdcore import hookimpl
from kdcore_byot.bottleneck import bottleneck
from kdcore_byot.hint import HintLoss
from kdcore_byot.method import byot
from kdcore_byot.separability import sums_of_squares
from kdcore_byot.sepconv import sepconv

__all__ = ["HintLoss", "bottleneck", "byot", "sepconv", "sums_of_squares"]


@hookimpl
def exits():
    return {"bottleneck": bottleneck, "sepconv": sepconv}


@hookimpl
def losses():
    return {"hint": HintLoss}


@hookimpl
def methods():
    return {"byot": byot}


@hookimpl
def analyses():
    from kdcore_byot import studies  # they read whole runs, which training does not need

    return {
        "noise": studies.noise,
        "gradients": studies.gradients,
        "separability": studies.separability,
        "cost": studies.cost,
        "shallow-gain": studies.shallow_gain,
        "ensemble": studies.ensemble,
        "gradcam": studies.gradcam,
    }

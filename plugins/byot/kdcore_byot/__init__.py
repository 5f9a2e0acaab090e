"""Be Your Own Teacher (Zhang et al., ICCV 2019, arXiv:1905.08094): the deepest exit of a network teaches its shallower ones.

What it registers: the exits `byot.bottleneck` and `byot.sepconv`, the loss `byot.hint`, and the method `byot`. In Python there is
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

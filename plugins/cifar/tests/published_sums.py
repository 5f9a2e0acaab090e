"""Networks that nobody has counted in public, though others' figures add up to them: by an exact law, not by a network that is near.

Three laws, each of which the papers' definitions give at once:

- depth: a further block of a stage is as wide as the one before it, so a count is linear in the blocks of each stage (`blocks`, n of 6n + 4);
- width: further blocks have 3 x 3 convolutions of k times the width on either side, so their MACs grow with k * k. A whole WRN's grow with a
  square too: the stem does not widen, what it touches widens by k, the rest by k * k;
- difference: what VGG16 has and VGG13 has not are the very three convolutions that VGG11 has and VGG8 has not.

What is added to these sums (`known`) is a difference between two definitions of `formulas.py`, and `why` says it.
"""

from dataclasses import dataclass
from fractions import Fraction

from formulas import VGG, cifar_resnet, mobile_half, vgg, wrn


def value_and_unit(published: int | str) -> tuple[Fraction, Fraction]:
    """What a source prints, and one unit of its last digit: 27.97M is 27,970,000, give or take 10,000. A whole number is exact."""
    if isinstance(published, int):
        return Fraction(published), Fraction(0)
    digits, scale = published[:-1], {"M": 10**6, "G": 10**9, "B": 10**9}[published[-1]]
    return Fraction(digits) * scale, Fraction(scale, 10 ** len(digits.partition(".")[2]))


@dataclass(frozen=True)
class Figures:
    """Published figures (weight, figure as printed, source), and what is known exactly besides."""

    terms: tuple[tuple[Fraction, int | str, str], ...]
    known: Fraction = Fraction(0)

    def __add__(self, other: "Figures | int | Fraction") -> "Figures":
        if isinstance(other, Figures):
            return Figures(self.terms + other.terms, self.known + other.known)
        return Figures(self.terms, self.known + other)

    def __mul__(self, weight: int | Fraction) -> "Figures":
        return Figures(tuple((weight * before, *figure) for before, *figure in self.terms), weight * self.known)

    def __sub__(self, other: "Figures | int") -> "Figures":
        return self + other * -1

    def value_and_unit(self) -> tuple[Fraction, Fraction]:
        """Their sum, and by how much it may be off when each figure is off by one unit of its last digit."""
        read = [(weight, *value_and_unit(figure)) for weight, figure, _ in self.terms]
        return sum((weight * value for weight, value, _ in read), self.known), sum(
            (abs(weight) * unit for weight, _, unit in read), Fraction(0)
        )


@dataclass(frozen=True)
class Summed:
    name: str
    figures: Figures
    why: str


def figure(published: int | str, source: str) -> Figures:
    return Figures(((Fraction(1), published, source),))


def of_a_step(published: int | str, forward: int) -> Figures:
    """MACs of one image, from the FLOPs of EfficientMatch's step: `forward` images forward, and 512 images forward and backward.

    PyTorch's FlopCounterMode counts two FLOPs a MAC. Backward is twice forward, less the gradient of the images, which nobody needs: as much
    as the stem, 3 x 3 x 3 x 16 on 32 x 32, once.
    """
    passes, stem = forward + 3 * 512, 27 * 16 * 32 * 32
    return figure(published, "efficientmatch") * Fraction(1, 2 * passes) + Fraction(512 * stem, passes)


def blocks(at: int, first: tuple[int, Figures], second: tuple[int, Figures]) -> Figures:
    """The law of depth: the line through two networks' counts, by the blocks of their stages."""
    (n, one), (m, other) = first, second
    return one * Fraction(at - m, n - m) + other * Fraction(at - n, m - n)


def square(at: int, *points: tuple[int, Figures]) -> Figures:
    """The law of width for a whole WRN: the parabola through three networks' counts, by their factors."""
    total = Figures(())
    for k, count in points:
        weight = Fraction(1)
        for other, _ in points:
            weight *= Fraction(at - other, k - other) if other != k else 1
        total += count * weight
    return total


WRN_16_4 = figure(392_612_352, "log")
WRN_28_2, WRN_28_4 = of_a_step(740_351_508_480, 192), of_a_step(2_921_930_883_072, 192)
WRN_28_8 = of_a_step("13332.36G", 448)
BLOCK = (WRN_28_4 - WRN_16_4) * Fraction(1, 2)
"""One further block of factor 4 in each of the three stages."""


def x4(n: int) -> Figures:
    """RepDistiller's resnet(6n + 2)x4: WRN-(6n + 4)-4 with a stem of 32 channels."""
    return blocks(n, (2, WRN_16_4), (4, WRN_28_4)) + (cifar_resnet(6 * n + 2, 4, 32).macs - wrn(n, 4).macs)


_X4 = "WRN-16-4 and WRN-28-4 by the law of depth; a stem of 32 channels, not 16"
SUMMED_PARAMETERS = [
    Summed(
        "resnet110x2",
        blocks(18, (2, figure(691_674, "distiller")), (4, figure(1_467_610, "distiller"))) + 448,
        "WRN-16-2 and WRN-28-2 by the law of depth; three BatchNorms that a WRN has not, as of resnet38x2",
    ),
    Summed(
        "wrn_44_8",
        blocks(7, (3, figure(17_158_106, "distiller")), (6, figure(35_748_314, "osmr"))),
        "WRN-22-8 and WRN-40-8 by the law of depth: 7 blocks a stage, WRN-46-8 in the paper's words",
    ),
]
SUMMED_MACS = [
    Summed("wrn_28_4", WRN_28_4, "itself, in a step of training"),
    Summed("wrn_40_4", blocks(6, (2, WRN_16_4), (4, WRN_28_4)), "WRN-16-4 and WRN-28-4 by the law of depth"),
    Summed("resnet8x4", x4(1), _X4),
    Summed("resnet20x4", x4(3), _X4),
    Summed("resnet32x4", x4(5), _X4),
    Summed("resnet110x2", WRN_28_2 + BLOCK * Fraction(14, 4), "WRN-28-2 and 14 blocks more, each a quarter of one that is twice as wide"),
    Summed("wrn_22_8", WRN_28_8 - BLOCK * 4, "WRN-28-8 without a block a stage, which is four of half the width"),
    Summed("wrn_20_8", WRN_28_8 - BLOCK * 4, "is WRN-22-8"),
    Summed("wrn_44_8", WRN_28_8 + BLOCK * 12, "WRN-28-8 and three blocks a stage more, four times one of half the width"),
    Summed(
        "wrn_28_10", square(10, (2, WRN_28_2), (4, WRN_28_4), (8, WRN_28_8)), "the law of width, which this one, published too, confirms"
    ),
    Summed("wrn_28_12", square(12, (2, WRN_28_2), (4, WRN_28_4), (8, WRN_28_8)), "WRN-28-2, -4 and -8 by the law of width"),
    Summed(
        "vgg8",
        figure("153.29M", "chenyaofo")
        - (figure("313.73M", "chenyaofo") - figure("228.79M", "chenyaofo"))
        + (vgg(VGG[8]).macs - vgg(VGG[8], last_side=2).macs - 2 * 512 * 512),
        "VGG11 without what VGG16 has more than VGG13; the fifth block at 4 x 4, and two linear layers of 512 fewer, as of vgg11",
    ),
    Summed(
        "mobile_half",
        (figure("27.97M", "chenyaofo") + 16 * 16 * 32 * 32 - mobile_half(second=16, side=32).macs) * Fraction(1, 4) + mobile_half().macs,
        "MobileNetV2 x0.5, plus the first block's 1 x 1 convolution, which it leaves out; the same layers on maps of half the side, so a quarter "
        "(but of the linear layer); and 12 channels in the second stage, not 16",
    ),
]

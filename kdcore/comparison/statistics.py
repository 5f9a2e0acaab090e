"""Mean, sample standard deviation, and the paired difference with its interval by Student's t. Imports no torch."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95
DIGITS = 6  # beyond them a mean of percentages is rounding of binary fractions


@dataclass(frozen=True)
class Spread:
    """deviation: of the sample (n - 1), None for one value."""

    mean: float
    deviation: float | None
    n: int


@dataclass(frozen=True)
class Difference:
    """The mean of n paired differences, and the interval around it; without one (None) for a single pair."""

    mean: float
    low: float | None
    high: float | None
    n: int


def spread(values: Sequence[float]) -> Spread | None:
    """None without any value."""
    if not values:
        return None
    deviation = round(statistics.stdev(values), DIGITS) if len(values) > 1 else None
    return Spread(round(statistics.mean(values), DIGITS), deviation, len(values))


def paired(values: Mapping[int, float], baseline: Mapping[int, float], confidence: float = CONFIDENCE) -> Difference | None:
    """values minus baseline over the seeds that both have: mean d, and d +- t s / sqrt(n) with the t of n - 1 degrees of freedom.

    It assumes that the differences come from a normal distribution. None where no seed is in both.
    """
    seeds = sorted(values.keys() & baseline.keys())
    if not seeds:
        return None
    differences = [values[seed] - baseline[seed] for seed in seeds]
    mean, n = statistics.mean(differences), len(seeds)
    if n < 2:
        return Difference(round(mean, DIGITS), None, None, n)
    from scipy.stats import t

    half = float(t.ppf((1 + confidence) / 2, n - 1)) * statistics.stdev(differences) / math.sqrt(n)
    return Difference(round(mean, DIGITS), round(mean - half, DIGITS), round(mean + half, DIGITS), n)

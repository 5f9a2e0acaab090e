"""Flat minima (figure 4): training accuracy and loss while Gaussian noise is added to all weights."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from statistics import fmean
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from annotated_types import Ge, MinLen
from matplotlib.figure import Figure
from torch import nn

from kdcore import Analysis
from kdcore.comparison.statistics import spread
from kdcore.evaluation import collect, finite, percent
from kdcore.report.figures import COLOURS
from kdcore.runs import Run
from kdcore.seeds import seed_of
from kdcore_byot.studies.reading import Note, called, opened, side_by_side

SIGMAS = [0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04]


def noise(
    runs: list[Run],
    note: Note,
    *,
    sigmas: Annotated[list[Annotated[float, Ge(0)]], MinLen(1)] = SIGMAS,
    draws: Annotated[int, Ge(1)] = 5,
    relative: bool = False,
    exit: int = -1,
    limit: Annotated[int, Ge(1)] | None = 1024,
    seed: int = 0,
) -> Analysis:
    """Figure 4, flat minima: training accuracy and loss while noise N(0, sigma²) is added to all weights, for one run or several beside each other.

    BatchNorm's running statistics stay as they are. sigmas: those of the noise, 0 being always there. draws: of the noise, for each sigma, by
    the seed; every run of one backbone gets the same. relative: sigma counts in root mean squares of each tensor, since networks may differ in
    scale alone. exit: from 1, -1 is the deepest. limit: training images, drawn at random, without augmentation (none: all). seed: of the noise and of
    the images.
    """
    entries = side_by_side(runs, note)
    rows: list[dict[str, Any]] = []
    for entry in entries:
        name = called(entry, entries)
        note(f"noise on the weights of {name}")
        found = opened(Run.open(entry.run))
        network = found.network.strip(exit).eval()
        batches, _ = found.some("train", limit, seed)
        for sigma in sorted({0.0, *sigmas}):
            measured = []
            for draw in range(draws if sigma else 1):
                with noisy(network, sigma, seed, draw, relative=relative):
                    answered = collect(network, batches.epoch(0), num_classes=found.data.num_classes, autocast=found.autocast)
                measured.append(accuracy_and_loss(answered.logits[0], answered.labels))
            rows.append({"run": name, "experiment": entry.row, "seed": entry.seed, "sigma": sigma, **summed_up(measured)})
    table = [summary(name, [row for row in rows if row["run"] == name]) for name in dict.fromkeys(row["run"] for row in rows)]
    kept = "; ".join(f"{row['run']} {row['mean under noise']:.1f} % of {row['without noise']:.1f} %" for row in table)
    unit = "root mean squares of each tensor" if relative else "absolute"
    text = (
        f"Mean training accuracy over the sigmas above 0 ({unit}): {kept}. The noise goes to every parameter; "
        "BatchNorm's running statistics are not touched."
    )
    return Analysis({"noise": rows, "summary": table}, {"noise": curves(rows, relative)}, text)


@contextmanager
def noisy(network: nn.Module, sigma: float, *names: object, relative: bool = False) -> Iterator[None]:
    """Within the block every parameter w is w + sigma n, n standard normal; afterwards it is what it was, bit for bit. Buffers stay.

    n is a function of `names` and of the parameter's name and shape: larger sigmas go further in the same direction. relative: n is
    multiplied by the tensor's root mean square.
    """
    parameters = dict(network.named_parameters()) if sigma else {}
    kept = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    try:
        with torch.no_grad():
            for name, parameter in parameters.items():
                draw = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed_of("noise", *names, name)))
                scale = sigma * float(parameter.square().mean().sqrt()) if relative else sigma
                parameter.add_(draw.to(parameter), alpha=scale)
        yield
    finally:
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(kept[name])


def accuracy_and_loss(logits: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    """Top-1 in percent, and the mean cross entropy in nats, of logits [N, K]."""
    logits = finite(logits)
    right = int((logits.argmax(dim=-1) == labels).sum())
    return percent(right, len(labels)), F.cross_entropy(logits, labels, reduction="none").double().mean().item()


def summed_up(measured: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Mean and sample deviation over the draws; no deviation of a single one."""
    accuracy, loss = (spread(list(values)) for values in zip(*measured, strict=True))
    assert accuracy is not None and loss is not None  # at least one was measured
    return {
        "draws": accuracy.n,
        "accuracy": accuracy.mean,
        "accuracy, deviation": accuracy.deviation,
        "loss": loss.mean,
        "loss, deviation": loss.deviation,
    }


def summary(name: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One run's curve in three numbers; rows ascend by sigma, the first being 0."""
    return {
        "run": name,
        "without noise": rows[0]["accuracy"],
        "mean under noise": fmean(row["accuracy"] for row in rows[1:]) if rows[1:] else rows[0]["accuracy"],
        "half at sigma": falls_to([(row["sigma"], row["accuracy"]) for row in rows], rows[0]["accuracy"] / 2),
    }


def falls_to(points: Sequence[tuple[float, float]], level: float) -> float | None:
    """The first x, on straight lines between the points, at which y is down at the level; None where it never is."""
    for (left, above), (right, below) in pairwise(points):
        if below <= level < above:
            return left + (right - left) * (above - level) / (above - below)
    return None


def curves(rows: Sequence[dict[str, Any]], relative: bool) -> Figure:
    """Accuracy and loss over sigma, a colour for each experiment, with the deviation over the draws."""
    figure = Figure(figsize=(7.2, 3.2), layout="constrained")
    experiments = list(dict.fromkeys(row["experiment"] for row in rows))
    for axes, what, label in zip(figure.subplots(1, 2), ("accuracy", "loss"), ("training top-1 (%)", "training loss"), strict=True):
        shown: set[str] = set()
        for name in dict.fromkeys(row["run"] for row in rows):
            own = [row for row in rows if row["run"] == name]
            experiment = own[0]["experiment"]
            colour = COLOURS[experiments.index(experiment) % len(COLOURS)]
            x, y = [row["sigma"] for row in own], [row[what] for row in own]
            around = [row[f"{what}, deviation"] or 0.0 for row in own]
            axes.plot(x, y, color=colour, lw=1.4, marker=".", label=None if experiment in shown else experiment)
            low, high = ([value + sign * by for value, by in zip(y, around, strict=True)] for sign in (-1, 1))
            axes.fill_between(x, low, high, color=colour, alpha=0.15, lw=0)
            shown.add(experiment)
        axes.set(xlabel="sigma (root mean squares)" if relative else "sigma", ylabel=label)
    figure.axes[0].legend()
    return figure

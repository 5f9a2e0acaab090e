"""What the ensemble of the exits is worth, and how often the exits disagree: without that, an ensemble has nothing to gain."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from matplotlib.figure import Figure
from torch import Tensor

from kdcore import Analysis
from kdcore.errors import DataError
from kdcore.evaluation import finite, mixture
from kdcore.predictions import read_predictions
from kdcore.report.figures import COLOURS
from kdcore.runs import Run
from kdcore_byot.studies.reading import report_of


def ensemble(run: Run, *, split: Literal["dev", "test"] = "test") -> Analysis:
    """The ensembles of a run's exits against each exit, how often the exits disagree, and who is right where they do.

    From the stored answers to every image of the split. split: `dev` or `test`. Any exit right: the most that choosing among the exits could reach.
    """
    report, stored = report_of(run, split), read_predictions(run)
    if stored is None:
        raise DataError(f"{run.path} has no predictions.safetensors (it was made before kd wrote them)")
    if len(report["exits"]) < 2:
        raise DataError(f"{run.path} has one exit: an ensemble needs two (add --exits linear, or a method with exits, to the training)")
    deepest, best = report["exits"][-1]["top1"], max(table["top1"] for table in report["exits"])
    named = [(f"exit {table['exit']}", table) for table in report["exits"]]
    named += [(f"ensemble, {name.replace('_', ' ')}", table) for name, table in report["ensembles"].items()]
    rows = [
        {"who": who, "top-1": table["top1"], "over the deepest": table["top1"] - deepest, "over the best exit": table["top1"] - best}
        | {"nll": table["nll"], "ece": table["ece"]}
        for who, table in named
    ]
    predictions = stored.delivered[split]
    answers = finite(predictions.logits).argmax(dim=-1)
    together = mixture(predictions.logits).argmax(dim=-1)
    apart = disagreement(answers)
    pairs = [
        {"exit": a, "and exit": b, "disagree, %": apart[i][j]}
        for i, a in enumerate(predictions.exits)
        for j, b in enumerate(predictions.exits)
        if i < j
    ]
    shares = agreement(answers, together, predictions.labels)
    gain = rows[len(report["exits"]) + 1]["over the best exit"]
    text = (
        f"The exits do not all say the same on {shares['the exits disagree']:.1f} % of {split}. The ensemble of probabilities is "
        f"{gain:+.2f} points from the best exit; some exit is right on {shares['any exit right']:.1f} % of the images."
    )
    tables = {"ensemble": rows, "disagreement": pairs, "agreement": [{"what": what, "%": value} for what, value in shares.items()]}
    return Analysis(tables, {"ensemble": picture(rows, predictions.exits, apart, split)}, text)


def disagreement(answers: Tensor) -> list[list[float]]:
    """How often two exits say otherwise, in percent [E][E], from classes [E, N]."""
    return [[100 * (one != other).double().mean().item() for other in answers] for one in answers]


def agreement(answers: Tensor, together: Tensor, labels: Tensor) -> dict[str, float | None]:
    """Shares in percent: of images where the exits' classes [E, N] differ, and who is right where they do. together: the ensemble's [N]."""
    differ = (answers != answers[0]).any(dim=0)
    right = answers == labels

    def share(where: Tensor) -> float | None:
        return 100 * where.double().mean().item() if len(where) else None

    return {
        "the exits disagree": share(differ),
        "right where all agree": share(right[-1][~differ]),
        "deepest right where they disagree": share(right[-1][differ]),
        "ensemble right where they disagree": share((together == labels)[differ]),
        "any exit right": share(right.any(dim=0)),
    }


def picture(rows: Sequence[dict[str, Any]], exits: Sequence[int], apart: Sequence[Sequence[float]], split: str) -> Figure:
    """Exits as bars with the ensembles across, and the exits' disagreement as a matrix."""
    figure = Figure(figsize=(7.6, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1.3, 1])
    tops = [row["top-1"] for row in rows]
    left.bar([str(number) for number in exits], tops[: len(exits)], color=COLOURS[0], width=0.6)
    for place, row in enumerate(rows[len(exits) :]):
        left.axhline(row["top-1"], color=COLOURS[(place + 1) % len(COLOURS)], lw=1.2, ls="--", label=row["who"])
    low = min(tops) - 0.6 * (max(tops) - min(tops)) - 0.5
    left.set_ylim(max(low, 0), max(tops) + 0.4 * (max(tops) - min(tops)) + 0.5)
    left.set_axisbelow(True)
    left.set(xlabel="exit", ylabel=f"{split} top-1 (%)")
    shown = right.imshow(torch.tensor(apart).numpy(), cmap="Blues", vmin=0)
    right.grid(visible=False)
    most = max(max(line) for line in apart)
    for i, line in enumerate(apart):
        for j, value in enumerate(line):
            dark = value > 0.6 * most
            right.text(j, i, f"{value:.1f}", ha="center", va="center", fontsize=8, color="white" if dark else "#222222")
    right.set_xticks(range(len(exits)), [str(number) for number in exits])
    right.set_yticks(range(len(exits)), [str(number) for number in exits])
    right.set(xlabel="exit", ylabel="exit")
    figure.colorbar(shown, ax=right, shrink=0.8, label="disagree, %").outline.set_visible(False)
    figure.legend(loc="outside upper left", fontsize=8, ncols=3)
    return figure

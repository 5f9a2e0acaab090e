"""The picture of a comparison: test accuracy of each exit against its multiply-accumulates, and of the ensembles beside it.

The same comparison gives the same bytes. No backend is chosen and pyplot is not imported.
"""

import io
from typing import Any

from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.figure import Figure

from kdcore.comparison.aggregate import Comparison, Row, Value
from kdcore.comparison.measures import CHECKPOINTS, DEEPEST
from kdcore.report.cells import printable
from kdcore.report.figures import png, style, svg

# Okabe and Ito's, which the colour-blind tell apart; black is the baseline's, and yellow too light for lines.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = "osD^vPX*<>h"
BASELINE = "#000000"
ENSEMBLE = "mean_logits"


def pictures(found: Comparison) -> dict[str, bytes]:
    """`plot.png`, `plot.svg` and `plot.pdf`."""
    with style():
        figure = draw(found)
        file = io.BytesIO()
        figure.set_canvas(FigureCanvasPdf(figure))
        figure.savefig(file, format="pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None})
    return {"plot.png": png(figure, dpi=200), "plot.svg": svg(figure, "comparison").encode() + b"\n", "plot.pdf": file.getvalue()}


def draw(found: Comparison) -> Figure:
    """The delivered checkpoint. Bars are the sample standard deviation over the seeds; the baseline's deepest exit is a line through the picture."""
    checkpoint = found.delivered()
    ensembles = {row.name: value for row in found.rows if (value := found.find(row.name, checkpoint, "test", "ensemble", ENSEMBLE))}
    figure = Figure(figsize=(6.8, 3.6), layout="constrained")
    widths = [5, 1] if ensembles else [1]
    panels = figure.subplots(1, len(widths), sharey=True, squeeze=False, width_ratios=widths)[0]
    handles: list[Any] = []
    bases = {row.baseline for row in found.rows}
    others = [row for row in found.rows if row.name not in bases]
    for row in found.rows:
        base = row.name in bases
        place = others.index(row) if not base else 0
        colour = BASELINE if base else COLOURS[place % len(COLOURS)]
        look = {
            "color": colour,
            "marker": "s" if base else MARKERS[place % len(MARKERS)],
            "capsize": 2.5,
            "ms": 5,
            "lw": 1.3,
            "elinewidth": 1,
        }
        points = _points(found, row, checkpoint)
        if points:
            x, y = [macs / 1e6 for macs, _ in points], [value.spread.mean for _, value in points]
            bars = [value.spread.deviation or 0.0 for _, value in points]
            for macs, value in points[:-1]:
                panels[0].annotate(
                    value.measure.exit,
                    (macs / 1e6, value.spread.mean),
                    xytext=(-7, 4),
                    textcoords="offset points",
                    fontsize=7,
                    color=colour,
                )
            handles.append(panels[0].errorbar(x, y, yerr=bars, label=printable(row.name), ls="-" if len(points) > 1 else "none", **look))
        deepest = found.find(row.name, checkpoint, "test", DEEPEST)
        if base and deepest is not None:
            for axes in panels:
                axes.axhline(deepest.spread.mean, color=colour, lw=0.9, ls="--", zorder=0)
        if row.name in ensembles:
            value = ensembles[row.name]
            at = list(ensembles).index(row.name)
            panels[1].errorbar([at], [value.spread.mean], yerr=[value.spread.deviation or 0.0], ls="none", mfc="white", **look)
    panels[0].set(xlabel="millions of multiply-accumulates for an image", ylabel="test top-1 (%)")
    panels[0].margins(x=0.08, y=0.12)
    panels[0].set_title(f"{CHECKPOINTS[checkpoint]}; bars: standard deviation over seeds", fontsize=9)
    if ensembles:
        panels[1].set(xticks=[], xlim=(-0.7, len(ensembles) - 0.3))
        panels[1].set_title("ensemble", fontsize=9)
        panels[1].set_xlabel("mean of logits", fontsize=8)
    every = [cost["macs"] for row in found.rows for cost in row.exits]
    if every and max(every) > 20 * max(min(every), 1):
        panels[0].set_xscale("log")
        panels[0].xaxis.set_major_formatter("{x:g}")
    if handles:
        figure.legend(handles=handles, loc="outside lower center", fontsize=8, ncols=min(len(handles), 4))
    return figure


def _points(found: Comparison, row: Row, checkpoint: str) -> list[tuple[int, Value]]:
    """Multiply-accumulates and test top-1 of each exit of a row, shallow to deep."""
    known = {str(cost["exit"]): cost["macs"] for cost in row.exits}
    values = [value for exit in known if (value := found.find(row.name, checkpoint, "test", "exit", exit)) is not None]
    return [(known[value.measure.exit], value) for value in values]

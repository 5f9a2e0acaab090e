"""The pictures of a report: functions of its numbers, each giving a matplotlib Figure. No backend is chosen and pyplot is not imported.

As SVG they take the colour of the text around them, so that a dark page has light axes. The same numbers give the same bytes.
"""

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kdcore.report.cells import printable

INK = "#010203"  # stands for the page's own colour of text
COLOURS = ("#3b7dd8", "#e0822b", "#3f9e5a", "#c9454b", "#8a63c9", "#8c6d46", "#d069a8", "#6f7d8c")
STYLE: Any = {
    "svg.hashsalt": "kdcore",
    "svg.fonttype": "none",
    "text.parse_math": False,  # a class may be called $5
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.2,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    **{name: INK for name in ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "grid.color")},
}
LABELLED_CELLS = 12


@contextmanager
def style() -> Iterator[None]:
    """matplotlib's settings for our figures, put back afterwards."""
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the browser has the character
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support")
        yield


def svg(figure: Figure, name: str) -> str:
    """An `<svg>` element. `name` keeps its ids apart from those of other pictures on the page."""
    file = io.StringIO()
    with style():
        figure.set_canvas(FigureCanvasSVG(figure))
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'(?<=[ \n])id="', f'id="{name}-', text)
    text = re.sub(r'((?:xlink:)?href="#|url\(#)', rf"\g<1>{name}-", text)
    text = text.replace(INK, "currentColor").replace("'DejaVu Sans'", "system-ui")
    return re.sub(r'<svg ([^>]*?)width="([\d.]+)pt"', r'<svg role="img" \1width="\2pt"', text, count=1).strip()


def png(figure: Figure, dpi: int = 110) -> bytes:
    """On white, for those who want a picture in a file."""
    file = io.BytesIO()
    with style():
        figure.set_canvas(FigureCanvasAgg(figure))
        figure.savefig(file, format="png", dpi=dpi, facecolor="white", metadata={"Software": None})
    return file.getvalue()


def figures(document: Mapping[str, Any]) -> dict[str, Figure]:
    """Every picture that the document has the numbers of."""
    found: dict[str, Figure] = {}
    with style():
        curves = document["curves"]
        if any(any(value is not None for value in values) for values in curves["dev"].values()):
            found["dev"] = lines(curves["dev"], curves, "dev top-1 (%)")
        if curves["train"]:
            found["terms"] = lines(curves["train"], curves, "training loss")
        for split in ("test", "dev"):
            if document.get("costs", {}).get(split, {}).get("exits"):
                found["cost"] = cost(document["costs"], document["exit"])
                break
        if "calibration" in document:
            found["calibration"] = calibration(document["calibration"])
        if "confusion" in document:
            found["confusion"] = confusion(document["confusion"])
    return found


def lines(series: Mapping[str, Sequence[float | None]], curves: Mapping[str, Any], label: str) -> Figure:
    """One line for each series over the epochs of the run; a new phase begins at a dashed line."""
    figure = Figure(figsize=(6.4, 3.1), layout="constrained")
    axes = figure.add_subplot()
    x = list(range(1, len(curves["epochs"]) + 1))
    last = len(series) - 1
    for place, (name, values) in enumerate(series.items()):
        plain = [float("nan") if value is None else value for value in values]
        dashed = name == "ensemble" or (name == "loss" and last > 0)
        colour = INK if dashed else COLOURS[place % len(COLOURS)]
        axes.plot(x, plain, color=colour, label=named(name), lw=1.6, ls="--" if dashed else "-", marker="." if len(x) < 40 else None)
    for start in (k for k in range(1, len(x)) if curves["phases"][k] != curves["phases"][k - 1]):
        axes.axvline(start + 0.5, color=INK, lw=0.8, ls=":")
        axes.annotate(f" {curves['phases'][start]}", (start + 0.5, 1), xycoords=("data", "axes fraction"), va="top", fontsize=8)
    known = [value for values in series.values() for value in values if value is not None]
    if min(known) > 0 and max(known) > 50 * min(known):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")  # matplotlib's own is mathematics, which is off
    axes.set(xlabel="epoch", ylabel=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside right upper", fontsize=8)
    return figure


def named(series: str) -> str:
    """`exit3` as `exit 3`."""
    return re.sub(r"^exit(\d+)$", r"exit \1", series)


def cost(costs: Mapping[str, Any], own: int) -> Figure:
    """Top-1 over multiply-accumulates; the ensembles, which need all exits, as lines across."""
    figure = Figure(figsize=(6.4, 3.1), layout="constrained")
    axes = figure.add_subplot()
    for split, marker in (("dev", "o"), ("test", "s")):
        points = costs.get(split, {}).get("exits", [])
        if not points:
            continue
        colour = COLOURS[0 if split == "dev" else 1]
        x, y = [point["macs"] / 1e6 for point in points], [point["top1"] for point in points]
        axes.plot(x, y, marker=marker, color=colour, ls="", label=f"{split}, exits")
        for point in points:
            place = (point["macs"] / 1e6, point["top1"])
            if point["exit"] == own:
                label = None if split != next(iter(costs)) else "best on dev" if "dev" in costs else "deepest"
                axes.plot(*place, marker="o", ms=13, mfc="none", mec=INK, ls="", label=label)
            axes.annotate(str(point["exit"]), place, xytext=(6, 4), textcoords="offset points", fontsize=8)
        if "mean_probabilities" in costs[split]["ensembles"]:
            axes.axhline(costs[split]["ensembles"]["mean_probabilities"], color=colour, lw=1, ls=":", label=f"{split}, all exits together")
    values = [point["macs"] for split in costs.values() for point in split["exits"]]
    if values and max(values) > 20 * max(min(values), 1):
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
    axes.margins(x=0.15, y=0.15)
    axes.set(xlabel="millions of multiply-accumulates for an image", ylabel="top-1 (%)")
    figure.legend(loc="outside right upper", fontsize=8)
    return figure


def calibration(exits: Sequence[Mapping[str, Any]]) -> Figure:
    """A reliability diagram for each exit: accuracy over confidence, the share of images as bars."""
    columns = min(len(exits), 4)
    rows = -(-len(exits) // columns)
    figure = Figure(figsize=(6.4 if columns > 2 else 2.6 * columns, 1.7 * rows + 0.4), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for axes in panels.flat[len(exits) :]:
        axes.set_visible(False)
    for place, (axes, entry) in enumerate(zip(panels.flat, exits, strict=False)):
        total = sum(one["images"] for one in entry["bins"])
        x = [one["confidence"] for one in entry["bins"]]
        axes.bar(x, [100 * one["images"] / total for one in entry["bins"]], width=5, color="#8888aa", alpha=0.35, lw=0)
        axes.plot([0, 100], [0, 100], color=INK, lw=0.8, ls=":")
        axes.plot(x, [one["accuracy"] for one in entry["bins"]], marker=".", color=COLOURS[place % len(COLOURS)], lw=1.4)
        axes.set(xlim=(0, 102), ylim=(0, 102), aspect="equal", xticks=[0, 50, 100], yticks=[0, 50, 100])
        axes.set_title(f"exit {entry['exit']}: ECE {entry['ece']:.1f} %", fontsize=9)
    figure.supxlabel("confidence (%)", fontsize=9)
    figure.supylabel("accuracy (%)", fontsize=9)
    return figure


def confusion(found: Mapping[str, Any]) -> Figure:
    """Rows: the true class; each cell in percent of its row. `found` as `kdcore.report.tables.confusion_of` gives it."""
    matrix, classes = found["matrix"], found["classes"]
    shares = [[100 * count / max(total, 1) for count in row] for row, total in zip(matrix, found["totals"], strict=True)]
    labels = [cut(name) for name in classes]
    side = max(1.4, min(5.2, 0.42 * len(classes))) + 0.08 * max(map(len, labels)) + 0.5
    figure = Figure(figsize=(min(side + 1.2, 7.0), min(side, 6.4)), layout="constrained")
    axes = figure.add_subplot()
    picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    axes.grid(visible=False)
    axes.set_xticks(range(len(classes)), labels, fontsize=8)
    if max(map(len, labels)) > 3:
        for text in axes.get_xticklabels():
            text.set(rotation=40, horizontalalignment="right", rotation_mode="anchor")
    axes.set_yticks(range(len(classes)), labels, fontsize=8)
    axes.set(xlabel="taken for", ylabel="is")
    if len(classes) <= LABELLED_CELLS:
        for row, counts in enumerate(matrix):
            for column, count in enumerate(counts):
                if count:
                    colour = "white" if shares[row][column] > 55 else "#222222"
                    axes.text(column, row, str(count), ha="center", va="center", fontsize=8, color=colour)
    figure.colorbar(picture, ax=axes, shrink=0.8, label="% of the class").outline.set_visible(False)
    return figure


def cut(name: str, most: int = 22) -> str:
    name = printable(name)
    return name if len(name) <= most else name[: most - 1] + "…"

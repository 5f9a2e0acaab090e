"""Separability (figure 6): every exit's embeddings in their two principal components, with SSE, SSB and their ratio."""

from typing import Annotated, Any

import torch
from annotated_types import Ge
from matplotlib.figure import Figure
from torch import Tensor

from kdcore import Analysis
from kdcore.errors import DataError
from kdcore.report.figures import COLOURS
from kdcore.runs import Run
from kdcore_byot.separability import sums_of_squares
from kdcore_byot.studies.reading import Note, Opened, Split, called, opened, side_by_side


def separability(
    runs: list[Run],
    note: Note,
    *,
    split: Split = "test",
    limit: Annotated[int, Ge(1)] | None = 2000,
    classes: Annotated[int, Ge(2)] = 8,
    seed: int = 0,
) -> Analysis:
    """Figure 6: each exit's embeddings in the plane of their two principal components, with the sums of squares within and between classes.

    SSE, SSB and their ratio are of the whole embeddings and of all classes; the ratio alone can be compared between exits, since embeddings
    differ in scale. split: of which images. limit: how many, drawn at random by the seed (none: all). classes: in the picture, the first ones.
    seed: of the images that are drawn.
    """
    entries = side_by_side(runs, note)
    rows: list[dict[str, Any]] = []
    panels: dict[tuple[str, int], tuple[Tensor, Tensor]] = {}
    for entry in entries:
        name, found = called(entry, entries), opened(Run.open(entry.run))
        embeddings, labels = embedded(found, split, limit, seed)
        for number, points in enumerate(embeddings, start=1):
            within, between = sums_of_squares(points, labels)
            plane, share = principal_plane(points)
            flat = sums_of_squares(plane, labels)
            row = {
                "run": name,
                "exit": number,
                "width": points.shape[1],
                "SSE": within,
                "SSB": between,
                "SSE / SSB": ratio(within, between),
            }
            rows.append({**row, "SSE / SSB in the plane": ratio(*flat), "variance in the plane, %": 100 * share})
            shown = labels < classes
            panels[name, number] = plane[shown], labels[shown]
    text = f"SSE / SSB by exit on {split}; less is better separated."
    for name in dict.fromkeys(row["run"] for row in rows):
        values = [row["SSE / SSB"] for row in rows if row["run"] == name]
        text += f" {name}: {', '.join('none' if value is None else f'{value:.2f}' for value in values)}."
    return Analysis({"separability": rows}, {"separability": scatter(panels, rows)}, text)


def embedded(found: Opened, split: Split, limit: int | None, seed: int) -> tuple[list[Tensor], Tensor]:
    """Each exit's embeddings float32 [N, D] of some images of a split, and their labels [N], on the CPU."""
    gathered: list[list[Tensor]] = []
    labels = []
    batches, _ = found.some(split, limit, seed)
    for images, truth, *_ in batches.epoch(0):
        with torch.inference_mode(), found.autocast:
            outputs = found.network(images)
        gathered.append([embedding.float().cpu() for embedding in outputs.embeddings])
        labels.append(truth.cpu())
    if not gathered[0]:
        raise DataError(f"the exits of {found.run.path} give no embeddings")
    return [torch.cat(parts) for parts in zip(*gathered, strict=True)], torch.cat(labels)


def principal_plane(points: Tensor) -> tuple[Tensor, float]:
    """Points [N, D] in their first two principal components, float64 [N, 2], and the share of the variance there.

    A component's sign is the one that makes its largest weight positive. Points of one dimension have zeros as their second.
    """
    centred = points.double() - points.double().mean(dim=0)
    _, sizes, components = torch.linalg.svd(centred, full_matrices=False)
    first = components[:2]
    signs = first.gather(1, first.abs().argmax(dim=1, keepdim=True)).sign()
    plane = centred @ (first * signs).T
    if plane.shape[1] < 2:
        plane = torch.cat([plane, plane.new_zeros(len(plane), 2 - plane.shape[1])], dim=1)
    total = float(sizes.square().sum())
    return plane, float(sizes[:2].square().sum()) / total if total else 1.0


def ratio(within: float, between: float) -> float | None:
    """None where the classes' means are all the same."""
    return within / between if between else None


def scatter(panels: dict[tuple[str, int], tuple[Tensor, Tensor]], rows: list[dict[str, Any]]) -> Figure:
    """A row for each run, a panel for each exit, the deepest in the last column; a colour for each class."""
    names = list(dict.fromkeys(name for name, _ in panels))
    columns = max(number for _, number in panels)
    figure = Figure(figsize=(min(2.1 * columns + 0.4, 10), 2.2 * len(names) + 0.3), layout="constrained")
    grid = figure.subplots(len(names), columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    count = {name: sum(row["run"] == name for row in rows) for name in names}
    for row in rows:
        name = row["run"]
        axes = grid[names.index(name)][columns - count[name] + row["exit"] - 1]
        plane, labels = panels[name, row["exit"]]
        axes.scatter(plane[:, 0], plane[:, 1], s=5, lw=0, alpha=0.7, c=[COLOURS[label % len(COLOURS)] for label in labels.tolist()])
        value = row["SSE / SSB"]
        axes.set_title(f"exit {row['exit']}: {'-' if value is None else f'{value:.2f}'}", fontsize=9)
        axes.set_axis_on()
        axes.set(xticks=[], yticks=[])
        if row["exit"] == 1 and len(names) > 1:
            axes.set_ylabel(name)
    figure.supxlabel("the two principal components of each exit's embeddings; numbers: SSE / SSB", fontsize=8)
    return figure

"""Grad-CAM by exit (Selvaraju et al., ICCV 2017, arXiv:1610.02391): where each exit looks, from the gradients at the map that it takes.

MSKD shows it for its exits (reference 51). Equations 1 and 2 of Grad-CAM are `class_map`; autograd does the rest.
"""

from collections.abc import Sequence
from statistics import fmean
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, MinLen
from matplotlib.figure import Figure
from torch import Tensor

from kdcore import Analysis
from kdcore.data import Preprocessing
from kdcore.errors import DataError, KdError
from kdcore.exits import MultiExit
from kdcore.runs import Run
from kdcore_byot.studies.reading import Opened, Split, opened


def gradcam(
    run: Run,
    *,
    split: Split = "test",
    count: Annotated[int, Ge(1)] = 6,
    images: Annotated[list[Annotated[int, Ge(0)]], MinLen(1)] | None = None,
    of: Literal["answer", "truth"] = "answer",
    seed: int = 0,
) -> Analysis:
    """Grad-CAM by exit: where each exit looks on some images, and how alike that is to where the deepest exit looks.

    At the map that the exit takes from the backbone. Correlations are Pearson's of two maps, at the size of the image. split: of which
    images. count: so many of the split, drawn at random by the seed. images: these instead, by their numbers in it. of: the class, the exit's own
    answer or the true one. seed: of the images that are drawn.
    """
    found = opened(run)
    batches, numbers = found.some(split, count, seed) if images is None else found.batches(split, numbered(found, split, images))
    rows: list[dict[str, Any]] = []
    shown: list[Tensor] = []
    heat: list[Any] = []
    names = found.data.class_names
    for pixels, labels, index in batches.epoch(0):
        maps, answers = exit_maps(found.network, pixels, labels if of == "truth" else None)
        shown += list(displayed(pixels, found.preprocessing))
        heat += maps.transpose(0, 1).cpu().tolist() if maps.numel() else []
        for i, number in enumerate(numbers[index.cpu()].tolist()):
            probabilities = answers[:, i].softmax(dim=-1)
            for k in range(len(answers)):
                best = int(probabilities[k].argmax())
                rows.append(
                    {"image": number, "name": getattr(found.data, split).name_of(number), "truth": names[int(labels[i])], "exit": k + 1}
                    | {"answer": names[best], "probability": float(probabilities[k, best])}
                    | {"correlation with the deepest": correlation(maps[k, i], maps[-1, i])}
                )
    count_exits = len({row["exit"] for row in rows})
    summary = [{"exit": k, **averaged([row for row in rows if row["exit"] == k])} for k in range(1, count_exits + 1)]
    alike = ", ".join(
        f"exit {row['exit']} {row['correlation with the deepest']:.2f}"
        for row in summary[:-1]
        if row["correlation with the deepest"] is not None
    )
    whose = "each exit's own answer" if of == "answer" else "the true class"
    text = f"{len(shown)} images of {split}, for {whose}."
    text += f" Mean correlation with the deepest exit's map: {alike}." if alike else ""
    return Analysis({"gradcam": rows, "summary": summary}, {"gradcam": grid(shown, heat, rows)}, text)


def numbered(found: Opened, split: Split, images: Sequence[int]) -> Tensor:
    """The numbers as int64 [N]. Raises KdError for one that is not in the split."""
    whole = getattr(found.data, split)
    if whole is not None and (beyond := [number for number in images if number >= len(whole)]):
        raise KdError(f"-o images: {split} has the images 0 to {len(whole) - 1}, and none is {beyond[0]}")
    if whole is None:
        found.some(split, 1)  # which says that there is no such split
    return torch.tensor(list(images))


def exit_maps(network: torch.nn.Module, images: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Class maps [E, N, H, W] in [0, 1] at the images' size, and logits [E, N, K], of images [N, C, H, W], in the network's own mode.

    labels: the classes [N]; by default each exit's own answer. Raises DataError where an exit's logits do not come from the map of its tap.
    """
    with torch.enable_grad():
        outputs = network(images.detach().clone().requires_grad_())
    taps = exit_taps(network, len(outputs.logits))
    found = []
    for k, (logits, tap) in enumerate(zip(outputs.logits, taps, strict=True), start=1):
        chosen = logits.argmax(dim=1) if labels is None else labels
        (gradient,) = torch.autograd.grad(logits.gather(1, chosen[:, None]).sum(), outputs.maps[tap], retain_graph=True, allow_unused=True)
        if gradient is None:
            raise DataError(f"exit {k} does not compute its logits from the map of its tap, as convolutional networks do: no Grad-CAM")
        heat = class_map(outputs.maps[tap].detach(), gradient)
        found.append(F.interpolate(heat[:, None], images.shape[-2:], mode="bilinear", align_corners=False)[:, 0])
    return torch.stack(found), torch.stack([logits.detach().float().cpu() for logits in outputs.logits])


def class_map(maps: Tensor, gradient: Tensor) -> Tensor:
    """ReLU of the channels [N, C, H, W] weighted by the spatial means of their gradients; each map [N, H, W] scaled to a maximum of 1.

    A map that is nowhere positive is 0 everywhere.
    """
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    heat = (weights * maps).sum(dim=1).relu()
    highest = heat.amax(dim=(1, 2), keepdim=True)
    return heat / torch.where(highest > 0, highest, 1.0)


def exit_taps(network: torch.nn.Module, exits: int) -> list[int]:
    """Which of `Outputs.maps` each exit takes: the tap of its branch, and the last for the backbone's own head."""
    if exits == 1:
        return [-1]
    if isinstance(network, MultiExit):
        return [*(int(key) for key in network.branches), -1]
    raise DataError("Grad-CAM knows the maps of exits that stand on a backbone's taps, and this network's are of another kind")


def correlation(one: Tensor, other: Tensor) -> float | None:
    """Pearson's; None where a map is the same everywhere."""
    a, b = (tensor.double().flatten() - tensor.double().mean() for tensor in (one, other))
    size = float(a.norm() * b.norm())
    return float(a @ b) / size if size > 1e-12 else None


def averaged(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One exit over the images."""
    known = [row["correlation with the deepest"] for row in rows if row["correlation with the deepest"] is not None]
    right = [row["answer"] == row["truth"] for row in rows]
    return {"right": f"{sum(right)} of {len(right)}", "correlation with the deepest": fmean(known) if known else None}


def displayed(pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Normalised images [N, C, H, W] as they look, float32 [N, H, W, 3] in [0, 1], on the CPU."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (preprocessing.mean, preprocessing.std))
    plain = (pixels.float().cpu() * std + mean).clamp(0, 1)
    return (plain if plain.shape[1] == 3 else plain.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)).permute(0, 2, 3, 1)


def grid(shown: Sequence[Tensor], heat: Sequence[Any], rows: Sequence[dict[str, Any]]) -> Figure:
    """A row for each image: the image, then each exit's map over it with its answer, bold where it is right."""
    exits = len(heat[0])
    figure = Figure(figsize=(1.25 * (exits + 1), 1.45 * len(shown)), layout="constrained")
    panels = figure.subplots(len(shown), exits + 1, squeeze=False)
    for line, (image, maps, row) in enumerate(zip(shown, heat, range(0, len(rows), exits), strict=True)):
        for axes in panels[line]:
            axes.set_axis_off()
        panels[line][0].imshow(image.numpy())
        panels[line][0].set_title(str(rows[row]["truth"])[:14], fontsize=8)
        for k, one in enumerate(maps):
            axes, said = panels[line][k + 1], rows[row + k]
            axes.imshow(image.mean(dim=-1).numpy(), cmap="gray", vmin=0, vmax=1)
            axes.imshow(one, cmap="jet", vmin=0, vmax=1, alpha=0.45)
            title = f"exit {said['exit']}: {str(said['answer'])[:12]}"
            axes.set_title(title, fontsize=8, fontweight="bold" if said["answer"] == said["truth"] else "normal")
    return figure

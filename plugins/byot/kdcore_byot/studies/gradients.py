"""The mean gradient of every convolution (figure 5): with and without self distillation, at the weights of a run."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge
from matplotlib.figure import Figure
from torch import Tensor, nn

from kdcore import Analysis
from kdcore.checkpoints import load_tensors, restore
from kdcore.errors import DataError, KdError
from kdcore.files import read_json
from kdcore.loading import load_student, read_run_config, student_tensors
from kdcore.objective import backbone_within
from kdcore.phases import Phase
from kdcore.preparing import Prepared, prepare
from kdcore.report.figures import COLOURS
from kdcore.runs import Run
from kdcore.seeds import seeded
from kdcore.task import DistillationTask
from kdcore.training import phase_from_json
from kdcore_byot.studies.reading import Note, called, delivered, side_by_side

Weights = Literal["delivered", "initial"]


def gradients(
    runs: list[Run], note: Note, *, batches: Annotated[int, Ge(1)] = 8, weights: Weights = "delivered", terms: bool = True
) -> Analysis:
    """Figure 5: the mean |gradient| of every convolution of the backbone, over some training batches, for one run or several beside each other.

    Each run's own loss, batches and augmentation, in training mode and float32; in a network with fewer than two convolutions the linear
    layers. batches: how many are averaged. terms: at the same weights also without the terms that have soft targets, and with the deepest exit's cross entropy alone.
    weights: those that the run delivers, or `initial`, as they were drawn.
    """
    entries = side_by_side(runs, note)
    lines: dict[str, dict[str, float]] = {}
    experiments: dict[str, str] = {}
    for entry in entries:
        name = called(entry, entries)
        note(f"gradients of {name}")
        for what, found in measured(Run.open(entry.run), batches, weights, terms).items():
            lines[f"{name}: {what}"] = found
            experiments[f"{name}: {what}"] = name
    layers = list(dict.fromkeys(layer for found in lines.values() for layer in found))
    table = [{"layer": layer, **{line: found.get(layer) for line, found in lines.items()}} for layer in layers]
    summary = [summed_up(line, list(found.values())) for line, found in lines.items()]
    text = f"Mean |gradient| over {batches} batches at the {weights} weights: " + "; ".join(
        f"{row['loss']} {row['mean of layers']:.3g}, first layer over last {row['first over last']:.3g}"
        for row in summary
        if row["first over last"] is not None
    )
    return Analysis({"gradients": table, "summary": summary}, {"gradients": picture(lines, experiments)}, text + ".")


def measured(run: Run, batches: int, weights: Weights, terms: bool) -> dict[str, dict[str, float]]:
    """By what loss and by layer: the run's whole loss, that without soft targets, and the deepest exit's cross entropy."""
    delivered(run)  # it is finished
    prepared = prepare(read_run_config(run).model_copy(update={"device": "auto"}), begun=run)
    phase, teacher = phase_of(run, prepared)
    if weights == "initial":
        if prepared.config.pretrained or prepared.config.init or phase.start != "stands":
            raise KdError(f"{run.path} did not begin with drawn weights that can be drawn again: leave out -o weights=initial")
        progress = 0.0
    else:
        progress = put_back(run, prepared)
    composition, found = prepared.composition, {}
    task = composition.task(phase, teacher=teacher)
    found["whole loss"] = over_batches(task, prepared, batches, progress, whole)
    hard = [term.name for term in task.objective.terms if term.source is None]
    exits = composition.context.student_shapes.exits
    if terms and 0 < len(hard) < len(task.objective.terms):
        kept: Any = {name: phase.terms[name] for name in hard} if isinstance(phase.terms, Mapping) else tuple(hard)
        part = composition.task(replace(phase, terms=kept), teacher=teacher)
        found["without soft targets"] = over_batches(part, prepared, batches, progress, whole)
    if terms and (exits > 1 or len(hard) < len(task.objective.terms)):
        task = composition.task(phase, teacher=teacher)
        found["deepest exit's cross entropy"] = over_batches(task, prepared, batches, progress, deepest_alone)
    return found


def whole(task: DistillationTask, images: Tensor, labels: Tensor, index: Tensor) -> Tensor:
    return task(images, labels, index)["loss"]


def deepest_alone(task: DistillationTask, images: Tensor, labels: Tensor, index: Tensor) -> Tensor:
    """What plain training minimises, at these weights; labels [B], or soft ones [B, K]."""
    return F.cross_entropy(task.objective.model(images).logits[-1].float(), labels)


def over_batches(task: DistillationTask, prepared: Prepared, count: int, progress: float, loss: Callable[..., Tensor]) -> dict[str, float]:
    """The mean of the first batches of an epoch that the run did not see. The same images, augmentation and dropout for every loss."""
    config = prepared.config
    chosen = prepared.batches("train", train=True)
    assert chosen is not None  # every run has training images
    task.train()
    task.at(epoch=progress * config.epochs, progress=progress)
    layers = layers_of(task.objective.model)
    sums = dict.fromkeys(layers, 0.0)
    taken = 0
    with seeded(config.seed, "gradients"):
        for (images, labels, index), _ in zip(chosen.epoch(config.epochs), range(count), strict=False):
            for name, value in mean_gradients(loss(task, images, labels, index), layers).items():
                sums[name] += value
            taken += 1
    return {name: value / taken for name, value in sums.items()}


def mean_gradients(loss: Tensor, layers: Mapping[str, Tensor]) -> dict[str, float]:
    """The mean of |d loss / d w| over a layer's weights w, by layer; 0 for a layer that the loss does not depend on."""
    found = torch.autograd.grad(loss, list(layers.values()), allow_unused=True)
    return {name: 0.0 if gradient is None else gradient.abs().double().mean().item() for name, gradient in zip(layers, found, strict=True)}


def layers_of(model: nn.Module) -> dict[str, Tensor]:
    """The weights of the backbone's convolutions that train, by name, first to last; its linear layers' where there are fewer than two."""
    net = backbone_within(model)[0]

    def weights(kind: type[nn.Module]) -> Iterable[tuple[str, Any]]:
        return ((name, module.weight) for name, module in net.named_modules() if isinstance(module, kind) and module.weight.requires_grad)

    found = dict(weights(nn.Conv2d))
    found = found if len(found) > 1 else dict(weights(nn.Linear))
    if not found:
        raise DataError("the run trains no layer of its backbone (--freeze): there are no gradients to compare")
    return found


def phase_of(run: Run, prepared: Prepared) -> tuple[Phase, nn.Module | None]:
    """The phase that the run delivers, and its teacher where that is a network of an earlier phase."""
    results = run.results()
    assert results is not None  # `measured` asked
    number = int(results["checkpoints"]["delivered"].split("/")[1].partition("-")[0])
    phase = phase_from_json(read_json(run.path / "phases.json")[number - 1]["phase"])
    if phase.model != "student":
        raise DataError(f"{run.path} delivers phase '{phase.name}', which trains a teacher: this study is of students")
    if phase.teacher in (None, "auto", "given"):
        return phase, None
    return phase, load_student(run.path, which=phase.teacher, device=prepared.device)[0]


def put_back(run: Run, prepared: Prepared) -> float:
    """The delivered checkpoint's weights into the composition; the averaged ones where the run kept an average. Returns the done share of its epochs."""
    results = run.results()
    assert results is not None
    checkpoint = results["checkpoints"]["delivered"]
    tensors, about = load_tensors(run.absolute(checkpoint))
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(("ema.", "optimizer."))}
    restore(prepared.composition.modules(), kept | student_tensors(tensors), who=checkpoint)
    return min(about["epoch"] / (about["phase"].get("epochs") or prepared.config.epochs), 1.0)


def summed_up(line: str, values: Sequence[float]) -> dict[str, Any]:
    """One loss's gradients in three numbers."""
    return {
        "loss": line,
        "mean of layers": fmean(values),
        "first layer": values[0],
        "last layer": values[-1],
        "first over last": values[0] / values[-1] if values[-1] else None,
    }


def picture(lines: Mapping[str, Mapping[str, float]], experiments: Mapping[str, str]) -> Figure:
    """A line for each loss over the layers; a colour for each run, a dash for each loss."""
    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    axes = figure.subplots()
    names = list(dict.fromkeys(experiments.values()))
    used = dict.fromkeys(names, 0)
    for line, found in lines.items():
        name = experiments[line]
        axes.plot(
            range(1, len(found) + 1), list(found.values()), marker=".", lw=1.3, ls=("-", "--", ":")[used[name] % 3],
            color=COLOURS[names.index(name) % len(COLOURS)], label=line,
        )  # fmt: skip
        used[name] += 1
    if any(value > 0 for found in lines.values() for value in found.values()):
        axes.set_yscale("log", nonpositive="mask")  # within a block that begins as the identity they are 0
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")
    axes.set(xlabel="layer, first to last", ylabel="mean |gradient|")
    figure.legend(loc="outside lower center", fontsize=8, ncols=2)
    return figure

"""The paper's studies of finished runs. Each gives a table: {"title", "columns", "rows"}, plain JSON values."""

from pathlib import Path
from statistics import fmean, stdev
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge
from torch import Tensor

from kdcore import KdError
from kdcore.backbones import macs
from kdcore.data import Preprocessing
from kdcore.errors import DataError
from kdcore.evaluation import collect
from kdcore.loading import load_student, read_run_config
from kdcore.preparing import make_batches
from kdcore.run_data import load_own_data
from kdcore.runs import Run
from kdcore_osakd.knn import knn_posterior

Table = dict[str, Any]


def soft_labels(
    run: Run | str | Path,
    *,
    k: Annotated[int, Ge(1)] | None = None,
    include_self: bool = True,
    limit: Annotated[int, Ge(1)] = 4096,
) -> Table:
    """How good the neighbours' labels are, epoch by epoch: their mass on the true class, and their entropy in nats.

    The deepest exit's neighbours among training images without augmentation, in batches of the run's size drawn at random, for every
    epoch whose checkpoint is there. k: by default the run's, or 8. include_self: each sample is its own nearest neighbour, as in training. limit: so
    many images, drawn at random.
    """
    folder = _opened(run)
    config = read_run_config(folder)
    k = k or int(config.options.get("k", config.options.get("osakd.knn.k", 8)))
    data = load_own_data(folder, config)
    device = torch.device("cpu")
    rows: list[list[Any]] = []
    for place in sorted(folder.checkpoint("").glob("*/epoch-*.json")):
        network, about = load_student(folder.path, which=folder.relative(place.with_suffix("")), device=device)
        batches = make_batches(data, "train", Preprocessing.from_json(about["preprocessing"]), config, device)
        assert batches is not None  # every run has training images
        answered = collect(network, batches.epoch(0), num_classes=data.num_classes)
        some = torch.randperm(len(answered.labels), generator=torch.Generator().manual_seed(0))[:limit]
        mass, entropy = quality(
            answered.logits[-1][some], answered.labels[some], k=k, batch_size=config.batch_size, include_self=include_self
        )
        rows.append([place.parent.name.partition("-")[2], int(place.stem.removeprefix("epoch-")), mass, entropy])
    if not rows:
        raise DataError(f"{folder.path} has no checkpoint yet: continue it with kd train --run {folder.path} --resume")
    return {"title": f"soft labels of {k} neighbours", "columns": ["phase", "epoch", "mass on the true class", "entropy"], "rows": rows}


def quality(logits: Tensor, labels: Tensor, *, k: int = 8, batch_size: int = 64, include_self: bool = True) -> tuple[float, float]:
    """Mean mass on the true class, and mean entropy in nats, of the neighbours' labels of logits [N, K] within random batches."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    posteriors = [
        knn_posterior(logits[rows].softmax(dim=-1), labels[rows], logits.shape[-1], k=k, include_self=include_self)
        for rows in order.split(batch_size)
    ]
    found, true = torch.cat(posteriors), labels[order]
    return found.gather(1, true[:, None]).mean().item(), torch.special.entr(found).sum(dim=1).mean().item()


def curves(run: Run | str | Path, *, others: list[str] | None = None, split: Literal["dev", "test"] = "test") -> Table:
    """Top-1 by epoch: mean and deviation over runs that differ by their seed. The last row is the paper's number: best over epochs.

    others: folders of the other runs. split: `test` needs runs of --test-every-epoch; it is for a report, and selects nothing.
    """
    folders = [_opened(run), *(_opened(other) for other in others or [])]
    columns = []
    for folder in folders:
        curve = [record[split]["top1"] for record in folder.metrics() if record.get(split)]
        if not curve:
            advice = "train it with --test-every-epoch, or add -o split=dev" if split == "test" else "it has no dev split"
            raise DataError(f"{folder.path} has no {split} accuracy by epoch: {advice}")
        columns.append(curve)
    if len({len(curve) for curve in columns}) > 1:
        raise KdError(f"the runs have {', '.join(str(len(curve)) for curve in columns)} epochs: curves compares runs of equal length")
    rows = [[str(epoch), *spread(list(values))] for epoch, values in enumerate(zip(*columns, strict=True), start=1)]
    rows.append(["best over epochs", *spread([max(curve) for curve in columns])])
    return {"title": f"{split} top-1 of {len(folders)} runs", "columns": ["epoch", "mean", "deviation"], "rows": rows}


def spread(values: list[float]) -> tuple[float, float | None]:
    """Mean and sample deviation; None for the deviation of one value."""
    return fmean(values), stdev(values) if len(values) > 1 else None


def training_cost(run: Run | str | Path) -> Table:
    """Multiply-accumulates of one training image's forward pass: the student with its exits, and the teacher, beside the student alone.

    The paper's .07 G (ResNet-32 with neighbours) against .33 G (with a ResNet-110 as teacher). The neighbours' share is one matrix product
    over the batch. A teacher counts where it is a run's.
    """
    folder = _opened(run)
    config = read_run_config(folder)
    network, about = load_student(folder.path, which="last")
    preprocessing = Preprocessing.from_json(about["preprocessing"])
    whole = macs(network, torch.zeros(1, preprocessing.in_chans, *preprocessing.image_size))
    alone = macs(network.strip(-1), torch.zeros(1, preprocessing.in_chans, *preprocessing.image_size))
    rows: list[list[Any]] = [["student alone", alone], ["exits and branches", whole - alone]]
    if "osakd" in repr((config.method, config.soft_targets, config.loss)):
        rows.append(["neighbours", config.batch_size * len(about["class_names"])])
    if config.teacher is not None and Path(config.teacher).is_dir():
        teacher, own = load_student(config.teacher)
        size = Preprocessing.from_json(own["preprocessing"])
        rows.append(["teacher", macs(teacher, torch.zeros(1, size.in_chans, *size.image_size))])
    rows.append(["together", sum(row[1] for row in rows)])
    return {"title": "training, forward, one image", "columns": ["part", "MACs"], "rows": rows}


def _opened(run: Run | str | Path) -> Run:
    return run if isinstance(run, Run) else Run.open(run)

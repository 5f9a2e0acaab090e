"""What every exit and their ensembles are worth: accuracy, negative log likelihood, calibration, recall and confusion.

Shapes: E exits, N samples, K classes. top1, top5, recall and ece are in percent (0 to 100), nll in nats a sample. Nothing here is ever NaN
or infinite: where a network answers NaN, that sample counts as if it held all classes equally likely, and `not_finite` says how many did.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdcore.errors import DataError, KdError

BINS = 15
"""Of the calibration error: the gap between confidence and accuracy, averaged over bins of equal width by their share of the samples."""

Metric = Callable[[Tensor, Tensor], Any]
"""Logits [N, K] and labels [N] to a number, or to a mapping of numbers."""

_EXTREME = 1e30  # a logit beyond it is as good as infinite, and differences of two such still fit float32


@dataclass
class Predictions:
    """Logits float32 [E, N, K] and labels int64 [N], on the CPU; `exits`: which exit each row of logits is, counted from 1.

    `numbers`: int64 [N], each sample's number in its split, where the batches said it.
    """

    logits: Tensor
    labels: Tensor
    exits: list[int]
    numbers: Tensor | None = None


def collect(
    model: Callable[[Tensor], Any],
    batches: Iterable[Sequence[Any]],
    *,
    num_classes: int,
    autocast: AbstractContextManager[Any] | Callable[[torch.device], AbstractContextManager[Any]] | None = None,
) -> Predictions:
    """What the model answers to every batch of (images [B, C, H, W], labels [B], ...), in eval mode; its training flags are put back.

    The model gives `Outputs` or one tensor of logits. Exits of another width than `num_classes` are left out, and the others keep their
    numbers. `autocast`: a context to run in, or a function from the device to one. Raises DataError without any sample, KdError without an
    exit of that width.
    """
    modules = list(model.modules()) if isinstance(model, torch.nn.Module) else []
    training = [module.training for module in modules]
    device = next((tensor.device for module in modules for tensor in module.parameters(recurse=False)), None)
    logits, labels, numbers, exits = [], [], [], []
    whole = autocast if isinstance(autocast, AbstractContextManager) else nullcontext()
    each = autocast if callable(autocast) and autocast is not whole else lambda _: nullcontext()
    try:
        for module in modules:
            module.training = False
        with whole:
            for images, batch_labels, *rest in batches:  # outside of inference mode: what a loader keeps must stay fit for training
                images = images.to(device or images.device, non_blocking=True)
                with torch.inference_mode(), each(images.device):
                    outputs = model(images)
                answers = [outputs] if isinstance(outputs, Tensor) else outputs.logits
                exits = [k for k, answer in enumerate(answers, start=1) if answer.shape[-1] == num_classes]
                if not exits:
                    widths = ", ".join(str(answer.shape[-1]) for answer in answers)
                    raise KdError(f"no exit has the {num_classes} classes of the data; the exits have {widths}")
                with torch.inference_mode():
                    logits.append(torch.stack([answers[k - 1].float() for k in exits]))
                labels.append(batch_labels)
                numbers += rest[:1]
    finally:
        for module, flag in zip(modules, training, strict=True):
            module.training = flag
    if not labels:
        raise DataError("there is nothing to evaluate: the split has no samples")
    with torch.inference_mode():
        gathered = torch.cat(logits, dim=1).cpu()
    clone = gathered.clone()  # made out here it is an ordinary tensor again
    return Predictions(clone, torch.cat(labels).cpu().long(), exits, torch.cat(numbers).cpu().long() if numbers else None)


def quick(predictions: Predictions) -> dict[str, float]:
    """The numbers of every epoch: `exit1/top1`, `exit1/nll`, `exit1/ece` and so on; `ensemble/...` (the mean of the logits) where there are
    several exits; plain `top1` and `nll` are the deepest exit's."""
    tables = {f"exit{k}": _basic(logits, predictions.labels) for k, logits in zip(predictions.exits, predictions.logits, strict=True)}
    deepest = tables[f"exit{predictions.exits[-1]}"]
    if len(predictions.exits) > 1:
        tables["ensemble"] = _basic(mean_logits(predictions.logits), predictions.labels)
    flat = {f"{who}/{name}": value for who, table in tables.items() for name, value in table.items()}
    return flat | {"top1": deepest["top1"], "nll": deepest["nll"]}


def report(
    predictions: Predictions,
    class_names: Sequence[str],
    *,
    dev: Predictions | None = None,
    metrics: Mapping[str, Metric] | None = None,
) -> dict[str, Any]:
    """Everything about every exit and ensemble, as plain JSON values.

    Each table holds top1, top5 (with more than 5 classes), nll, ece, recall by class name (None for a class without samples) and confusion
    (rows: the true class). `dev`: predictions of the dev split, to which the weights of the ensemble "fitted" are fitted. `metrics`:
    further functions of logits [N, K] and labels [N], giving a number or a mapping; ensembles of probabilities give them log
    probabilities. Raises KdError where names, classes or exits do not match.
    """
    logits, labels, exits = predictions.logits, predictions.labels, predictions.exits
    if len(class_names) != logits.shape[-1]:
        raise KdError(f"{len(class_names)} class names, but the exits have {logits.shape[-1]} classes")
    if dev is not None and dev.exits != exits:
        raise KdError(f"the dev predictions are of exits {dev.exits}, these of {exits}")

    def table(scores: Tensor) -> dict[str, Any]:
        return _full(scores, labels, class_names, metrics or {})

    ensembles: dict[str, Any] = {}
    if len(exits) > 1:
        ensembles["mean_logits"] = table(mean_logits(logits))
        ensembles["mean_probabilities"] = table(mixture(logits))
        if dev is not None:
            weights = fit_weights(dev)
            ensembles["fitted"] = {**table(mixture(logits, weights)), "weights": weights.tolist()}
    tables = [{"exit": k, **table(scores)} for k, scores in zip(exits, logits, strict=True)]
    return {"exits": tables, "ensembles": ensembles, "samples": len(labels)}


def mean_logits(logits: Tensor) -> Tensor:
    """The mean over the exits, [E, N, K] -> [N, K]."""
    return finite(logits).mean(dim=0)


def mixture(logits: Tensor, weights: Tensor | None = None) -> Tensor:
    """Log of the mean (or, with weights [E] that sum to 1, the weighted mean) of the exits' probabilities, [E, N, K] -> [N, K]."""
    if weights is None:
        weights = logits.new_full((len(logits),), 1 / len(logits))
    return torch.logsumexp(finite(logits).log_softmax(dim=-1) + weights.to(logits).log()[:, None, None], dim=0)


def fit_weights(dev: Predictions, *, tolerance: float = 1e-6, limit: int = 10_000) -> Tensor:
    """Weights over the exits' probabilities, float64 [E], positive or 0 and of sum 1, whose mixture has the least nll on `dev`.

    Expectation maximisation of a mixture with fixed components: w_k becomes the mean over samples of w_k p_k / sum_j w_j p_j, p_k being
    what exit k gives the true class. The problem is convex, each step lowers the nll, and log max_k of the step's factor bounds the nats
    that are still to gain: it stops where those are within `tolerance`.
    """
    index = dev.labels[None, :, None].expand(len(dev.logits), -1, 1)
    likelihood = finite(dev.logits).log_softmax(dim=-1).gather(-1, index).squeeze(-1).double()  # [E, N]
    likelihood = (likelihood - likelihood.amax(dim=0)).exp()  # a factor for each sample leaves the weights alone
    weights = likelihood.new_full((len(likelihood),), 1 / len(likelihood))
    for _ in range(limit):
        factor = (likelihood / (weights @ likelihood)).mean(dim=1)
        weights = weights * factor
        if factor.max().log() < tolerance:
            break
    return weights / weights.sum()


def percent(count: int, whole: int) -> float:
    """A share of counts in percent, to 6 digits: what float32 makes of it has artefacts such as 96.29999542."""
    return round(100 * count / whole, 6)


def finite(logits: Tensor) -> Tensor:
    """Logits that no NaN or infinity can spread from: a row with a NaN becomes zeros, that is, all classes equally likely."""
    return torch.where(logits.isnan().any(dim=-1, keepdim=True), 0.0, logits.clamp(-_EXTREME, _EXTREME))


def _basic(logits: Tensor, labels: Tensor) -> dict[str, float]:
    from torchmetrics.functional.classification import multiclass_calibration_error

    broken = int((~logits.isfinite()).any(dim=-1).sum())
    logits = finite(logits)
    classes = logits.shape[-1]
    probabilities = logits.softmax(dim=-1).clamp(0, 1)  # torchmetrics takes anything outside of [0, 1] for logits
    ece = multiclass_calibration_error(probabilities, labels, classes, n_bins=BINS, norm="l1", validate_args=False)
    values = {
        "top1": percent(int((logits.argmax(dim=-1) == labels).sum()), len(labels)),
        "nll": round(float(F.cross_entropy(logits, labels, reduction="none").double().mean()), 6),
        "ece": round(100 * float(ece), 6),
    }
    return values | ({"not_finite": float(broken)} if broken else {})


def _full(logits: Tensor, labels: Tensor, class_names: Sequence[str], metrics: Mapping[str, Metric]) -> dict[str, Any]:
    from torchmetrics.functional.classification import multiclass_confusion_matrix, multiclass_stat_scores

    table: dict[str, Any] = dict(_basic(logits, labels))
    scores, classes = finite(logits), logits.shape[-1]
    if classes > 5:
        found = multiclass_stat_scores(scores, labels, classes, average="micro", top_k=5, validate_args=False)
        table["top5"] = percent(int(found[0]), len(labels))
    confusion = multiclass_confusion_matrix(scores.argmax(dim=-1), labels, classes, validate_args=False).tolist()
    rows = dict(zip(class_names, confusion, strict=True))
    table["recall"] = {name: percent(row[k], sum(row)) if sum(row) else None for k, (name, row) in enumerate(rows.items())}
    table["confusion"] = confusion
    for name, metric in metrics.items():
        if name in table:
            raise KdError(f"the metric '{name}' has the name of one that every report holds; give it another")
        table[name] = _plain(metric(logits, labels))
    return table


def _plain(value: Any) -> Any:
    """Mappings, sequences and numbers as JSON has them; what is not finite becomes None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

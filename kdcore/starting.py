"""Everything up to the first step: preparation, precision, an estimate of the time, and what `model.json` says. Nothing is written."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdcore.backbones import architecture_of, macs, parameter_count
from kdcore.checkpoints import load_tensors
from kdcore.composition import Composition
from kdcore.config import Config
from kdcore.errors import KdError
from kdcore.estimate import Estimate, counted, within_minutes
from kdcore.objective import backbone_within
from kdcore.phase_run import has_checkpoint
from kdcore.plugins import Plugins
from kdcore.precision import Precision, by_rule, by_trial
from kdcore.preparing import Prepared, prepare
from kdcore.provenance import plugin_changes
from kdcore.renewal import split
from kdcore.runs import Run
from kdcore.timing import estimate

INITIAL = "initial"
"""The checkpoint of a run's initial weights, its losses' and sources' too, kept where a later phase starts from them."""


@dataclass
class Ready:
    """A run that takes its first step next."""

    prepared: Prepared
    precision: Precision
    expected: Estimate | None
    """None where nobody asked."""


def make_ready(config: Config, *, run: Run | None = None, place: Path | None = None, timed: bool = True) -> Ready:
    """What `kd train` starts, and `kd plan` describes. Raises KdError, DataError or FileError in one line.

    run: one that is there already, and goes on from its last checkpoint. place: on whose disk a checkpoint is tried for the estimate.
    timed: False leaves the estimate out, unless --minutes needs it.
    """
    plugins = Plugins(config.plugin)
    begun = run if run is not None and has_checkpoint(run) else None
    prepared = prepare(config, plugins, begun)
    if run is not None:
        prepared.notes += plugin_changes(run, plugins)
    if begun is not None:
        _take_back(begun, prepared.composition)
    precision = settle(prepared)
    if not timed and config.minutes is None:
        return Ready(prepared, precision, None)
    expected = estimate(prepared, precision, run.path if run else place)
    return _fitted(config, prepared, precision, expected) if config.minutes is not None else Ready(prepared, precision, expected)


def _take_back(begun: Run, composition: Composition) -> None:
    """What the run began with, from its disk: no weights are read again, and a part may have taken something from those it had then."""
    if composition.initial is not None or composition.first_components:
        student, composition.first_components = split(load_tensors(begun.checkpoint(INITIAL))[0])
        composition.initial = student if composition.initial is not None else None


def _fitted(config: Config, prepared: Prepared, precision: Precision, expected: Estimate) -> Ready:
    """The run with as many epochs as fit into --minutes. They are written down as --epochs, so that repeating and resuming need no clock."""
    epochs, plugins = within_minutes(config, expected), prepared.plugins
    said = f"--minutes {config.minutes:g}: "
    notes = [note for note in prepared.notes if note.startswith("--amp try")]
    while epochs < prepared.config.epochs:
        if config.warmup_epochs >= epochs:
            raise KdError(f"{said}{counted(epochs, 'epoch')} would fit, and --warmup-epochs {config.warmup_epochs} leaves nothing of that")
        changes = {"epochs": epochs, "amp": precision.amp, "channels_last": precision.channels_last}
        prepared = prepare(config.model_copy(update=changes), plugins)  # anew: a schedule may have divided --epochs
        precision = settle(prepared)
        expected = expected.of(prepared.composition.phases, epochs)
        epochs = within_minutes(prepared.config, expected)
    epochs = prepared.config.epochs
    fits = f"all {config.epochs} epochs fit" if epochs == config.epochs else f"{epochs} of {config.epochs} epochs fit"
    if expected.seconds > 60 * (config.minutes or 0):
        fits = f"not even {counted(expected.epochs, 'epoch')} will fit, and that is the least"
    prepared.notes += [*notes, said + fits]
    prepared.config = prepared.config.model_copy(update={"minutes": None})
    return Ready(prepared, precision, expected)


def settle(prepared: Prepared) -> Precision:
    """The precision, by the rule or by a trial where the configuration leaves it open, and written into the configuration."""
    config, student = prepared.config, prepared.composition.student
    if config.amp == "try":
        batches = prepared.batches("train", train=True)
        assert batches is not None
        task = prepared.composition.task()
        task.train()
        precision, seconds = by_trial(task, next(batches.epoch(0)), config.channels_last)
        tried = ", ".join(f"{candidate} {1000 * taken:.0f} ms" for candidate, taken in seconds.items())
        prepared.notes.append(f"--amp try: {precision} (a step took: {tried})")
    else:
        precision = by_rule(student, prepared.preprocessing.image_size, prepared.device, config.amp, config.channels_last)
    precision.apply(student)
    prepared.config = config.model_copy(update={"amp": precision.amp, "channels_last": precision.channels_last})
    return precision


def describe_model(prepared: Prepared) -> dict[str, Any]:
    """What `model.json` holds: architecture, classes, preprocessing, and what each exit costs."""
    composition = prepared.composition
    architecture, options = architecture_of(prepared.config.model, backbone_within(composition.student)[0])
    return {
        "model": prepared.config.model,
        "architecture": architecture,
        "architecture_options": options,
        "weights": prepared.weights,
        "num_classes": prepared.data.num_classes,
        "class_names": prepared.data.class_names,
        "preprocessing": prepared.preprocessing.to_json(),
        "method": prepared.recipe.name,
        "parts": {place: prepared.recipe.labels[place] for place in prepared.recipe.labels},
        "exits": exit_costs(composition.student, composition.context),
    }


def exit_costs(student: nn.Module, context: Any) -> list[dict[str, Any]]:
    """Parameters and multiply-accumulates of each exit that has the data's classes, deployed alone."""
    device = next(student.parameters()).device
    images = torch.zeros(1, context.in_chans, *context.image_size, device=device)
    costs = []
    for number, shape in enumerate(context.student_shapes.logits, start=1):
        if shape == (context.num_classes,):
            alone = student.strip(number)
            costs.append({"exit": number, "parameters": parameter_count(alone), "macs": macs(alone, images)})
    return costs

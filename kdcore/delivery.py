"""The end of a run: what is delivered, its report on dev and test, its predictions, and the exported student. The test set selects nothing."""

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdcore.checkpoints import export_tensors, load_tensors, restore
from kdcore.config import Config
from kdcore.data import Batches, Preprocessing
from kdcore.data.sources import without_settings_of_another
from kdcore.errors import DataError, first_names
from kdcore.evaluation import Predictions, collect, report
from kdcore.loading import load_student, read_about, read_run_config, student_tensors, write_timm_folder
from kdcore.over_epochs import over_epochs
from kdcore.phases import PhaseResult
from kdcore.plugins import Plugins
from kdcore.precision import Precision, pick_device
from kdcore.predictions import write_predictions
from kdcore.preparing import Prepared, make_batches, resolve_recipe
from kdcore.provenance import plugin_changes
from kdcore.run_data import load_config_data, load_own_data
from kdcore.runs import Run
from kdcore.stopping import best_on_dev
from kdcore.tapped import copied


def deliver(run: Run, prepared: Prepared, results: list[PhaseResult], precision: Precision) -> dict[str, Any]:
    """Reports the last epoch and the best on dev of the phase that the schedule delivers; writes its predictions and `student.safetensors`.

    Delivered is the best on dev where there is a dev split, else the last epoch.
    """
    chosen = results[-1]
    checkpoints = {"last": chosen.checkpoint, "best": chosen.best_checkpoint}
    selected = "best" if prepared.data.dev is not None else "last"
    answer: dict[str, Any] = {
        "model": prepared.config.model,
        "method": prepared.recipe.name,
        "data": prepared.config.data,
        "seed": prepared.config.seed,
        "teacher": prepared.teacher.label if prepared.teacher else None,
        "phase": chosen.phase.name,
        "delivered": {"best": best_on_dev(prepared.config, chosen.phase), "last": "last epoch (there is no dev split)"}[selected],
        "checkpoints": {**checkpoints, "delivered": checkpoints[selected]},
        **describe_data(prepared),
        "device": str(prepared.device),
    }
    network = copied(prepared.composition.student)
    splits = {name: batches for name in ("dev", "test") if (batches := prepared.batches(name)) is not None}
    metrics = plugin_metrics(prepared.plugins)
    found: dict[str, dict[str, Predictions]] = {}
    for checkpoint in dict.fromkeys(checkpoints.values()):  # once, where the last epoch is the best
        tensors, about = load_tensors(run.absolute(checkpoint))
        kept = {name.removeprefix("student."): tensor for name, tensor in student_tensors(tensors).items()}
        restore(network, kept, who=checkpoint)
        predictions = collect_splits(network, splits, prepared.data.class_names, precision, prepared.device)
        reports = {"epoch": about["epoch"], **report_splits(predictions, prepared.data.class_names, metrics)}
        answer |= {which: reports for which, name in checkpoints.items() if name == checkpoint}
        delivered = checkpoint == checkpoints[selected]
        if delivered:
            export(run, network)
        found["delivered" if delivered else "last"] = predictions
    if (highest := over_epochs(run.metrics(), chosen.checkpoint)) is not None:
        answer["over_epochs"] = highest
    answer["costs"] = read_about(run.path / "model.json")["exits"]
    answer["predictions"] = write_predictions(run, found, prepared.data, prepared.config.data)
    return answer


def describe_data(prepared: Prepared) -> dict[str, Any]:
    """What a report says of the data: images of each split and class, those left out, and the notes."""
    data = prepared.data
    splits = {name: split for name in ("train", "dev", "test") if (split := getattr(data, name)) is not None}
    return {
        "samples": {name: len(split) for name, split in splits.items()},
        "class_counts": {name: torch.bincount(split.labels, minlength=data.num_classes).tolist() for name, split in splits.items()},
        "bad_images": len(data.bad),
        "notes": prepared.notes,
    }


def collect_splits(
    network: nn.Module, splits: dict[str, Batches], class_names: list[str], precision: Precision, device: torch.device
) -> dict[str, Predictions]:
    """What the network answers to each split."""
    classes = len(class_names)
    return {name: collect(network, b.epoch(0), num_classes=classes, autocast=precision.autocast(device)) for name, b in splits.items()}


def report_splits(found: dict[str, Predictions], class_names: list[str], metrics: dict[str, Any]) -> dict[str, Any]:
    """A report of each split; the ensemble's fitted weights come from dev."""
    return {name: report(predictions, class_names, dev=found.get("dev"), metrics=metrics) for name, predictions in found.items()}


def run_metrics(config: Config) -> dict[str, Any]:
    """The metrics that a run of these settings has: of every plugin that its recipe names. Raises KdError where one is not here."""
    return plugin_metrics(run_plugins(config))


def run_plugins(config: Config) -> Plugins:
    """The plugins that a run of these settings names, imported. Raises KdError where one is not here."""
    plugins = Plugins(config.plugin)
    resolve_recipe(config, plugins, has_teacher=True)
    return plugins


def plugin_metrics(plugins: Plugins) -> dict[str, Any]:
    """The metrics of every plugin that has been imported."""
    return {name: part.target for plugin in list(plugins.loaded) for name, part in plugins.parts_of(plugin, "metrics").items()}


def export(run: Run, network: nn.Module) -> Path:
    """The deepest exit alone as an ordinary timm checkpoint, whole or not at all, and as a folder for timm's `local-dir:`."""
    path, net = run.path / "student.safetensors", network.strip(-1)
    export_tensors(path, net.state_dict())
    write_timm_folder(path, net, read_about(run.path / "model.json"))
    return path


def evaluate_run(run: str | Path, data: str | None = None, *, which: str = "delivered", device: str = "auto") -> dict[str, Any]:
    """Reports a finished run's student on the dev and test splits of its data, or of another set with the same classes.

    Another set that has neither is evaluated whole, as test. `notes` names plugins that are not what the run was made with.

    which: delivered, last or best. Raises DataError where the classes are others or the run's data has neither split, FileError where the run is
    not finished.
    """
    folder = Run.open(run)
    place = pick_device(device)
    network, about = load_student(folder.path, which=which, device=place)
    config = read_run_config(folder)
    if data is not None:
        changes = {"data": data, "dev_fraction": 0.0, "labels_per_class": None, "train_limit": None}
        config = config.model_copy(update=changes | without_settings_of_another(data))
    if data is None:
        read = load_own_data(folder, config, instead="name other images with the same classes by --data")
    else:
        read = load_config_data(config)
    if read.class_names != about["class_names"]:
        raise DataError(
            f"{config.data} has other classes ({first_names(read.class_names)}) than the run ({first_names(about['class_names'])})"
        )
    if data is not None and read.dev is None and read.test is None:
        read = dataclasses.replace(read, test=read.train)  # another set without splits is evaluated whole
    if read.dev is None and read.test is None:
        raise DataError(f"{config.data} has neither a dev nor a test split: name other images with the same classes by --data")
    preprocessing = Preprocessing.from_json(about["preprocessing"])
    splits = {name: b for name in ("dev", "test") if (b := make_batches(read, name, preprocessing, config, place)) is not None}
    precision = Precision(config.amp, bool(config.channels_last))
    found = collect_splits(network, splits, read.class_names, precision, place)
    plugins = run_plugins(config)
    reports = report_splits(found, read.class_names, plugin_metrics(plugins))
    return {"run": str(folder.path), "data": config.data, "which": which, "notes": plugin_changes(folder, plugins), **reports}

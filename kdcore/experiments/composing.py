"""Every row of an experiment composed without its data and without weights: whether the full recipe fits together, whatever this machine can train.

On the meta device, which has shapes and no values: the largest network takes no memory there, and hardly any time.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from kdcore.backbones import create_backbone, macs, made_for, parameter_count
from kdcore.comparison.composing import named, route
from kdcore.comparison.grid import Grid, Row
from kdcore.composition import Composition, compose, dry_images
from kdcore.config import Config, read_config, split_taps
from kdcore.errors import KdError
from kdcore.experiments.pace import TRAINING
from kdcore.experiments.planning import Plan
from kdcore.experiments.reading import DataOf, Experiment
from kdcore.optimisation import check_settings
from kdcore.pixels import check_pixels, mixes
from kdcore.plugins import Plugins
from kdcore.preparing import resolve_recipe
from kdcore.tapped import Tapped

IMAGES = 10_000
"""Training images that a composition is told of where the file does not say how many there are."""


@dataclass(frozen=True)
class Fits:
    """A row that composes: its exits, its phases with their epochs, and the student's parameters. device: where, `meta` or `cpu`.

    macs: multiply-adds of training on one image in every epoch, with all exits, the teacher's included.
    """

    row: str
    model: str
    method: str
    exits: int
    phases: list[tuple[str, int]]
    parameters: int
    macs: int
    device: str

    @property
    def epochs(self) -> int:
        return sum(epochs for _, epochs in self.phases)


def routed(plan: Plan, whole: bool) -> dict[str, dict[str, Any]]:
    """The settings of every row and teacher, with the options of all that each knows. Raises KdError for a method that is not there.

    whole: all rows of the file are there, so that an option that none of them knows is an error too.
    """
    rows = [*plan.teachers, *plan.rows]
    return route(Grid(rows, [0], dict(plan.shared) if whole else claimed(rows, plan.shared)))


def claimed(rows: Sequence[Row], shared: Mapping[str, Any]) -> dict[str, Any]:
    """The shared settings without the options that none of these rows knows: those are for rows that are not run, or for a teacher."""
    kept = {}
    for name, value in shared.get("options", {}).items():
        try:
            route(Grid(list(rows), [0], {**shared, "options": {name: value}}))
        except KdError as error:
            if str(error).startswith(f"-o {name}="):
                continue
        kept[name] = value
    return {**shared, "options": kept} if "options" in shared else dict(shared)


def compose_all(experiment: Experiment, plan: Plan, whole: bool) -> list[Fits]:
    """Composes teachers and rows; on the CPU with random weights where a part of one needs values. Raises KdError with the row in front."""
    settings = routed(plan, whole)
    teachers: dict[tuple[str, str], nn.Module] = {}

    def composed(row: Row, device: str) -> Fits:
        config = read_config(settings[row.name])
        teacher = None
        for one in plan.teachers:
            if config.teacher and config.teacher.endswith(f"/teachers/{one.folder}"):
                if (one.folder, device) not in teachers:
                    composed(one, device)
                teacher = teachers[one.folder, device]
        composition = _composed(config, experiment.data, teacher, device)
        if row in plan.teachers:
            teachers[row.folder, device] = composition.student
        phases = [(phase.name, phase.epochs or config.epochs) for phase in composition.phases]
        exits = len(composition.context.student_shapes.logits)
        return Fits(
            row.name, row.model, row.method, exits, phases, parameter_count(composition.student), _work(composition, phases), device
        )

    found = []
    for row in [*plan.teachers, *plan.rows]:
        with named(row):
            try:
                found.append(composed(row, "meta"))
            except Exception:  # a part that looks at values; what else is wrong is said there, too
                found.append(composed(row, "cpu"))
    return found


def _composed(config: Config, data: DataOf, teacher: nn.Module | None, device: str) -> Composition:
    """teacher: a network on the device, where the file has one of its own."""
    plugins = Plugins(config.plugin)
    check_pixels(config)
    if config.warmup_epochs >= config.epochs:
        raise KdError(f"warmup_epochs {config.warmup_epochs} leaves nothing of epochs {config.epochs}")
    size = config.img_size or data.image_size
    images = config.train_limit or data.train or IMAGES
    given = teacher
    if config.teacher and given is None:
        with made_for(device):
            given = create_backbone(config.teacher, plugins=plugins, num_classes=data.classes, in_chans=data.channels, img_size=size)
    recipe = resolve_recipe(config, plugins, has_teacher=given is not None)
    batch = min(config.batch_size, images)
    composition = compose(
        config.model,
        recipe,
        num_classes=data.classes,
        teacher=given,
        taps=split_taps(config.taps),
        image_size=size,
        in_chans=data.channels,
        plugins=plugins,
        backbone_options={"drop_rate": config.drop or None, "drop_path_rate": config.drop_path},
        freeze=config.freeze,
        device=device,
        labels=torch.arange(images) % data.classes,
        epochs=config.epochs,
        batch_size=batch,
        steps_per_epoch=max(images // batch, 1),
        num_samples=images,
        has_dev=config.dev_fraction > 0,
        soft_labels=mixes(config),
    )
    if given is not None and not composition.uses_teacher:
        raise KdError(f"its teacher is used by no part of method '{recipe.name}'")
    check_settings(config, composition.phases, composition.student)
    return composition


def _work(composition: Composition, phases: Sequence[tuple[str, int]]) -> int:
    """`Fits.macs`. A phase counts as one of the whole student, and of the whole teacher where it has one."""
    images = dry_images(composition.context, composition.device)
    forward = macs(composition.student, images)
    given = macs(composition.given_teacher, images) if composition.given_teacher is not None else 0
    whole = 0
    for phase, (_, epochs) in zip(composition.phases, phases, strict=True):
        taught = 0 if phase.teacher is None else given if phase.teacher in ("auto", "given") else forward
        whole += epochs * (TRAINING * (given if phase.model == "teacher" else forward) + taught)
    return whole


def single_exit_models(experiment: Experiment, models: Iterable[str], image_size: int | None) -> list[str]:
    """Those of the models that have no place for a second exit: deep supervision is plain training there."""
    found = []
    for model in models:
        try:
            size = image_size or experiment.data.image_size
            with made_for("meta"):
                net = create_backbone(model, num_classes=experiment.data.classes, in_chans=experiment.data.channels, img_size=size)
            taps = len(Tapped(net, None, (size, size)).taps)
        except KdError:
            taps = 1
        if taps < 2:
            found.append(model)
    return found


def smoke_rows(experiment: Experiment, among: list[str] | None = None) -> list[str]:
    """Names of the rows that a smoke test trains: each method with the options that it is given once, on the smallest network (and teacher) that the table has."""
    sizes: dict[str, int] = {}

    def size_of(model: str) -> int:
        if model not in sizes:
            with made_for("meta"):
                net = create_backbone(model, num_classes=experiment.data.classes, in_chans=experiment.data.channels)
            sizes[model] = parameter_count(net)
        return sizes[model]

    def cost(row: Any) -> int:
        return size_of(row.model) + (size_of(experiment.teachers[row.teacher].model) if row.teacher else 0)

    chosen: dict[tuple[str, ...], str] = {}
    for row in sorted((row for row in experiment.runnable if among is None or row.name in among), key=cost):
        chosen.setdefault((row.arm.method, *sorted(row.arm.options)), row.name)
    return [row.name for row in experiment.runnable if row.name in chosen.values()]

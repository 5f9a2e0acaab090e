"""From settings to everything a run needs, before a folder is made: data, student, teacher, composition."""

from dataclasses import dataclass
from typing import Any

import torch

from kdcore.able_teachers import check_teacher
from kdcore.backbones import create_backbone
from kdcore.composition import Composition, compose
from kdcore.config import Config, split_taps
from kdcore.data import Augmentation, Batches, Data, Preprocessing
from kdcore.errors import KdError
from kdcore.loading import read_about
from kdcore.notes import composition_notes
from kdcore.objective import backbone_within
from kdcore.optimisation import check_settings
from kdcore.options import configured, options_of, reconfigure, target_of
from kdcore.pixels import (
    check_pixels,
    described,
    mixes,
    residence,
    resolve_augmentation,
    resolve_mixing,
    resolve_preprocessing,
    unused,
    written_down,
)
from kdcore.plugins import Plugins
from kdcore.precision import pick_device
from kdcore.recipes import Recipe, resolve
from kdcore.run_data import load_config_data, load_own_data
from kdcore.runs import Run
from kdcore.stopping import check_splits
from kdcore.teachers import GivenTeacher, find_teacher
from kdcore.weights import Start, check_frozen, decide_start, has_weights, preprocessing_of, weights_notes


@dataclass
class Prepared:
    """A run that could start now. `config` has every decision that could be taken before the first step."""

    config: Config
    plugins: Plugins
    recipe: Recipe
    data: Data
    preprocessing: Preprocessing
    augmentation: Augmentation
    composition: Composition
    teacher: GivenTeacher | None
    device: torch.device
    notes: list[str]
    weights: list[str]
    """What the notes say of the weights that the run starts from."""

    def batches(self, split: str, *, train: bool = False) -> Batches | None:
        """The batches of one split, or None where the data has no such split."""
        return make_batches(self.data, split, self.preprocessing, self.config, self.device, self.augmentation if train else None)


def make_batches(
    data: Data,
    split: str,
    preprocessing: Preprocessing,
    config: Config,
    device: torch.device,
    augmentation: Augmentation | None = None,
) -> Batches | None:
    """Batches for training (shuffled, augmented, whole ones only) where there is an augmentation, else for evaluation."""
    chosen = getattr(data, split)
    if chosen is None:
        return None
    training = augmentation is not None
    return Batches(
        chosen,
        preprocessing,
        batch_size=config.batch_size if training else max(config.batch_size, 256),
        augmentation=augmentation,
        shuffle=training,
        balanced=training and config.sampler == "balanced",
        mixing=resolve_mixing(config, data.num_classes) if training else None,
        drop_last=training,
        seed=config.seed,
        device=device,
        workers=config.workers,
        channels_last=bool(config.channels_last),
        resident_gb=config.resident_gb,
    )


def resolve_recipe(config: Config, plugins: Plugins, *, has_teacher: bool | None = None) -> Recipe:
    """The recipe of a configuration, with `--smoothing` and `--class-weights` given to every cross entropy that has none of its own."""
    recipe = resolve(
        config.method,
        config.options,
        plugins=plugins,
        exits=config.exits,
        soft_targets=config.soft_targets,
        losses=config.loss,
        schedule=config.schedule,
        has_teacher=config.teacher is not None if has_teacher is None else has_teacher,
        hard_labels=not mixes(config),
    )
    wanted = {"label_smoothing": config.smoothing or None, "class_weights": config.class_weights}
    cross_entropy = plugins.part("losses", "ce").target
    for place, component in recipe.components().items():
        if target_of(component) is cross_entropy:
            own = configured(component)
            values = {name: value for name, value in wanted.items() if value not in (None, "none") and own[name] in (0, "none")}
            recipe.replace(place, reconfigure(component, values, recipe.labels[place]))
    return recipe


def prepare(config: Config, plugins: Plugins | None = None, begun: Run | None = None) -> Prepared:
    """Checks names first, then data, then builds and runs everything once. Raises KdError, DataError or FileError in one line.

    begun: a run that goes on from a checkpoint: its data must be what it was, and no initial weights are read again.
    """
    plugins = plugins or Plugins(config.plugin)
    resumed = read_about(begun.path / "model.json") if begun else None
    if config.warmup_epochs >= config.epochs:
        raise KdError(
            f"--warmup-epochs {config.warmup_epochs} leaves nothing of --epochs {config.epochs}; add --warmup-epochs 0 (or more epochs)"
        )
    check_pixels(config)
    recipe = resolve_recipe(config, plugins)
    device = pick_device(config.device)
    data = load_own_data(begun, config) if begun else load_config_data(config)
    check_splits(config, data.dev is not None, data.test is not None)
    start = look_up(config, plugins, data, resumed)
    if resumed is None:
        config = config.model_copy(update=start.decisions)
    size = (config.img_size, config.img_size) if config.img_size else None
    preprocessing = resolve_preprocessing(config, data, size, start.preprocessing if config.pretrained else {})
    augmentation = resolve_augmentation(config, data, preprocessing)
    notes = [*data.notes, described(config, augmentation), *residence(config, data, preprocessing, augmentation)]
    notes += unused(config, augmentation)
    config = config.model_copy(update=written_down(config, preprocessing, augmentation))
    if mixing := resolve_mixing(config, data.num_classes):
        mixing.check(min(config.batch_size, len(data.train)))
    teacher = find_teacher(config.teacher, data, preprocessing, device) if config.teacher else None
    pretrained = bool(config.pretrained) and resumed is None
    composition = _compose(config, recipe, data, preprocessing, start, teacher, device, pretrained)
    _check_composed(config, recipe, composition)
    if teacher is not None and resumed is None and (network := composition.given_teacher) is not None:
        notes += check_teacher(teacher.label, network, recipe, data, preprocessing, device, config)
    weights = resumed["weights"] if resumed else weights_notes(config, start, composition.head_drawn, data.num_classes)
    notes += [*weights, *composition.notes, *composition_notes(composition), *_size_notes(config, data)]
    return Prepared(config, plugins, recipe, data, preprocessing, augmentation, composition, teacher, device, notes, weights)


def _compose(
    config: Config,
    recipe: Recipe,
    data: Data,
    preprocessing: Preprocessing,
    start: Start,
    teacher: GivenTeacher | None,
    device: torch.device,
    pretrained: bool,
) -> Composition:
    """What `compose` takes, from what has been decided."""
    return compose(
        start.architecture[0],
        recipe,
        num_classes=data.num_classes,
        teacher=teacher.model if teacher else None,
        teacher_norm=teacher.norm if teacher else None,
        teacher_size=teacher.image_size if teacher else None,
        student_norm=(preprocessing.mean, preprocessing.std),
        taps=split_taps(config.taps),
        image_size=preprocessing.image_size,
        in_chans=preprocessing.in_chans,
        seed=config.seed,
        device=device,
        pretrained=pretrained,
        init=start.init,
        backbone_options={**start.architecture[1], "drop_rate": config.drop or None, "drop_path_rate": config.drop_path},
        freeze=config.freeze,
        grad_checkpointing=config.grad_checkpointing,
        labels=data.train.labels,
        epochs=config.epochs,
        batch_size=min(config.batch_size, len(data.train)),
        steps_per_epoch=_steps(config, data),
        num_samples=len(data.train),
        has_dev=data.dev is not None,
        soft_labels=mixes(config),
    )


def _check_composed(config: Config, recipe: Recipe, composition: Composition) -> None:
    """Raises KdError for settings that no part of the composition uses, or that it lacks."""
    if config.teacher and not composition.uses_teacher:
        raise KdError(
            f"--teacher {config.teacher} is used by no part of method '{recipe.name}': add --method kd or --loss kl@teacher, or leave it out "
            '(a part of your own that reads step.teacher says needs = ("teacher",))'
        )
    if not config.pretrained and any(phase.start == "pretrained" for phase in composition.phases) and not config.init:
        name = recipe.parts["schedule"].name if "schedule" in recipe.parts else ""
        timms = "--pretrained, or " if has_weights(backbone_within(composition.student)[0]) else ""
        fresh = f", or -o {name}.start=fresh" if "start" in options_of(target_of(recipe.method.schedule)) and name else ""
        raise KdError(f"{recipe.labels['schedule']} starts from pretrained weights and this run has none: add {timms}--init RUN{fresh}")
    check_settings(config, composition.phases, composition.student)


def _steps(config: Config, data: Data) -> int:
    """Steps of an epoch: whole batches, or one of all images."""
    return max(len(data.train) // config.batch_size, 1)


def _size_notes(config: Config, data: Data) -> list[str]:
    """What is worth saying where there are few images: of the average of the weights, and of the batch."""
    notes, count = [], len(data.train)
    updates = config.epochs * -(-_steps(config, data) // config.grad_accum_steps)
    if config.model_ema and not config.model_ema_warmup and (share := config.model_ema_decay**updates) > 0.1:
        notes.append(
            f"after {updates} updates the average is still {share:.0%} the initial weights: add --model-ema-warmup, or a smaller --model-ema-decay"
        )
    if count < config.batch_size:
        notes.append(f"there are {count} training images, fewer than a batch of {config.batch_size}: the batch shrinks to {count}")
    return notes


def look_up(config: Config, plugins: Plugins, data: Data, resumed: dict[str, Any] | None = None) -> Start:
    """What the backbone's own configuration and its weights decide. A resumed run has decided; its weights lie in its checkpoint."""
    name, options = (resumed.get("architecture", config.model), resumed.get("architecture_options", {})) if resumed else (config.model, {})
    with torch.device("meta"):
        net = create_backbone(name, plugins=plugins, **options)
    if resumed:
        return Start((name, options), preprocessing=preprocessing_of(net))
    start = decide_start(config, net, data)
    check_frozen(config, start)
    return start

"""From settings to everything a run needs, before a folder is made: data, student, teacher, composition."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch

from kdcore.backbones import create_backbone
from kdcore.composition import Composition, compose
from kdcore.config import Config, split_taps
from kdcore.data import Augmentation, Batches, Data, Preprocessing, default_augmentation, default_preprocessing, load_data
from kdcore.errors import DataError, KdError
from kdcore.optimisation import check_settings
from kdcore.options import configured, reconfigure, target_of
from kdcore.plugins import Plugins
from kdcore.precision import pick_device
from kdcore.recipes import Recipe, resolve
from kdcore.tapped import default_size
from kdcore.teachers import GivenTeacher, find_teacher


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
        drop_last=training,
        seed=config.seed,
        device=device,
        workers=config.workers if chosen.images is None else 0,
        channels_last=bool(config.channels_last),
    )


def resolve_recipe(config: Config, plugins: Plugins, *, has_teacher: bool | None = None) -> Recipe:
    """The recipe of a configuration, with `--smoothing` given to every cross entropy that has none of its own."""
    recipe = resolve(
        config.method,
        config.options,
        plugins=plugins,
        exits=config.exits,
        soft_targets=config.soft_targets,
        losses=config.loss,
        schedule=config.schedule,
        has_teacher=config.teacher is not None if has_teacher is None else has_teacher,
    )
    if config.smoothing:
        cross_entropy = plugins.part("losses", "ce").target
        for place, component in recipe.components().items():
            if target_of(component) is cross_entropy and not configured(component)["label_smoothing"]:
                recipe.replace(place, reconfigure(component, {"label_smoothing": config.smoothing}, recipe.labels[place]))
    return recipe


def load_config_data(config: Config) -> Data:
    return load_data(
        config.data,
        seed=config.seed,
        dev_fraction=config.dev_fraction,
        labels_per_class=config.labels_per_class,
        train_limit=config.train_limit,
    )


def prepare(config: Config, plugins: Plugins | None = None) -> Prepared:
    """Checks names first, then data, then builds and runs everything once. Raises KdError, DataError or FileError in one line."""
    plugins = plugins or Plugins(config.plugin)
    if config.warmup_epochs >= config.epochs:
        raise KdError(f"--warmup-epochs {config.warmup_epochs} leaves nothing of --epochs {config.epochs}")
    recipe = resolve_recipe(config, plugins)
    device = pick_device(config.device)
    data = load_config_data(config)
    notes = list(data.notes)
    backbone_facts = look_up(config, plugins, data)
    config = config.model_copy(update=backbone_facts["decisions"])
    size = (config.img_size, config.img_size) if config.img_size else None
    pretrained = bool(config.pretrained)
    norm = backbone_facts["norm"] if pretrained else (None, None)
    preprocessing = default_preprocessing(data, size, *norm)
    if pretrained and data.train.images is None:
        preprocessing = dataclasses.replace(preprocessing, **backbone_facts["photos"])
    augmentation = default_augmentation(data, preprocessing.image_size)
    changes: dict[str, Any] = {name: getattr(config, name) for name in ("crop_pad", "hflip") if getattr(config, name) is not None}
    augmentation = dataclasses.replace(augmentation, **changes)
    teacher = find_teacher(config.teacher, data, preprocessing, device) if config.teacher else None
    steps = max(len(data.train) // config.batch_size, 1)
    composition = compose(
        config.model,
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
        init=read_weights(config.init) if config.init else None,
        backbone_options={"drop_rate": config.drop or None, "drop_path_rate": config.drop_path},
        labels=data.train.labels,
        epochs=config.epochs,
        batch_size=min(config.batch_size, len(data.train)),
        steps_per_epoch=steps,
        num_samples=len(data.train),
        has_dev=data.dev is not None,
    )
    if not pretrained and any(phase.start == "pretrained" for phase in composition.phases) and not config.init:
        raise KdError(f"{recipe.labels['schedule']} starts from pretrained weights and this run has none: add --pretrained or --init FILE")
    check_settings(config, composition.phases)
    updates = config.epochs * max(steps // config.grad_accum_steps, 1)
    if config.model_ema and not config.model_ema_warmup and config.model_ema_decay**updates > 0.1:
        share = config.model_ema_decay**updates
        notes.append(
            f"after {updates} updates the average is still {share:.0%} the initial weights: add --model-ema-warmup, or a smaller --model-ema-decay"
        )
    if len(data.train) < config.batch_size:
        notes.append(
            f"there are {len(data.train)} training images, fewer than a batch of {config.batch_size}: the batch shrinks to {len(data.train)}"
        )
    return Prepared(config, plugins, recipe, data, preprocessing, augmentation, composition, teacher, device, notes)


def look_up(config: Config, plugins: Plugins, data: Data) -> dict[str, Any]:
    """What the backbone's own configuration decides: pretrained weights and their normalisation, and the size of photos."""
    with torch.device("meta"):
        net = create_backbone(config.model, plugins=plugins)
    own = getattr(net, "pretrained_cfg", None) or {}
    photos = data.train.images is None
    has_weights = bool(own.get("url") or own.get("hf_hub_id") or own.get("file"))
    decisions: dict[str, Any] = {}
    if config.pretrained is None:
        decisions["pretrained"] = photos and has_weights and config.init is None
    if config.img_size is None and photos:
        decisions["img_size"] = default_size(net)[0]
    if config.pretrained and not has_weights:
        raise KdError(f"timm has no pretrained weights for '{config.model}': train it with --scratch, or give weights with --init FILE")
    if data.train.images is not None and config.img_size is None and max(data.train.images.shape[2:]) < 8:
        raise DataError(f"the images are {tuple(data.train.images.shape[2:])} pixels: add --img-size 32 to enlarge them")
    photos_as_trained = {name: own[name] for name in ("interpolation", "crop_pct") if own.get(name)}
    return {"decisions": decisions, "norm": (own.get("mean"), own.get("std")), "photos": photos_as_trained}


def read_weights(path: str) -> dict[str, torch.Tensor]:
    """The tensors of a .safetensors file. Nothing else is read: a pickle from a stranger is a program."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from kdcore.errors import FileError

    if not path.endswith(".safetensors"):
        raise KdError(f"--init {path}: only .safetensors files are read")
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise FileError(f"--init {path}: {str(error).splitlines()[0]}") from error

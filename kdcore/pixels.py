"""From a run's settings to what becomes of its images: preprocessing, augmentation, mixing; and back, into the settings that repeat the run."""

import dataclasses
from typing import Any

from kdcore.config import Config
from kdcore.data import Augmentation, Data, Preprocessing, default_augmentation, default_preprocessing
from kdcore.data.mixing import Mixing
from kdcore.data.photos import photo_transform
from kdcore.data.resident import gigabytes, is_resident
from kdcore.data.transforms import INTERPOLATIONS
from kdcore.errors import KdError, nearest

_SAME_NAME = ("crop_pad", "hflip", "vflip", "rotation", "color_jitter", "cutout", "reprob")
_SWITCHES = ("scale", "ratio", *_SAME_NAME, "aa", "mixup", "cutmix")


def check_pixels(config: Config) -> None:
    """Raises KdError, with the flag, for settings of augmentation and preprocessing that no image could have."""
    if config.scale != [0]:
        _check_pair("--scale", config.scale, "a smallest and a largest share of the area, above 0 and at most 1, e.g. --scale 0.35,1", 1.0)
    _check_pair("--ratio", config.ratio, "a smallest and a largest width over height, above 0, e.g. --ratio 0.75,1.33", float("inf"))
    for flag, values, least in (("--mean", config.mean, 0.0), ("--std", config.std, 1e-9)):
        if values is not None and not (len(values) in (1, 3) and all(least <= value <= 1 for value in values)):
            above = "above 0" if least else "from 0"
            raise KdError(
                f"{flag} {_typed(values)}: write one number, or one for each of three channels, {above} to 1, e.g. {flag} 0.5,0.5,0.5"
            )
    if config.interpolation is not None and config.interpolation not in INTERPOLATIONS:
        raise KdError(f"--interpolation {config.interpolation}: there is none of that name{nearest(config.interpolation, INTERPOLATIONS)}")
    if _policy(config):
        photo_transform(Preprocessing((32, 32), (0.5,) * 3, (0.5,) * 3), Augmentation(auto_augment=_policy(config)))
    on = [name for name in _SWITCHES if getattr(config, name) not in (None, 0, [0], "none")]
    if not config.aug and on:
        flags = ", ".join("--" + name.replace("_", "-") for name in on)
        raise KdError(f"--no-aug leaves images as they are, and {flags} would change them: leave out one or the other")


def resolve_preprocessing(config: Config, data: Data, size: tuple[int, int] | None, weights: dict[str, Any]) -> Preprocessing:
    """What the settings ask for; else what the weights were trained with (`weights`: mean, std, interpolation, crop_pct); else the defaults.

    Arrays are resized as a whole, so interpolation and crop_pct of weights are for photos. Raises KdError for a `--crop-pct` of arrays.
    """
    photos = data.train.images is None
    if not photos and config.crop_pct not in (None, 1.0):
        raise KdError(f"--crop-pct {config.crop_pct:g}: the data are arrays, which are resized as a whole; leave it out")
    asked = {name: value for name in ("mean", "std", "interpolation", "crop_pct") if (value := getattr(config, name)) is not None}
    known = {name: value for name, value in weights.items() if photos or name in ("mean", "std")} | asked
    made = default_preprocessing(data, size, known.pop("mean", None), known.pop("std", None))
    return dataclasses.replace(made, **known)


def resolve_augmentation(config: Config, data: Data, preprocessing: Preprocessing) -> Augmentation:
    """The defaults of the data with the settings over them. `--scale` takes the place of a default `--crop-pad`, and the reverse.

    Raises KdError for a `--cutout` that is larger than the images.
    """
    if not config.aug:
        return Augmentation()
    height, width = preprocessing.image_size
    if config.cutout is not None and config.cutout > min(height, width):
        raise KdError(f"--cutout {config.cutout} is larger than the images, which have {height}x{width} pixels: half of a side is usual")
    changes: dict[str, Any] = {name: value for name in _SAME_NAME if (value := getattr(config, name)) is not None}
    if config.aa is not None:
        changes["auto_augment"] = _policy(config)
    if config.ratio is not None:
        changes["ratio"] = tuple(config.ratio)
    if config.scale is not None:
        changes["scale"] = tuple(config.scale) if config.scale != [0] else None
        if changes["scale"]:
            changes.setdefault("crop_pad", 0)
    elif config.crop_pad:
        changes["scale"] = None
    return dataclasses.replace(default_augmentation(data, preprocessing.image_size), **changes)


def mixes(config: Config) -> bool:
    """Whether batches are mixed, so that labels are soft."""
    return (config.mixup > 0 or config.cutmix > 0) and config.mixup_prob > 0


def resolve_mixing(config: Config, num_classes: int) -> Mixing | None:
    if not mixes(config):
        return None
    return Mixing(
        num_classes,
        mixup=config.mixup,
        cutmix=config.cutmix,
        prob=config.mixup_prob,
        switch_prob=config.mixup_switch_prob,
        mode=config.mixup_mode,
        off_epoch=config.mixup_off_epoch,
        seed=config.seed,
    )


def written_down(config: Config, preprocessing: Preprocessing, augmentation: Augmentation) -> dict[str, Any]:
    """The settings that repeat the run, whatever the defaults become."""
    settings: dict[str, Any] = {
        "mean": list(preprocessing.mean),
        "std": list(preprocessing.std),
        "interpolation": preprocessing.interpolation,
        "crop_pct": preprocessing.crop_pct,
    }
    if config.aug:
        settings |= {name: getattr(augmentation, name) for name in _SAME_NAME}
        settings |= {"scale": list(augmentation.scale or [0.0]), "aa": augmentation.auto_augment or "none"}
        if augmentation.scale:
            settings["ratio"] = list(augmentation.ratio)
    return settings


def described(config: Config, augmentation: Augmentation) -> str:
    """What becomes of the training images, in one line: `training images: crop after padding by 4, flip 0.5; cutmix 1`."""
    said = [augmentation.described()]
    if mixes(config):
        mixed = " or ".join(f"{name} {alpha:g}" for name, alpha in (("mixup", config.mixup), ("cutmix", config.cutmix)) if alpha)
        often = f" in {config.mixup_prob:.0%}" if config.mixup_prob < 1 else ""
        said.append(mixed + often + (f" until epoch {config.mixup_off_epoch}" if config.mixup_off_epoch else ""))
    if config.sampler == "balanced":
        said.append("classes equally often")
    return f"training images: {'; '.join(said)}"


def residence(config: Config, data: Data, preprocessing: Preprocessing, augmentation: Augmentation) -> list[str]:
    """A line on the photos that will stay in memory: `images decoded once: 1,234 train, 137 dev (0.2 GB)`; none where there are none."""
    kept = [
        (name, split, gigabytes(split, preprocessing))
        for name, asked in (("train", augmentation), ("dev", None), ("test", None))
        if (split := getattr(data, name)) is not None
        and split.images is None
        and is_resident(split, preprocessing, asked, config.resident_gb)
    ]
    counts = ", ".join(f"{len(split):,} {name}" for name, split, _ in kept)
    size, unit = sum(taken for *_, taken in kept), "GB"
    for smaller in ("MB", "kB"):
        if size < 0.1:
            size, unit = 1000 * size, smaller
    return [f"images decoded once: {counts} ({size:.1f} {unit})"] if kept else []


def unused(config: Config, augmentation: Augmentation) -> list[str]:
    """A line for each setting that was given and does nothing, or more than was meant."""
    notes = []
    if augmentation.color_jitter and not augmentation.jitters:
        notes.append(f"--color-jitter does nothing beside --aa {augmentation.auto_augment}, as in timm")
    if config.ratio is not None and augmentation.scale is None:
        notes.append("--ratio does nothing without --scale")
    about_mixing = ("mixup_prob", "mixup_switch_prob", "mixup_mode", "mixup_off_epoch")
    given = [name for name in about_mixing if getattr(config, name) != Config.model_fields[name].default]
    if given and not (config.mixup or config.cutmix):
        notes.append(f"--{given[0].replace('_', '-')} does nothing without --mixup or --cutmix")
    if config.sampler == "balanced" and config.class_weights == "balanced":
        notes.append("--sampler balanced and --class-weights balanced make up for rare classes twice: one of them is enough")
    return notes


def _policy(config: Config) -> str | None:
    return None if config.aa in (None, "", "none") else config.aa


def _check_pair(flag: str, values: list[float] | None, wanted: str, most: float) -> None:
    if values is not None and not (len(values) == 2 and 0 < values[0] <= values[1] <= most):
        raise KdError(f"{flag} {_typed(values)}: write {wanted}")


def _typed(values: list[float]) -> str:
    return ",".join(f"{value:g}" for value in values)

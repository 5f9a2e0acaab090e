"""What `--teacher` means: a run, an exported student, or a timm backbone whose weights know these classes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from kdcore.backbones import create_backbone, made_for
from kdcore.composition import Norm
from kdcore.data import Data, Preprocessing
from kdcore.errors import DataError, KdError, first_names
from kdcore.plugins import installed
from kdcore.runs import Run


@dataclass
class GivenTeacher:
    """A network to be frozen, with the normalisation and image size that it wants. `label` is how results name it."""

    model: nn.Module
    norm: Norm
    image_size: tuple[int, int]
    label: str


def find_teacher(spec: str, data: Data, preprocessing: Preprocessing, device: torch.device) -> GivenTeacher:
    """A teacher from a run's folder, one of its checkpoints, a `student.safetensors` that kd wrote, or a timm name.

    Raises KdError where its classes are not the data's, in number or in order.
    """
    from kdcore.loading import load_export, load_student

    path = Path(spec)
    if path.is_dir() or path.suffix == ".safetensors":
        if path.is_dir():
            model, about = load_student(path, device=device)
        elif path.suffix == ".safetensors" and (run := run_around(path)) is not None:
            model, about = load_student(run.path, which=run.relative(path.with_suffix("")), device=device)
        else:
            model, about = load_export(path)
        names = about["class_names"]
        if names != data.class_names:
            raise DataError(
                f"the teacher {spec} was trained on other classes ({first_names(names)}) than the data's ({first_names(data.class_names)})"
                f"{_where_they_differ(names, data.class_names)}"
            )
        own = Preprocessing.from_json(about["preprocessing"])
        if own.in_chans != preprocessing.in_chans:
            raise DataError(f"the teacher {spec} takes images of {own.in_chans} channels and the student's have {preprocessing.in_chans}")
        return GivenTeacher(model.to(device), (own.mean, own.std), own.image_size, f"{about['model']} ({spec})")
    looks_like_a_path = path.suffix == ".pth" or spec.startswith((".", "/", "~")) or ("/" in spec and ":" not in spec)
    if looks_like_a_path and spec.partition("/")[0] not in {info.name for info in installed()}:
        raise KdError(f"--teacher {spec}: there is no such run or file; give a run's folder, its student.safetensors, or a timm name")
    try:
        with made_for("meta"):
            own_config = create_backbone(spec).pretrained_cfg or {}
    except KdError as error:
        raise KdError(f"--teacher {spec}: there is no such run or file here, and as a backbone: {error}") from error
    if own_config.get("num_classes") != data.num_classes:
        raise KdError(
            f"--teacher {spec}: timm's weights know {own_config.get('num_classes')} classes and the data has {data.num_classes}; "
            f"train it on this data first (kd train {spec} --data ... --run teacher), then --teacher teacher"
        )
    try:
        net = create_backbone(spec, pretrained=True, in_chans=preprocessing.in_chans)
    except KdError as error:
        raise KdError(
            f"--teacher {spec}: {str(error).partition('; train from scratch')[0]}; give a run that knows these classes, or its student.safetensors"
        ) from error
    norm = (_for_channels(own_config["mean"], preprocessing.in_chans), _for_channels(own_config["std"], preprocessing.in_chans))
    return GivenTeacher(net.to(device), norm, tuple(own_config["input_size"][1:]), spec)


def run_around(checkpoint: Path) -> Run | None:
    """The run whose checkpoint this is (RUN/checkpoints/PHASE/epoch-NNNN.safetensors), or None."""
    above = checkpoint.absolute().parents
    is_one = len(above) > 2 and above[1].name == "checkpoints" and (above[2] / "config.toml").is_file()
    return Run(above[2]) if is_one else None


def _where_they_differ(theirs: Sequence[str], ours: Sequence[str]) -> str:
    """The first class that is another one, which may come after those that a list shows; nothing where the numbers differ."""
    if len(theirs) != len(ours):
        return ""
    first = next(k for k, (their, our) in enumerate(zip(theirs, ours, strict=True)) if their != our)
    order = ", the same in another order" if sorted(theirs) == sorted(ours) else ""
    return f"{order}: class {first} is '{theirs[first]}' there and '{ours[first]}' here"


def _for_channels(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """A mean or deviation for images of other channels than the weights saw, whose first convolution timm has adapted to them."""
    return tuple(values) if len(values) == channels else (sum(values) / len(values),) * channels

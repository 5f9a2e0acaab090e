"""The weights that a run starts from: timm's, another run's or a file's, or none; what comes with them, and what is said about it."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from timm.models import adapt_input_conv, get_model_traits
from torch import Tensor, nn

from kdcore.config import Config
from kdcore.data import Data
from kdcore.errors import DataError, FileError, KdError
from kdcore.tapped import backbone_name, default_size, head_names

PHOTO_SIDE = 64
"""Pixels of the shorter side, as images enter the network, from which timm's weights (of photos) are a better start than none."""


@dataclass
class Initial:
    """Weights given with `--init`. `about` is the `model.json` beside a student that kd wrote, None for another file."""

    path: Path
    tensors: dict[str, Tensor]
    about: dict[str, Any] | None = None


@dataclass
class Start:
    """How a run starts: settings that follow from its weights, and the preprocessing that timm's were trained with.

    `architecture`: a name and options that build the backbone. `init`: tensors to load, without a head that knows other classes. `words` is
    what the run says of its weights.
    """

    architecture: tuple[str, dict[str, Any]]

    decisions: dict[str, Any] = field(default_factory=dict)
    preprocessing: dict[str, Any] = field(default_factory=dict)
    init: dict[str, Tensor] | None = None
    words: str = ""


def read_initial(spec: str) -> Initial:
    """A run's student by its folder, or any .safetensors file. Nothing else is read: a pickle from a stranger is a program."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from kdcore.loading import read_about

    path = Path(spec).expanduser()
    if path.is_dir():
        if not (path / "student.safetensors").is_file():
            raise FileError(f"--init {spec}: there is no student.safetensors in it; give a finished run's folder, or a .safetensors file")
        path = path / "student.safetensors"
    if path.suffix != ".safetensors":
        missing = "" if path.suffix or path.exists() else "there is no such run; "
        raise KdError(f"--init {spec}: {missing}only a run's folder and .safetensors files are read")
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise FileError(f"--init {spec}: {str(error).splitlines()[0]}") from error
    beside = path.with_name("model.json")
    ours = path.name == "student.safetensors" and beside.is_file()
    return Initial(path, tensors, read_about(beside) if ours else None)


def has_weights(net: nn.Module) -> bool:
    """Whether timm has trained weights for a backbone."""
    own = getattr(net, "pretrained_cfg", None) or {}
    return bool(own.get("url") or own.get("hf_hub_id") or own.get("file"))


def decide_start(config: Config, net: nn.Module, data: Data) -> Start:
    """Where the weights come from, and what is taken over with them unless it was typed. net: the backbone on the meta device.

    Raises KdError where there are none to be had, or those given belong to another backbone.
    """
    own = getattr(net, "pretrained_cfg", None) or {}
    start = Start((config.model, {}), preprocessing=preprocessing_of(net))
    if config.init:
        _take_over(start, config, net, data)
    side, images = config.img_size or start.decisions.get("img_size"), data.train.images
    if side is None and images is None:
        side = start.decisions["img_size"] = default_size(net)[0]
    elif side is None and images is not None:
        height, width = images.shape[2:]
        side = min(height, width)
        if max(height, width) < 8:
            raise DataError(f"the images are {(height, width)} pixels: add --img-size 32 to enlarge them")
    if config.init:
        start.decisions["pretrained"] = False
        return start
    if config.pretrained is None:
        start.decisions["pretrained"] = has_weights(net) and side is not None and side >= PHOTO_SIDE
    elif config.pretrained and not has_weights(net):
        raise KdError(f"timm has no pretrained weights for '{config.model}': train it with --scratch, or give weights with --init FILE")
    if start.decisions.get("pretrained", config.pretrained):
        name = config.model if ":" in config.model else "timm's " + ".".join(filter(None, (backbone_name(net), own.get("tag"))))
        start.words = f"weights: {name}" + (" (ImageNet)" if str(own.get("tag", "")).endswith("in1k") else "")
    else:
        start.words = "weights: none, trained from scratch"
        if has_weights(net) and config.pretrained is None:
            start.words += f" (images of {side} pixels; --pretrained starts from timm's all the same)"
    return start


def preprocessing_of(net: nn.Module) -> dict[str, Any]:
    """How timm's weights of a backbone want their images."""
    own = getattr(net, "pretrained_cfg", None) or {}
    return {name: own[name] for name in ("mean", "std", "interpolation", "crop_pct") if own.get(name)}


def _take_over(start: Start, config: Config, net: nn.Module, data: Data) -> None:
    """The weights of `--init`; of a student that kd wrote, also its classes and preprocessing."""
    assert config.init is not None
    initial = read_initial(config.init)
    start.init, about = initial.tensors, initial.about
    start.words = f"weights: {config.init}"
    if about is None:
        return
    theirs = str(about.get("architecture", about["model"])).partition(".")[0]
    if theirs not in (backbone_name(net), config.model.partition(".")[0]):
        raise KdError(f"--init {config.init} holds the weights of '{about['model']}', and this run trains '{config.model}'")
    if about["class_names"] != data.class_names:
        heads = head_names(net)
        start.init = {name: tensor for name, tensor in start.init.items() if not name.startswith(heads)}
    seen = about["preprocessing"]
    height, width = seen["image_size"]
    taken = {"img_size": height if height == width else None, "mean": seen["mean"], "std": seen["std"]}
    taken |= {"interpolation": seen["interpolation"], "crop_pct": seen["crop_pct"] if data.train.images is None else None}
    start.decisions |= {name: value for name, value in taken.items() if value is not None and getattr(config, name) is None}
    start.words += f", with its preprocessing ({config.img_size or height} pixels, its mean and std unless typed)"


def load_initial(net: nn.Module, tensors: Mapping[str, Tensor]) -> list[str]:
    """Loads weights into a backbone by timm's names. Returns the names of the head's that stay as they were drawn.

    Weights for another image size or number of channels are adapted as timm does it (position embeddings, the first convolution). Raises
    KdError where anything but the head is missing or has another shape.
    """
    own = net.state_dict()
    if any(name in own and own[name].shape != tensor.shape for name, tensor in tensors.items()):
        tensors = _adapted(net, tensors)
    usable = {name: tensor for name, tensor in tensors.items() if name in own and own[name].shape == tensor.shape}
    left = [name for name in own if name not in usable and not name.endswith("num_batches_tracked")]
    heads = head_names(net)
    if wrong := [name for name in left if not name.startswith(heads)]:
        raise KdError(f"--init: these are not this backbone's weights: {wrong[0]} is missing or has another shape ({len(wrong)} such)")
    net.load_state_dict(usable, strict=False)
    return left


def _adapted(net: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors through the filter that timm has for this backbone's family, and its first convolutions for other channels."""
    adapted = dict(tensors)
    family_filter = getattr(sys.modules[type(net).__module__], "checkpoint_filter_fn", None)
    if family_filter is not None:
        try:
            adapted = dict(family_filter(adapted, net))
        except Exception:  # weights of something else altogether: what does not fit is named afterwards
            adapted = dict(tensors)
    first = get_model_traits(net).get("first_conv") or (getattr(net, "pretrained_cfg", None) or {}).get("first_conv") or ()
    for name in (first,) if isinstance(first, str) else first:
        weight, key = adapted.get(f"{name}.weight"), f"{name}.weight"
        wanted = net.state_dict().get(key)
        if weight is not None and wanted is not None and weight.ndim == 4 and weight.shape[1] == 3 != wanted.shape[1]:
            adapted[key] = adapt_input_conv(wanted.shape[1], weight)
    return adapted


def check_frozen(config: Config, start: Start) -> None:
    """Raises KdError where `--freeze` would keep random weights."""
    if config.freeze and start.init is None and not start.decisions.get("pretrained", config.pretrained):
        raise KdError(
            f"--freeze keeps the backbone's weights, and this run has none: give trained ones with --init RUN, or timm's with --pretrained "
            f"(first: kd train {config.model} --data {config.data} --method plain --run RUN)"
        )


def weights_notes(config: Config, start: Start, head_drawn: bool, classes: int) -> list[str]:
    """What the run says of its weights. head_drawn: its own head was drawn at random."""
    if start.words.startswith("weights: none"):
        return [start.words]
    notes = [f"{start.words}, head drawn anew for {classes} classes" if head_drawn else f"{start.words}, head included"]
    if config.freeze and head_drawn:
        notes.append("the last exit's head is random and stays so under --freeze: give a trained one with --init RUN/student.safetensors")
    return notes


def head_is_drawn(net: nn.Module, num_classes: int | None) -> bool:
    """Whether timm drew the head of a backbone with pretrained weights anew, as they know another number of classes."""
    return (getattr(net, "pretrained_cfg", None) or {}).get("num_classes") != num_classes

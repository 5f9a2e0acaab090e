"""Checkpoints of RepDistiller's (HobbitLong/RepDistiller, and the repositories that took over its models) under this package's names.

`python -m kdcore_cifar resnet32x4 ckpt_epoch_240.pth teachers/resnet32x4/student.safetensors` writes the weights, and beside them the
`model.json` that `--teacher` reads.
"""

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from kdcore.errors import FileError, KdError, nearest
from kdcore.files import file_errors, write_bytes, write_json
from kdcore_cifar.networks import MEAN, NETWORKS, STD, build

THEIRS = {
    "ResNet18": "resnet18",
    "ResNet34": "resnet34",
    "ResNet50": "resnet50",
    "ResNet101": "resnet101",
    "ResNet152": "resnet152",
    "MobileNetV2": "mobile_half",
    "ShuffleV1": "shufflenetv1",
    "ShuffleV2": "shufflenetv2",
}
"""RepDistiller's `--model` where it is not our name."""

RENAMED = {
    "resnet": ((r"\.shortcut\.", ".downsample."), (r"^linear\.", "fc.")),
    "wrn": ((r"^(block\d)\.layer\.", r"\1."), (r"\.convShortcut\.", ".shortcut.")),
    "vgg": ((r"^classifier\.", "fc."),),
    "mobile": ((r"^classifier\.0\.", "fc."),),
    "shufflenetv": ((r"^linear\.", "fc."),),
}
"""By the beginning of our name of a network: what of theirs becomes what."""


def our_name(network: str) -> str:
    """Our name of a network that may be called by RepDistiller's. Raises KdError for one whose checkpoints are not read."""
    name = THEIRS.get(network, network)
    if name not in NETWORKS or not name.startswith(tuple(RENAMED)) or name.startswith("resnext"):
        known = [known for known in NETWORKS if known.startswith(tuple(RENAMED)) and not known.startswith("resnext")]
        raise KdError(f"there is no network '{network}' of RepDistiller's here{nearest(network, [*known, *THEIRS])}")
    return name


def renamed(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """RepDistiller's tensors under our names of them. name: ours, of the network. A `module.` of DataParallel's goes."""
    rules = next(rules for start, rules in RENAMED.items() if name.startswith(start))
    ours = {}
    for key, tensor in tensors.items():
        key = key.removeprefix("module.")
        for pattern, replacement in rules:
            key = re.sub(pattern, replacement, key)
        ours[key] = tensor
    return ours


def convert(network: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of RepDistiller's as one that our network of this name loads, strictly. Its head says the number of classes.

    Counters of batches, which old versions of torch did not keep, are put in as 0. Raises KdError where a tensor is missing, has another
    shape, or belongs to something else.
    """
    name = our_name(network)
    ours = {key: tensor.contiguous() for key, tensor in renamed(name, tensors).items()}
    wrong = f"these are not the weights of RepDistiller's '{network}'"
    if "fc.weight" not in ours:
        raise KdError(f"{wrong}: they have no classifier; there is {', '.join(list(tensors)[:3])} and so on")
    with torch.device("meta"):
        wanted = build(name, num_classes=len(ours["fc.weight"])).state_dict()
    for key in wanted:
        if key.endswith("num_batches_tracked"):
            ours.setdefault(key, torch.zeros((), dtype=torch.long))
    misfits = [key for key in wanted if key not in ours or ours[key].shape != wanted[key].shape]
    if misfits or len(ours) > len(wanted):
        key = misfits[0] if misfits else next(key for key in ours if key not in wanted)
        found = f"{list(ours[key].shape)}" if key in ours else "nothing"
        expected = f"{list(wanted[key].shape)}" if key in wanted else "nothing"
        raise KdError(f"{wrong}: for {key} there is {found}, and the network wants {expected}")
    return {key: ours[key] for key in wanted}


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """The state dict of a `.pth` file: of RepDistiller's `{"model": ..., "epoch": ...}`, or the file's own. Only tensors and plain values are
    unpickled. Raises FileError."""
    with file_errors(path, "read"):
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise FileError(
                f"{path} is no checkpoint of tensors and plain values, and nothing else is unpickled: {reason[:160]}"
            ) from error
    found = next((content[key] for key in ("model", "state_dict") if isinstance(content, dict) and key in content), content)
    if not isinstance(found, dict) or not found or not all(isinstance(tensor, Tensor) for tensor in found.values()):
        raise FileError(f"{path} holds no state dict: RepDistiller's have one under 'model'")
    return found


def write(network: str, tensors: Mapping[str, Tensor], out: str | Path, classes: list[str] | None) -> list[Path]:
    """Writes converted tensors as `out`, and `model.json` beside it where the classes are known: `--teacher` wants both, `--init` the first.

    Raises KdError where `out` is no .safetensors file, or the number of classes is another; FileError where it cannot be written.
    """
    out, name = Path(out), our_name(network)
    if out.suffix != ".safetensors":
        raise KdError(f"{out}: weights are written as .safetensors; write {out / 'student.safetensors'}")
    if out.with_name("model.json").exists():
        raise FileError(f"{out.with_name('model.json')} is there already, and says what another student is: write into a folder of its own")
    count = len(tensors["fc.weight"])
    if classes is not None and len(classes) != count:
        raise KdError(f"the weights know {count} classes, and {len(classes)} names were given")
    written = [out]
    write_bytes(out, save(dict(tensors)))
    if classes is not None:
        written.append(out.with_name("model.json"))
        write_json(written[-1], about(name, classes))
    return written


def about(name: str, classes: list[str]) -> dict[str, Any]:
    """What kd writes beside a student: the model, its classes, and how RepDistiller prepared CIFAR-100's images."""
    preprocessing = {
        "image_size": [32, 32],
        "mean": list(MEAN),
        "std": list(STD),
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "in_chans": 3,
    }
    return {"model": f"cifar/{name}", "num_classes": len(classes), "class_names": classes, "preprocessing": preprocessing}

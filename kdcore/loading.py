"""Finished runs back in memory: the whole student, one exit of it, or the exported timm model.

Each carries the run's preprocessing and class names where timm looks for them, in `pretrained_cfg`:
`timm.data.create_transform(**timm.data.resolve_model_data_config(model))` is the run's own evaluation transform.
"""

import os
import shutil
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from kdcore.backbones import create_backbone, needs_size
from kdcore.checkpoints import load_tensors, restore
from kdcore.config import Config, read_config, split_taps
from kdcore.errors import FileError, KdError
from kdcore.files import file_errors, read_json, remove_quietly, write_json
from kdcore.plugins import Plugins
from kdcore.runs import Run
from kdcore.students import Students


def read_run_config(run: Run) -> Config:
    return read_config(run.config())


def load_student(path: str | Path, *, which: str = "delivered", device: torch.device | str = "cpu") -> tuple[nn.Module, dict[str, Any]]:
    """The student of a run with all its exits, in eval mode, and what `model.json` says of it.

    which: "delivered" (what the run chose), "last", "best", or a checkpoint's path relative to the run. Raises FileError where the run has
    not got that far; "last" and "best" are there from the first epoch on.
    """
    run = Run.open(path)
    about = read_about(run.path / "model.json")
    if which in ("delivered", "last", "best"):
        which = checkpoint_of(run, which)
    student = build_student(read_run_config(run), about)
    tensors, _ = load_tensors(run.absolute(which))
    kept = {name.removeprefix("student."): tensor for name, tensor in student_tensors(tensors).items()}
    restore(student, kept, who=f"{run.path}/{which}")
    return described(student.to(device).eval(), about), about


def checkpoint_of(run: Run, which: str) -> str:
    """The path, relative to the run, of its "delivered", "last" or "best" checkpoint. Raises FileError where there is none yet."""
    results = run.results()
    if results is not None:
        return results["checkpoints"][which]
    if which == "delivered":
        raise FileError(f"{run.path} is not finished; continue it with kd train --run {run.path} --resume")
    from kdcore.phase_run import newest

    folders = sorted((folder for folder in (run.path / "checkpoints").glob("*") if folder.is_dir()), reverse=True)
    last = next((found for folder in folders if (found := newest(folder))), None)
    if last is None:
        raise FileError(
            f"{run.path} has no checkpoint yet: its first epoch did not end; continue it with kd train --run {run.path} --resume"
        )
    return run.relative(last) if which == "last" else load_tensors(last)[1]["best_checkpoint"]


def described(net: nn.Module, about: dict[str, Any]) -> nn.Module:
    """The network with the run's preprocessing and class names as its `pretrained_cfg`, in timm's own words."""
    config: Any = {**(getattr(net, "pretrained_cfg", None) or {}), **timm_config(about)}
    for stale in ("url", "hf_hub_id", "hf_hub_filename", "file", "source", "tag", "test_input_size", "test_crop_pct", "label_descriptions"):
        config.pop(stale, None)  # they speak of the weights that the run began with
    net.pretrained_cfg = net.default_cfg = config
    return net


def timm_config(about: dict[str, Any]) -> dict[str, Any]:
    """What `model.json` says of images and classes, as timm's `PretrainedCfg` spells it."""
    preprocessing = about["preprocessing"]
    return {
        "input_size": (preprocessing["in_chans"], *preprocessing["image_size"]),
        "mean": tuple(preprocessing["mean"]),
        "std": tuple(preprocessing["std"]),
        "interpolation": preprocessing["interpolation"],
        "crop_pct": preprocessing["crop_pct"],
        "crop_mode": "center",
        "num_classes": about["num_classes"],
        "label_names": tuple(about["class_names"]),
    }


def student_tensors(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The student's part of a checkpoint: the averaged weights where the run kept an average."""
    averaged = {name.removeprefix("ema."): tensor for name, tensor in tensors.items() if name.startswith("ema.student.")}
    return averaged or {name: tensor for name, tensor in tensors.items() if name.startswith("student.")}


def build_student(config: Config, about: dict[str, Any]) -> nn.Module:
    """A student of a run's architecture, without its weights."""
    from kdcore.preparing import resolve_recipe

    plugins = Plugins(config.plugin)
    recipe = resolve_recipe(config, plugins, has_teacher=True)
    name, options = architecture(about)
    students = Students(
        recipe,
        name,
        backbone_options=options,
        num_classes=about["num_classes"],
        in_chans=about["preprocessing"]["in_chans"],
        image_size=tuple(about["preprocessing"]["image_size"]),
        taps=split_taps(config.taps),
        seed=config.seed,
    )
    return students.first()


def load(path: str | Path, exit: int | None = None, *, device: torch.device | str = "cpu") -> nn.Module:
    """A finished run's model in eval mode: with all exits (images -> Outputs), or one of them alone (images -> logits [B, K]).

    exit: from 1 (shallowest); -1 is the deepest, an ordinary timm model.
    """
    student, about = load_student(path, device=device)
    return student if exit is None else described(student.strip(exit).eval(), about)


def read_about(path: Path) -> dict[str, Any]:
    """A `model.json`. Raises FileError where it is missing, damaged, or not one of kd's."""
    about = read_json(path)
    missing = [key for key in ("model", "num_classes", "class_names", "preprocessing") if key not in about]
    if missing:
        raise FileError(f"{path} is not what kd writes: it lacks '{missing[0]}'")
    return about


def architecture(about: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The name and options that build a run's backbone without a hub: its model's own name, or what an `hf-hub:` or `local-dir:` name stood for."""
    return about.get("architecture", about["model"]), about.get("architecture_options", {})


def load_export(path: str | Path) -> tuple[nn.Module, dict[str, Any]]:
    """The timm model of a `student.safetensors`, by the `model.json` beside it."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(path)
    beside = path.with_name("model.json")
    if not path.is_file() or not beside.is_file():
        raise FileError(f"{path}: a student.safetensors with its model.json beside it is needed")
    about = read_about(beside)
    size = tuple(about["preprocessing"]["image_size"])
    name, options = architecture(about)
    net = create_backbone(name, num_classes=about["num_classes"], in_chans=about["preprocessing"]["in_chans"], img_size=size, **options)
    try:
        net.load_state_dict(load_file(path))
    except SafetensorError as error:
        raise FileError(f"{path} is damaged: {str(error).splitlines()[0]}") from error
    except RuntimeError as error:
        raise KdError(f"{path} does not hold the weights of {about['model']}: {str(error).splitlines()[-1].strip()}") from error
    return described(net.eval(), about), about


# -- for timm alone ---------------------------------------------------------------------------------------------------------
def from_plugin(about: dict[str, Any]) -> bool:
    """Whether the backbone is a plugin's (`cifar/resnet20`), which timm does not know by this name, nor build."""
    name = architecture(about)[0]
    return "/" in name and ":" not in name


def model_args(about: dict[str, Any]) -> dict[str, Any]:
    """What `timm.create_model` has to be told beside the name: the classes, and channels and size where they are not the backbone's own."""
    preprocessing = about["preprocessing"]
    name, own = architecture(about)
    options: dict[str, Any] = {**own, "num_classes": about["num_classes"]}
    if preprocessing["in_chans"] != 3:
        options["in_chans"] = preprocessing["in_chans"]
    if needs_size(name, tuple(preprocessing["image_size"]), in_chans=preprocessing["in_chans"]):
        options["img_size"] = tuple(preprocessing["image_size"])
    return options


def timm_line(about: dict[str, Any], weights: str | Path) -> str:
    """The line of Python that makes the final student of its `student.safetensors`, without kdcore where timm alone can."""
    weights, name = Path(weights), architecture(about)[0]
    if from_plugin(about):
        return f"import kdcore; model = kdcore.load({weights.parent.as_posix()!r}, exit=-1)"
    options = "".join(f", {key}={value!r}" for key, value in model_args(about).items())
    more = ", kdcore.backbones" if name.endswith("_32px") else ""
    return f"import timm{more}; model = timm.create_model({name!r}, checkpoint_path={weights.as_posix()!r}{options})"


def write_timm_folder(weights: Path, net: nn.Module, about: dict[str, Any]) -> Path | None:
    """`timm/` beside the exported weights, so that `timm.create_model("local-dir:RUN/timm", pretrained=True)` has classes and normalisation too.

    The weights are linked where the disk can, else copied. Returns None, and writes nothing, for a network that timm does not know.
    """
    name = (getattr(net, "pretrained_cfg", None) or {}).get("architecture")
    if not name or not timm.is_model(name) or from_plugin(about):
        return None
    folder = weights.with_name("timm")
    config = {key: value for key, value in described(net, about).pretrained_cfg.items() if key != "architecture"}
    labels = config.pop("label_names")
    answer = {
        "architecture": name,
        "num_classes": about["num_classes"],
        "num_features": int(net.num_features),
        "label_names": labels,
    }
    write_json(folder / "config.json", {**answer, "model_args": model_args(about), "pretrained_cfg": config})
    temporary = folder / ".model.safetensors.tmp"
    with file_errors(folder / "model.safetensors", "write"):
        try:
            remove_quietly(temporary)
            try:
                os.link(weights, temporary)
            except OSError:  # a disk, or a system, without links
                shutil.copyfile(weights, temporary)
            os.replace(temporary, folder / "model.safetensors")
        finally:
            remove_quietly(temporary)
    return folder

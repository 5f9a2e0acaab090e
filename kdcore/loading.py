"""Finished runs back in memory: the whole student, one exit of it, or the exported timm model."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdcore.checkpoints import load_tensors, restore
from kdcore.config import Config, read_config, split_taps
from kdcore.errors import FileError, KdError
from kdcore.files import read_json
from kdcore.plugins import Plugins
from kdcore.runs import Run
from kdcore.students import Students


def read_run_config(run: Run) -> Config:
    return read_config(run.config())


def load_student(path: str | Path, *, which: str = "delivered", device: torch.device | str = "cpu") -> tuple[nn.Module, dict[str, Any]]:
    """The student of a run with all its exits, in eval mode, and what `model.json` says of it.

    which: "delivered" (what the run chose), "last", "best", or a checkpoint's path relative to the run. Raises FileError where the run has
    not got that far.
    """
    run = Run.open(path)
    about = read_about(run.path / "model.json")
    results = run.results()
    if which in ("delivered", "last", "best"):
        if results is None:
            raise FileError(f"{run.path} is not finished; continue it with kd train --run {run.path} --resume")
        which = results["checkpoints"][which]
    student = build_student(read_run_config(run), about)
    tensors, _ = load_tensors(run.absolute(which))
    kept = {name.removeprefix("student."): tensor for name, tensor in student_tensors(tensors).items()}
    restore(student, kept, who=f"{run.path}/{which}")
    return student.to(device).eval(), about


def student_tensors(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The student's part of a checkpoint: the averaged weights where the run kept an average."""
    averaged = {name.removeprefix("ema."): tensor for name, tensor in tensors.items() if name.startswith("ema.student.")}
    return averaged or {name: tensor for name, tensor in tensors.items() if name.startswith("student.")}


def build_student(config: Config, about: dict[str, Any]) -> nn.Module:
    """A student of a run's architecture, without its weights."""
    from kdcore.preparing import resolve_recipe

    plugins = Plugins(config.plugin)
    recipe = resolve_recipe(config, plugins, has_teacher=True)
    students = Students(
        recipe,
        config.model,
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
    student, _ = load_student(path, device=device)
    return student if exit is None else student.strip(exit).eval()


def read_about(path: Path) -> dict[str, Any]:
    """A `model.json`. Raises FileError where it is missing, damaged, or not one of kd's."""
    about = read_json(path)
    missing = [key for key in ("model", "num_classes", "class_names", "preprocessing") if key not in about]
    if missing:
        raise FileError(f"{path} is not what kd writes: it lacks '{missing[0]}'")
    return about


def load_export(path: str | Path) -> tuple[nn.Module, dict[str, Any]]:
    """The timm model of a `student.safetensors`, by the `model.json` beside it."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from kdcore.backbones import create_backbone

    path = Path(path)
    beside = path.with_name("model.json")
    if not path.is_file() or not beside.is_file():
        raise FileError(f"{path}: a student.safetensors with its model.json beside it is needed")
    about = read_about(beside)
    size = tuple(about["preprocessing"]["image_size"])
    net = create_backbone(about["model"], num_classes=about["num_classes"], in_chans=about["preprocessing"]["in_chans"], img_size=size)
    try:
        net.load_state_dict(load_file(path))
    except SafetensorError as error:
        raise FileError(f"{path} is damaged: {str(error).splitlines()[0]}") from error
    except RuntimeError as error:
        raise KdError(f"{path} does not hold the weights of {about['model']}: {str(error).splitlines()[-1].strip()}") from error
    return net.eval(), about

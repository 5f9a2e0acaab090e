"""Checkpoints as safetensors with JSON beside them, written whole or not at all. Nothing is unpickled.

A checkpoint `last` is `last.safetensors` and `last.json`. The JSON is written last and says which tensors it belongs to: until then the
tensors of the checkpoint before lie beside it as `last.former.safetensors`, so that whoever dies between the two has lost nothing.
"""

import os
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcore.errors import FileError, KdError
from kdcore.files import file_errors, json_text, read_json, remove_quietly, write_json

if TYPE_CHECKING:
    from torch import Tensor, nn


def save_tensors(path: str | Path, tensors: Mapping[str, "Tensor"], about: dict[str, Any]) -> None:
    """`<path>.safetensors`, then `<path>.json` as {"tensors": {"file", "bytes", "mark"}, "about": about}, in place of those that were there.

    `path` with or without one of the suffixes. `about` is made of JSON values, with strings as keys. Raises FileError; whatever happens,
    `load_tensors` gives either the former checkpoint or this one.
    """
    target, beside, former = _files(path)
    mark = blake2b(json_text(beside, about).encode(), digest_size=8).hexdigest()  # which JSON these tensors belong to
    temporary = target.with_name(f".{target.name}.tmp")
    with file_errors(target, "write"):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            size = _write(temporary, tensors, {"format": "pt", "kdcore": mark})
            if _committed(path) == target:
                os.replace(target, former)
            os.replace(temporary, target)
        finally:
            remove_quietly(temporary)
    write_json(beside, {"tensors": {"file": target.name, "bytes": size, "mark": mark}, "about": about})
    remove_quietly(former)


def export_tensors(path: str | Path, tensors: Mapping[str, "Tensor"]) -> None:
    """One .safetensors file as timm reads it, every name there, complete or not at all. Raises FileError."""
    target = Path(path)
    temporary = target.with_name(f".{target.name}.tmp")
    with file_errors(target, "write"):
        try:
            _write(temporary, tensors, {"format": "pt"})
            os.replace(temporary, target)
        finally:
            remove_quietly(temporary)


def _write(file: Path, tensors: Mapping[str, "Tensor"], metadata: dict[str, str]) -> int:
    """Writes tensors through to the disk. Returns the file's size in bytes."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    file.touch()
    mode = file.stat().st_mode
    try:
        save_file(_separate(tensors), file, metadata=metadata)
    except SafetensorError as error:
        raise FileError(f"cannot write {file}: {_line(error)}") from error
    file.chmod(mode)  # safetensors makes files that nobody else may read
    with open(file, "rb+") as opened:
        os.fsync(opened.fileno())
    return file.stat().st_size


def load_tensors(path: str | Path) -> tuple[dict[str, "Tensor"], dict[str, Any]]:
    """The tensors, on the CPU, and `about`. Raises FileError where the checkpoint is missing or its two files do not belong together."""
    from safetensors import SafetensorError, safe_open

    target, beside, _ = _files(path)
    if not beside.exists():
        raise FileError(f"there is no checkpoint {target.with_suffix('')}: {beside} does not exist")
    about = read_json(beside)
    file = _committed(path)
    if file is None:
        raise FileError(
            f"the checkpoint {target.with_suffix('')} is damaged: {target.name} is missing, cut off or not the one of {beside.name}"
        )
    try:
        with file_errors(file, "read"), safe_open(file, framework="pt") as opened:
            return {name: opened.get_tensor(name).clone() for name in list(opened.keys())}, about["about"]
    except SafetensorError as error:
        raise FileError(f"the checkpoint {file} is damaged: {_line(error)}") from error


def state_of(module: "nn.Module") -> dict[str, "Tensor"]:
    """A copy of the state, contiguous and on the CPU; what several names share stands under the first of them only."""
    own = _tensors_of(module)
    first = _first_names(own)
    return {name: own_copy(tensor) for name, tensor in own.items() if first[name] == name}


def restore(module: "nn.Module", tensors: Mapping[str, "Tensor"], *, strict: bool = True, who: str = "checkpoint") -> None:
    """Puts back what `state_of` gave, in place; nothing is changed unless all of it fits.

    A name that shares its tensor with another may be missing. `strict=False` allows missing and unexpected names, not other shapes.
    Raises KdError that names the first tensor which is missing, unexpected or of another shape; `who` is how the line calls the source.
    """
    from torch.nn.parameter import is_lazy

    own = _tensors_of(module)
    first = _first_names(own)
    known = {first[name]: tensors[name] for name in reversed(own) if name in tensors}
    missing = [name for name in own if first[name] not in known]
    unexpected = [name for name in tensors if name not in own]
    if strict and missing:
        raise KdError(f"{who} lacks {_several(missing)}, which this model has")
    if strict and unexpected:
        raise KdError(f"{who} has {_several(unexpected)}, which this model lacks")
    for name, tensor in own.items():
        saved = tensors.get(name, known.get(first[name]))
        if saved is not None and not is_lazy(tensor) and saved.shape != tensor.shape:
            raise KdError(f"{who}: '{name}' is {list(saved.shape)} in the checkpoint and {list(tensor.shape)} here")
    filled = {name: tensors.get(name, known.get(first[name])) for name in own if first[name] in known}
    module.load_state_dict(filled, strict=False)


def _tensors_of(module: "nn.Module") -> dict[str, "Tensor"]:
    from torch import Tensor

    state = module.state_dict(keep_vars=True)
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise KdError(f"'{name}' of the model's state cannot be saved: it is no tensor but of type {type(value).__name__}")
    return dict(state)


def _first_names(state: Mapping[str, "Tensor"]) -> dict[str, str]:
    """For each name, the first of those that have the same tensor, or the same view of the same memory."""
    from torch.nn.parameter import is_lazy

    seen: dict[Any, str] = {}
    names = {}
    for name, tensor in state.items():
        memory = None if is_lazy(tensor) or not tensor.numel() else (tensor.device, tensor.data_ptr())
        place = (memory, tensor.dtype, tensor.shape, tensor.stride()) if memory and memory[1] else id(tensor)
        names[name] = seen.setdefault(place, name)
    return names


def own_copy(tensor: "Tensor") -> "Tensor":
    """A contiguous copy on the CPU, detached."""
    from torch import empty

    return empty(tensor.shape, dtype=tensor.dtype).copy_(tensor.detach())


def _separate(tensors: Mapping[str, "Tensor"]) -> dict[str, "Tensor"]:
    """As safetensors takes them: on the CPU, contiguous, no two in one piece of memory."""
    separate, seen = {}, set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        memory = tensor.untyped_storage()
        separate[name] = tensor.clone() if memory.data_ptr() in seen or memory.nbytes() != tensor.nbytes else tensor
        seen.add(memory.data_ptr())
    return separate


def _files(path: str | Path) -> tuple[Path, Path, Path]:
    """The tensors, the JSON, and where the tensors of the checkpoint before lie while a new one is written."""
    base = str(path).removesuffix(".safetensors").removesuffix(".json")
    return Path(f"{base}.safetensors"), Path(f"{base}.json"), Path(f"{base}.former.safetensors")


def _committed(path: str | Path) -> Path | None:
    """The file of tensors that the JSON speaks of, by its size and by the mark in its header; None where there is none."""
    from safetensors import SafetensorError, safe_open

    target, beside, former = _files(path)
    try:
        said = read_json(beside)["tensors"]
        for file in (target, former):
            if file.is_file() and file.stat().st_size == said["bytes"]:
                with safe_open(file, framework="pt") as opened:
                    if (opened.metadata() or {}).get("kdcore") == said["mark"]:
                        return file
    except (FileError, OSError, SafetensorError, KeyError, TypeError):
        pass
    return None


def _several(names: list[str]) -> str:
    return f"'{names[0]}'" + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]

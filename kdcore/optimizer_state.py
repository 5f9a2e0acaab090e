"""The whole state of an optimiser as tensors by name and JSON values, so that training goes on bit for bit."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kdcore.checkpoints import own_copy
from kdcore.errors import KdError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer


def optimizer_tensors(optimizer: "Optimizer") -> tuple[dict[str, "Tensor"], dict[str, Any]]:
    """The optimiser's whole state: tensors by names such as "3.momentum_buffer", and all else as JSON values. Raises KdError for a value
    that neither can hold."""
    tensors: dict[str, Tensor] = {}
    state = optimizer.state_dict()
    about = {"state": [[key, _pack(value, str(key), tensors)] for key, value in state["state"].items()]}
    about["param_groups"] = [_pack(group, f"group{k}", tensors) for k, group in enumerate(state["param_groups"])]
    return tensors, about


def restore_optimizer(optimizer: "Optimizer", tensors: Mapping[str, "Tensor"], about: Mapping[str, Any]) -> None:
    """Puts back what `optimizer_tensors` gave, so that training goes on bit for bit. Raises KdError where the parameters are others."""
    from torch import Tensor, empty_like

    state = {number: _unpack(values, tensors) for number, values in about["state"]}
    groups = [_unpack(group, tensors) for group in about["param_groups"]]
    there, here = ([len(group["params"]) for group in some] for some in (groups, optimizer.param_groups))
    if here != there:
        raise KdError(f"the optimiser's groups have {there} parameters in the checkpoint and {here} here")
    for group, now in zip(groups, optimizer.param_groups, strict=True):
        for key, value in group.items():
            if isinstance(value, Tensor) and isinstance(now.get(key), Tensor):
                group[key] = value.to(now[key].device)
        for number, parameter in zip(group["params"], now["params"], strict=True):
            for key, value in state.get(number, {}).items():
                if isinstance(value, Tensor) and value.ndim > 1 and value.shape == parameter.shape:
                    # laid out like the parameter, as the optimiser made it: a norm sums in the order of memory
                    state[number][key] = empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    for number, values in optimizer.state_dict()["state"].items():  # torch casts to the parameter's dtype, and breaks strings
        for key, value in state[number].items():
            if not isinstance(value, Tensor):
                values[key] = value
            elif value.dtype != values[key].dtype:
                values[key] = value.to(values[key].device)


def _pack(value: Any, name: str, tensors: dict[str, "Tensor"]) -> Any:
    """A JSON value that `_unpack` turns into the same again; tensors are put aside under names that begin with `name`."""
    from torch import Tensor

    if isinstance(value, Tensor):
        tensors[name] = own_copy(value)
        return {"tensor": name}
    if isinstance(value, list | tuple):
        items = [_pack(item, f"{name}.{k}", tensors) for k, item in enumerate(value)]
        return {"tuple": items} if isinstance(value, tuple) else items
    if isinstance(value, dict):
        return {"dict": [[key, _pack(item, f"{name}.{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if hasattr(value, "item"):
        return _pack(value.item(), name, tensors)
    raise KdError(f"the optimiser's '{name}' cannot be saved: it is of type {type(value).__name__}")


def _unpack(value: Any, tensors: Mapping[str, "Tensor"]) -> Any:
    if isinstance(value, list):
        return [_unpack(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        if content not in tensors:
            raise KdError(f"the checkpoint lacks the optimiser's '{content}'")
        return tensors[content].clone()
    if kind == "float":
        return float(content)
    return tuple(_unpack(content, tensors)) if kind == "tuple" else {key: _unpack(item, tensors) for key, item in content}

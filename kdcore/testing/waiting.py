"""Sees where a step waits for the device: `.item()`, `float(tensor)`, a copy to the host, an operation whose shape depends on values."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

WAITING = {"_local_scalar_dense", "item", "nonzero", "masked_select", "equal", "is_nonzero", "_unique2", "bincount"}
"""Operations of aten that must know a value on the host; all others leave it on the device."""

READING = {"item", "tolist", "cpu", "numpy", "__float__", "__int__", "__bool__", "__index__", "__array__"}
"""Methods of a tensor that do."""


class Waits(AssertionError):
    """A step that must not wait does."""


class NoOperation(TorchDispatchMode):
    """Refuses operations that would make the host wait on a GPU. On a CPU nothing waits, so this is how it is seen there."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket._qualified_op_name.removeprefix("aten::")
        masked = name in ("index", "index_put_") and any(entry is not None and entry.dtype == torch.bool for entry in args[1])
        if masked or name in WAITING:
            raise Waits(f"the step waits for the device: {name}")
        return function(*args, **(kwargs or {}))


class NoReading(TorchFunctionMode):
    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(function, "__name__", "")
        if function is torch.nn.functional.one_hot and _classes(*args, **(kwargs or {})) > 0:
            return _one_hot(*args, **(kwargs or {}))  # which looks at the labels on a CPU alone
        if name in READING:
            raise Waits(f"the step waits for the device: {name}")
        return function(*args, **(kwargs or {}))


def _classes(labels: Tensor, num_classes: int = -1) -> int:
    return num_classes


def _one_hot(labels: Tensor, num_classes: int = -1) -> Tensor:
    return labels.new_zeros(*labels.shape, num_classes).scatter_(-1, labels.unsqueeze(-1), 1)


@contextmanager
def no_waiting(cuda: bool = False) -> Iterator[None]:
    """Raises Waits within, where the host would wait for a value. cuda: CUDA's own mode is asked as well."""
    if cuda:
        torch.cuda.set_sync_debug_mode("error")
    try:
        with NoOperation(), NoReading():
            yield
    finally:
        if cuda:
            torch.cuda.set_sync_debug_mode("default")

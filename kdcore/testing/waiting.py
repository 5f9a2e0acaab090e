"""Sees where a step waits for the device: `.item()`, `float(tensor)`, a copy to the host, an operation whose shape depends on values."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

WAITING = {
    *("_local_scalar_dense", "item", "equal", "is_nonzero", "allclose"),
    *("nonzero", "masked_select", "bincount", "_unique", "_unique2", "unique_consecutive", "unique_dim", "unique_dim_consecutive"),
    *("_linalg_check_errors", "_linalg_eigh", "_linalg_svd", "linalg_eig", "linalg_pinv"),  # whether it went well is read on the host
}
"""Operations of aten whose kernels for a GPU read a value on the host, or a shape that depends on values."""

INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"}
"""Operations that do where an index is a mask, of bool or of uint8."""

READING = {"item", "tolist", "cpu", "numpy", "__float__", "__int__", "__bool__", "__index__", "__array__", "__repr__"}
"""Methods of a tensor that do."""

FROM_THE_HOST = {"tensor", "as_tensor", "new_tensor"}
"""Functions that copy what lies on the host, and wait until it is there."""


class Waits(AssertionError):
    """A step that must not wait does."""


class NoOperation(TorchDispatchMode):
    """Refuses operations that would make the host wait on a GPU. On a CPU nothing waits, so this is how it is seen there.

    What it cannot see: a copy to a device that is no more than a value, as in `x.to(place)`, which is a copy to itself on a CPU. Where there
    is a GPU, `no_waiting(cuda=True)` sees that too.
    """

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket._qualified_op_name.removeprefix("aten::")
        if name in WAITING or _by_its_arguments(name, args, kwargs or {}):
            raise Waits(f"the step waits for the device: {name}")
        return function(*args, **(kwargs or {}))


class NoReading(TorchFunctionMode):
    """Refuses what never becomes an operation of aten on a CPU."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = getattr(function, "__name__", ""), kwargs or {}
        if function is torch.nn.functional.one_hot and _classes(*args, **kwargs) > 0:
            return _one_hot(*args, **kwargs)  # which looks at the labels on a CPU alone
        if name in READING or _from_the_host(name, args, kwargs):
            raise Waits(f"the step waits for the device: {name}")
        if name == "to" and any(isinstance(entry, str) and entry.startswith("cpu") for entry in (*args[1:], kwargs.get("device"))):
            raise Waits("the step waits for the device: to('cpu')")
        if name == "tensor_split" and any(isinstance(entry, Tensor) for entry in (*args[1:], *kwargs.values())):
            raise Waits("the step waits for the device: tensor_split by a tensor, which must be on the host")
        return function(*args, **kwargs)


def _by_its_arguments(name: str, args: Any, kwargs: Any) -> bool:
    """Whether an operation waits as it is called here, though it does not always."""
    if name in INDEXING:
        return any(entry is not None and entry.dtype in (torch.bool, torch.uint8) for entry in args[1])
    if name == "repeat_interleave":
        return kwargs.get("output_size") is None  # else it counts
    if name == "histc":
        low, high = [*args[2:], 0, 0][:2]
        return low == high  # it looks for the smallest and largest
    return False


def _from_the_host(name: str, args: Any, kwargs: Any) -> bool:
    """Whether a tensor is made of what lies on the host and copied to the device; or of other tensors, each of which is read."""
    if name not in FROM_THE_HOST:
        return False
    given = next((entry for entry in args if not isinstance(entry, Tensor)), None)
    place = kwargs.get("device")
    there = name == "new_tensor" or not (place is None or (isinstance(place, str) and place.startswith(("cpu", "meta"))))
    return (there and given is not None) or (isinstance(given, list | tuple) and any(isinstance(entry, Tensor) for entry in given))


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

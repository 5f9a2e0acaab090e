"""New generations begin with new losses and sources too: what composed modules were before training, and how they become that again."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from kdcore.checkpoints import own_copy

MARKS = ("term:", "source:")
"""With what the name of a component's tensor begins, beside the student's."""


def first_tensors(components: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Copies, on the CPU, of every parameter and buffer, those that no checkpoint holds too: `term:hint.adapters.0.weight`."""
    return {name: own_copy(tensor) for name, _, _, tensor in _tensors(components)}


def renew(components: Mapping[str, nn.Module], first: Mapping[str, Tensor]) -> None:
    """Puts components back to what `first_tensors` gave: their weights as drawn under the run's seed, memories as empty as they were."""
    with torch.no_grad():
        for name, owner, own, tensor in list(_tensors(components)):
            if name not in first:
                continue
            if first[name].shape == tensor.shape:
                tensor.copy_(first[name])
            else:  # a buffer that grew
                owner._buffers[own] = first[name].to(tensor.device, copy=True)


def split(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The student's tensors and the components', of a checkpoint that holds both."""
    components = {name: tensor for name, tensor in tensors.items() if name.startswith(MARKS)}
    return {name: tensor for name, tensor in tensors.items() if name not in components}, components


def _tensors(components: Mapping[str, nn.Module]) -> Iterator[tuple[str, nn.Module, str, Tensor]]:
    """Name, the module that has it, its name there, and the tensor itself."""
    for key, component in components.items():
        for prefix, owner in component.named_modules():
            for own, tensor in (*owner._parameters.items(), *owner._buffers.items()):
                if tensor is not None and not is_lazy(tensor):
                    yield ".".join(filter(None, (key, prefix, own))), owner, own, tensor

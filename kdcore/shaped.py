"""Networks by their shapes alone: what the meta device, or torch's FLOP counter, cannot do with some of them."""

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def shaped_lstms(net: nn.Module) -> Iterator[None]:
    """Within the block every LSTM of a network answers with the right shapes and wrong values, by as many multiply-accumulates as it has.

    torch's FLOP counter counts nothing of an LSTM (it is one operation of oneDNN or cuDNN), and the meta device takes minutes for a
    Sequencer, since it goes through the time steps one by one.
    """
    with ExitStack() as replaced:
        for module in net.modules():
            if isinstance(module, nn.LSTM):
                replaced.enter_context(_own(module, "forward", partial(_shaped, module)))
        yield


@contextmanager
def _own(module: nn.Module, name: str, function: Callable) -> Iterator[None]:
    """Within the block a module has a function of its own in place of its class's, or of the one that an outer block gave it."""
    former = vars(module).get(name)
    setattr(module, name, function)
    try:
        yield
    finally:
        if former is None:
            delattr(module, name)
        else:
            setattr(module, name, former)


def _shaped(lstm: nn.LSTM, values: Tensor, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """[B, T, I] (or [T, B, I]) -> the same with the LSTM's outputs, and its last states; x W_ih and h W_hh of all time steps at once."""
    directions = 2 if lstm.bidirectional else 1
    weights = lstm.all_weights
    for layer in range(lstm.num_layers):
        outputs = []
        for own in weights[layer * directions : (layer + 1) * directions]:
            hidden = (values @ own[0].t())[..., : lstm.hidden_size]
            if lstm.proj_size:
                hidden = hidden @ own[-1].t()
            _ = hidden @ own[1].t()
            outputs.append(hidden)
        values = torch.cat(outputs, dim=-1)
    count = values.shape[0 if lstm.batch_first else 1]
    sizes = (lstm.proj_size or lstm.hidden_size, lstm.hidden_size)
    last, cell = (values.new_zeros(len(weights), count, size) for size in sizes)
    return values, (last, cell)


@contextmanager
def shaped_maps(net: nn.Module) -> Iterator[None]:
    """Within the block a timm model gives maps on the meta device, also where it reads the sides of its grid of tokens from values (gemma4)."""
    plain = getattr(net, "forward_intermediates", None)
    if plain is None:
        yield
        return
    with _own(net, "forward_intermediates", partial(_on_its_grid, plain)):
        yield


def _on_its_grid(plain: Any, images: Tensor, *, output_fmt: str, **more: Any) -> Any:
    """What `plain` gives; from tokens [B, N, C] on a grid of the images' proportions where it cannot make maps for want of values."""
    try:
        return plain(images, output_fmt=output_fmt, **more)
    except RuntimeError as error:
        if not images.is_meta or "meta tensors" not in str(error):
            raise
    final, found = plain(images, output_fmt="NLC", **more)
    height, width = images.shape[2:]
    patch = math.sqrt(height * width / found[0].shape[1])
    grid = (round(height / patch), round(width / patch))
    return final, [tokens.transpose(1, 2).unflatten(2, grid) for tokens in found]

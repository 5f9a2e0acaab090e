"""One CUDA graph of a whole training step: forward, backward, clipping and the optimiser in one launch. `--compile` uses it on CUDA.

Networks of 32-pixel images are bound by launches: a step has hundreds of kernels, each shorter than its launch. The first steps run as
they always do (on a side stream, as capturing asks for); then one step is recorded on buffers that stay where they are, and from then on
a step copies its batch into them and replays. Learning rates, clocks and moving weights are tensors that are filled before a replay.

Where a step cannot be recorded, training goes on without a graph, and `refused` says why. So it does where something would stand still in
a replay: an optimiser that counts on the host, and components with an `after_step` or an `after_update`, which keep references of their own to
what a step made.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from timm.utils import dispatch_clip_grad
from torch import Tensor

from kdcore.config import Config
from kdcore.precision import Precision

WARM_UP = 3
"""Steps before the recording: they make the optimiser's state, let cuDNN choose, and compile what is to be compiled."""


class GraphedStep:
    """`step(images, labels, index) -> {"loss", every term}`: an update of the weights, as the loop's own.

    capture: False runs the recorded function itself on the same buffers, which a CPU can do too.
    """

    def __init__(
        self, task: Any, optimizer: torch.optim.Optimizer, settings: Config, precision: Precision, *, capture: bool = True
    ) -> None:
        self.task, self.optimizer, self.settings, self.precision, self.capture = task, optimizer, settings, precision, capture
        self.graph: Any = None
        self.refused = ""
        self.steps = 0
        self._inputs: list[Tensor] = []
        self._names: list[str] = []
        self._recorded = torch.empty(0)  # where a replay leaves the step's scalars
        self._rates: list[Tensor] = []
        for group in optimizer.param_groups:
            if "capturable" in group:
                group["capturable"] = True

    def __call__(self, images: Tensor, labels: Tensor, index: Tensor) -> dict[str, Tensor]:
        batch, self.steps = [images, labels, index], self.steps + 1
        if self.steps == WARM_UP:
            before = counters(self.optimizer, images.device)
            values = self._aside(batch)
            if counters(self.optimizer, images.device) != before:
                self.refused = f"--opt {self.settings.opt} counts its steps on the host, and a graph would repeat one of them"
            return values
        if self.refused or self.steps <= WARM_UP or not self._fits(batch):
            return self._aside(batch)
        if not self._inputs:
            self._inputs = [tensor.clone() for tensor in batch]  # keeps the memory format
            self._rates = [torch.tensor(float(group["lr"]), device=images.device) for group in self.optimizer.param_groups]
            if self.capture and not self._record():
                return self._aside(batch)
        for kept, tensor in zip(self._inputs, batch, strict=True):
            kept.copy_(tensor)
        if self.graph is None:
            return self._named(self._update(*self._inputs))
        for rate, group in zip(self._rates, self.optimizer.param_groups, strict=True):
            rate.fill_(float(group["lr"]))
        self.graph.replay()
        return self._named(self._recorded.clone())  # the next replay writes into the same memory

    def _fits(self, batch: list[Tensor]) -> bool:
        """A batch of another shape (mixed labels until an epoch, say) is a step without the graph."""
        return not self._inputs or all(
            kept.shape == new.shape and kept.dtype == new.dtype for kept, new in zip(self._inputs, batch, strict=True)
        )

    def _aside(self, batch: list[Tensor]) -> dict[str, Tensor]:
        """A step without the graph; the first ones on a stream of their own."""
        if not (self.capture and self.steps <= WARM_UP):
            return self._named(self._update(*batch))
        device = batch[0].device
        side, own = torch.cuda.Stream(device), torch.cuda.current_stream(device)
        side.wait_stream(own)
        with torch.cuda.stream(side):
            values = self._update(*batch)
        own.wait_stream(side)
        return self._named(values)

    def _record(self) -> bool:
        """Records one step without running it."""
        groups = self.optimizer.param_groups
        rates = [group["lr"] for group in groups]
        self.optimizer.zero_grad(set_to_none=True)  # gradients are to be made in the graph's own memory
        device = self._inputs[0].device
        try:
            for group, rate in zip(groups, self._rates, strict=True):
                group["lr"] = rate
            # on this device, whichever is current; and the thread that pins a loader's batches may go on meanwhile
            with torch.cuda.device(device):
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph, stream=torch.cuda.Stream(device), capture_error_mode="thread_local"):
                    self._recorded = self._update(*self._inputs)
            self.graph = graph
        except RuntimeError as error:
            torch.cuda.synchronize(device)
            self.refused = str(error).splitlines()[0]
            self.optimizer.zero_grad(set_to_none=True)
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate
        return self.graph is not None

    def _update(self, images: Tensor, labels: Tensor, index: Tensor) -> Tensor:
        """The step itself. Returns its scalars in one tensor, in the order of `_names`."""
        with self._autocast(images.device):
            answer = self.task(images, labels, index)
        answer["loss"].backward()
        settings = self.settings
        if settings.clip_grad is not None:
            dispatch_clip_grad(self.task.get_clip_parameters(settings.clip_mode == "agc"), settings.clip_grad, mode=settings.clip_mode)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._names = [name for name in answer if name != "output"]
        return torch.stack([answer[name].detach() for name in self._names])

    def _autocast(self, device: torch.device) -> AbstractContextManager:
        """Without autocast's cache of weights, which would outlive the recording."""
        if self.precision.amp == "none":
            return self.precision.autocast(device)
        return torch.autocast(device.type, dtype=torch.bfloat16, cache_enabled=False)

    def _named(self, values: Tensor) -> dict[str, Tensor]:
        return dict(zip(self._names, values.unbind(), strict=True))


def counters(optimizer: torch.optim.Optimizer, device: torch.device) -> list[float]:
    """What an optimiser keeps as numbers, or on the host (timm's Lamb its step): a graph holds all of it as it was when it was recorded.

    device: that of the parameters.
    """

    def numbers(value: Any) -> Iterator[float]:
        if isinstance(value, dict | list | tuple):
            for item in value.values() if isinstance(value, dict) else value:
                yield from numbers(item)
        elif isinstance(value, int | float):
            yield value
        elif isinstance(value, Tensor) and value.numel() == 1 and value.device.type == "cpu" != device.type:
            yield value.item()

    return list(numbers(optimizer.state_dict()))


def graphed_step(
    task: Any, optimizer: torch.optim.Optimizer, settings: Config, precision: Precision, device: torch.device
) -> GraphedStep | None:
    """The task's one graph, made in its first epoch; None where steps run one operation at a time."""
    if not settings.compile or device.type != "cuda" or settings.grad_accum_steps > 1 or task.remembers():
        return None
    if task.graphed is None or task.graphed.optimizer is not optimizer:
        task.graphed = GraphedStep(task, optimizer, settings, precision)
    return task.graphed

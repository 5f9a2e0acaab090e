"""The loop: one epoch of steps, top to bottom, without callbacks or host synchronisation except at the log interval."""

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from timm.utils import dispatch_clip_grad
from torch import Tensor

from kdcore.config import Config
from kdcore.errors import KdError
from kdcore.precision import Precision
from kdcore.seeds import seed_of
from kdcore.task import DistillationTask


class Means:
    """Running means of a step's scalars, kept on the device until they are read."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.count = 0

    def add(self, answer: dict[str, Tensor]) -> None:
        for name, value in answer.items():
            if name != "output":
                value = value.detach()
                self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.count += 1

    def read(self) -> dict[str, float]:
        """The means so far: the one place that waits for the device."""
        if not self.sums:
            return {}
        values = (
            torch.stack([value.double() if value.device.type != "mps" else value for value in self.sums.values()]) / self.count
        ).tolist()
        return dict(zip(self.sums, values, strict=True))


def train_epoch(
    task: DistillationTask,
    batches: Any,
    optimizer: torch.optim.Optimizer,
    *,
    epoch: int,
    epochs: int,
    settings: Config,
    precision: Precision,
    device: torch.device,
    on_log: Callable[[dict[str, float]], None],
) -> dict[str, float]:
    """One epoch, from 0, of `epochs` in the phase. Returns the epoch's mean loss and terms. Raises KdError when the loss is no longer finite."""
    task.train()
    torch.manual_seed(seed_of(settings.seed, task.phase.name, "epoch", epoch))
    means, recent = Means(), Means()
    steps, every = len(batches), settings.grad_accum_steps
    updates = -(-steps // every)
    for step, (images, labels, index) in enumerate(batches.epoch(epoch)):
        done = epoch + step / steps
        task.at(epoch=done, progress=done / epochs)
        update = (step + 1) % every == 0 or step + 1 == steps
        with nullcontext() if update else task.no_sync():
            with precision.autocast(device):
                answer = task(images, labels, index)
            together = min(every, steps - step // every * every)  # the last update of an epoch may have fewer steps
            (answer["loss"] / together if together > 1 else answer["loss"]).backward()
        if update:
            if settings.clip_grad is not None:
                dispatch_clip_grad(task.get_clip_parameters(settings.clip_mode == "agc"), settings.clip_grad, mode=settings.clip_mode)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            task.after_step()
            task.update_ema(step=epoch * updates + step // every)
        means.add(answer)
        recent.add(answer)
        if (step + 1) % settings.log_interval == 0 or step + 1 == steps:
            values = recent.read()
            if not math.isfinite(values["loss"]):
                raise KdError(
                    f"the loss is {values['loss']} in epoch {epoch + 1} of phase '{task.phase.name}': try a smaller --lr, or --clip-grad 1,"
                    " in a new run (--resume would come to the same)"
                )
            on_log({"epoch": epoch + 1, "step": step + 1, "steps": steps, "lr": optimizer.param_groups[0]["lr"], **values})
            recent = Means()
    return means.read()

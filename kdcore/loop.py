"""The loop: one epoch of steps, top to bottom, without callbacks or host synchronisation except at the log interval."""

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from timm.utils import dispatch_clip_grad
from torch import Tensor

from kdcore.config import Config
from kdcore.errors import Diverged
from kdcore.graphed import graphed_step
from kdcore.precision import Precision
from kdcore.seeds import seed_of
from kdcore.task import DistillationTask


class Means:
    """Means of a step's scalars: since the last reading, and since the beginning. The scalars stay on the device until they are read.

    A step only keeps references; 64 steps are summed by one operation, so that logging costs next to nothing and holds little memory.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.recent: list[Tensor] = []  # one after the other, as `names` go, step by step
        self.summed: list[Tensor] = []  # [number of names] each
        self.counted = 0
        self.totals: list[float] = []
        self.count = 0

    def add(self, answer: dict[str, Tensor]) -> None:
        if not self.names:
            self.names = [name for name in answer if name != "output"]
            self.totals = [0.0] * len(self.names)
        self.recent.append(answer["loss"].detach())
        for name in self.names[1:]:
            self.recent.append(answer[name])  # detached already
        self.counted += 1
        if self.counted % 64 == 0:
            self._sum()

    def _sum(self) -> None:
        if self.recent:
            values = torch.stack(self.recent).view(-1, len(self.names))
            self.summed.append((values.double() if values.device.type != "mps" else values).sum(dim=0))
            self.recent = []

    def read(self) -> dict[str, float]:
        """The means since the last reading: the one place that waits for the device."""
        self._sum()
        if not self.summed:
            return {}
        sums, counted = torch.stack(self.summed).sum(dim=0).tolist(), self.counted
        self.totals = [total + value for total, value in zip(self.totals, sums, strict=True)]
        self.count += counted
        self.summed, self.counted = [], 0
        return {name: value / counted for name, value in zip(self.names, sums, strict=True)}

    def of_all(self) -> dict[str, float]:
        """The means over everything, the steps since the last reading too."""
        self.read()
        return {name: value / self.count for name, value in zip(self.names, self.totals, strict=True)}


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
    """One epoch, from 0, of `epochs` in the phase. Returns the epoch's mean loss and terms. Raises Diverged when the loss is no longer finite."""
    task.train()
    seed_dropout(seed_of(settings.seed, task.phase.name, "epoch", epoch), device)
    means = Means()
    steps, every = len(batches), settings.grad_accum_steps
    updates = -(-steps // every)
    graphed = graphed_step(task, optimizer, settings, precision, device)
    autocast, plain = precision.autocast(device), nullcontext()
    told, remembers, averages = task.listens(), task.remembers(), task.has_ema()
    for step, (images, labels, index) in enumerate(batches.epoch(epoch)):
        if told:
            done = epoch + step / steps
            task.at(epoch=done, progress=done / epochs)
        update = (step + 1) % every == 0 or step + 1 == steps
        if graphed is not None:
            answer = graphed(images, labels, index)
        else:
            with plain if update else task.no_sync():
                with autocast:
                    answer = task(images, labels, index)
                loss = answer["loss"]
                if every > 1:
                    loss = loss / min(every, steps - step // every * every)  # the last update of an epoch may have fewer steps
                loss.backward()
        if update and graphed is None:
            if settings.clip_grad is not None:
                dispatch_clip_grad(task.get_clip_parameters(settings.clip_mode == "agc"), settings.clip_grad, mode=settings.clip_mode)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if remembers:
            task.after_step(updated=update)
        if update and averages:
            task.update_ema(step=epoch * updates + step // every)
        means.add(answer)
        if (step + 1) % settings.log_interval == 0 or step + 1 == steps:
            values = means.read()
            if not math.isfinite(values["loss"]):
                raise Diverged(
                    f"the loss is {values['loss']} in epoch {epoch + 1} of phase '{task.phase.name}': try a smaller --lr, or --clip-grad 1,"
                    " in a new run (--resume would come to the same)"
                )
            on_log({"epoch": epoch + 1, "step": step + 1, "steps": steps, "lr": optimizer.param_groups[0]["lr"], **values})
    return means.of_all()


def seed_dropout(seed: int, device: torch.device) -> None:
    """Seeds what layers draw in a step. On a CPU its own generator alone: seeding a GPU that nobody uses takes .3 ms of an epoch."""
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)

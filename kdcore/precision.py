"""Precision and memory format: tried for a few steps on the whole task, and taken where they are faster."""

import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from kdcore.errors import KdError
from kdcore.rehearsal import kept_buffers
from kdcore.task import DistillationTask


@dataclass(frozen=True)
class Precision:
    """`amp`: bfloat16 or none. `channels_last`: the memory format of images and weights."""

    amp: str = "none"
    channels_last: bool = False

    def autocast(self, device: torch.device) -> AbstractContextManager:
        return torch.autocast(device.type, dtype=torch.bfloat16) if self.amp == "bfloat16" else nullcontext()

    def apply(self, module: torch.nn.Module) -> None:
        module.to(memory_format=torch.channels_last if self.channels_last else torch.contiguous_format)

    def images(self, images: Tensor) -> Tensor:
        return images.contiguous(memory_format=torch.channels_last) if self.channels_last else images


def pick_device(name: str) -> torch.device:
    """`auto` is CUDA, then Apple's MPS, then the CPU. Raises KdError for a device that is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise KdError(f"--device {name}: write cpu, cuda, cuda:1, mps or auto") from None
    there = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available()), "cpu": 1}
    if (device.index or 0) >= there.get(device.type, 0):
        raise KdError(f"--device {name}: there is no such device here; write --device cpu, or leave it out")
    return device


def fast_bfloat16(device: torch.device) -> bool:
    """Whether the hardware has instructions for bfloat16, so that a trial is worth its time."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        capable: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
        return bool(capable.get("avx512_bf16") or capable.get("amx_bf16") or capable.get("bf16"))
    return False


def choose(
    task: DistillationTask, batch: tuple[Tensor, Tensor, Tensor], amp: str, channels_last: bool | None, *, steps: int = 3
) -> Precision:
    """What `auto` means here: the fastest of the allowed combinations by `steps` timed forward and backward passes each.

    float32 in the ordinary format stays unless another takes at most .95 of its time. No value of a weight, buffer or random state is changed (the memory format
    is that of the last trial: `apply` settles it).
    """
    device = batch[0].device
    amps = [amp] if amp != "auto" else ["none", "bfloat16"] if fast_bfloat16(device) else ["none"]
    formats = [channels_last] if channels_last is not None else [False, True]
    if device.type == "mps" and channels_last is None:
        formats = [False]
    candidates = [Precision(a, f) for f in formats for a in amps]
    if len(candidates) == 1:
        return candidates[0]
    seconds = {candidate: _time(task, batch, candidate, steps) for candidate in candidates}
    fastest = min(candidates, key=seconds.__getitem__)
    return fastest if seconds[fastest] <= 0.95 * seconds[candidates[0]] else candidates[0]


def _time(task: DistillationTask, batch: tuple[Tensor, Tensor, Tensor], precision: Precision, steps: int) -> float:
    images, labels, index = batch
    device = images.device
    precision.apply(task)
    took = []
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), kept_buffers(task):
        for _ in range(steps + 1):
            _wait(device)
            begin = time.perf_counter()
            with precision.autocast(device):
                loss = task(precision.images(images), labels, index)["loss"]
            loss.backward()
            _wait(device)
            took.append(time.perf_counter() - begin)
    for parameter in task.parameters():
        parameter.grad = None
    return min(took[1:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()

"""Precision and memory format: by a rule, since one seed must give one result; by a trial only where `--amp try` asks for it.

The rule comes from forward and backward passes of whole tasks, exits included, on one thread of a two-core AMD EPYC with AVX512-BF16
(`benchmarks/precision.py` repeats what follows, `--all` with the combinations that the rule does not choose). As times the speed of float32
in the ordinary format:
- channels last for every network with convolutions, but not on MPS, where it was not measured. In float32: EfficientNet-B0 1.6, ShuffleNetV2
  at 32 pixels 1.4, MobileNetV3-small 1.3, MobileViT-XXS 1.1.
- bfloat16 besides, where no convolution is a small depthwise one: ResNet-50 2.9, ResNet-18 1.6, ViT-Tiny 2.0, Swin-Tiny 2.9, RegNetY-200MF,
  whose are grouped, 1.4; at 32 pixels ResNet-20 1.8 (with linear exits 1.6, with BYOT's 3.3) and ResNet-18 1.8 (1.6, 1.7). With depthwise ones of
  3 x 3 and 5 x 5 it loses (MobileNetV3-small .56): a network that has one anywhere, in its backbone or in its exits, keeps float32 on a CPU;
  ConvNeXt, whose are 7 x 7, gains (atto: 1.3). Float32 stays for images of fewer than 32 x 32 pixels: such runs are over in seconds, and their
  numbers should be those of any other machine. On CUDA all networks get bfloat16.
"""

import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

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

    def __str__(self) -> str:
        return ("float32" if self.amp == "none" else self.amp) + (", channels last" if self.channels_last else "")

    def apply(self, module: nn.Module) -> None:
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
    """Whether the hardware has instructions for bfloat16, not an emulation."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        capable: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
        return bool(capable.get("avx512_bf16") or capable.get("amx_bf16") or capable.get("bf16"))
    return False


def by_rule(network: nn.Module, image_size: tuple[int, int], device: torch.device, amp: str, channels_last: bool | None) -> Precision:
    """What `auto` means for this network with its exits, images of this height and width, and this machine: the same whenever it is asked."""
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    if amp == "auto":
        worth_it = device.type == "cuda" or (image_size[0] * image_size[1] >= 32 * 32 and not any(map(small_depthwise, convolutions)))
        amp = "bfloat16" if worth_it and fast_bfloat16(device) else "none"
    if channels_last is None:
        channels_last = bool(convolutions) and device.type in ("cpu", "cuda")
    return Precision(amp, channels_last)


def small_depthwise(convolution: nn.Conv2d) -> bool:
    """Whether each channel has a filter of its own, of fewer than 7 x 7 places: what bfloat16 is slow at on a CPU."""
    return convolution.groups > 1 and convolution.groups == convolution.in_channels and min(convolution.kernel_size) < 7


def by_trial(
    task: DistillationTask, batch: tuple[Tensor, Tensor, Tensor], channels_last: bool | None, *, steps: int = 3
) -> tuple[Precision, dict[Precision, float]]:
    """The fastest of the allowed combinations by `steps` timed forward and backward passes each, and the seconds of each that was tried.

    float32 in the ordinary format stays unless another takes at most .95 of its time. No value of a weight, buffer or random state is changed (the memory format
    is that of the last trial: `apply` settles it).
    """
    device = batch[0].device
    amps = ["none", "bfloat16"] if fast_bfloat16(device) else ["none"]
    formats = [channels_last] if channels_last is not None else [False] if device.type == "mps" else [False, True]
    candidates = [Precision(amp, form) for form in formats for amp in amps]
    seconds = {candidate: _time(task, batch, candidate, steps) for candidate in candidates}
    fastest = min(candidates, key=seconds.__getitem__)
    return fastest if seconds[fastest] <= 0.95 * seconds[candidates[0]] else candidates[0], seconds


def _time(task: DistillationTask, batch: tuple[Tensor, Tensor, Tensor], precision: Precision, steps: int) -> float:
    images, labels, index = batch
    device = images.device
    precision.apply(task)
    took = []
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), kept_buffers(task):
        for _ in range(steps + 1):
            wait(device)
            begin = time.perf_counter()
            with precision.autocast(device):
                loss = task(precision.images(images), labels, index)["loss"]
            loss.backward()
            wait(device)
            took.append(time.perf_counter() - begin)
    for parameter in task.parameters():
        parameter.grad = None
    return min(took[1:])


def wait(device: torch.device) -> None:
    """Until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()

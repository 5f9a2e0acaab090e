"""What must hold on a GPU, each as yes or no: nothing in a step waits for the device, resident batches are the CPU's to the bit, the precisions
train alike, and a run that was killed resumes to the same numbers.

    python benchmarks/gpu_check.py [--quick] [--json check.json] --device cuda

Runs on a CPU too, where "nothing waits" means that nothing asks for a number of a tensor.
"""

import os
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before CUDA starts, for the resume to the same bits

import numpy as np
import torch
from common import arguments, row, write
from loops import MEAN, STD, Setting, of_kdcore, random_images, train_teacher
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

import kdcore
from kdcore.config import read_config
from kdcore.preparing import prepare
from kdcore.session import Watch

STEPS = 12
MODEL = "test_resnet_32px"


class NoNumbers(TorchDispatchMode):
    """Refuses to read a number off a tensor: what would wait for a device, if there were one."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("a step reads a number off a tensor")
        return func(*args, **(kwargs or {}))


@contextmanager
def nothing_waits(device: str) -> Iterator[None]:
    if not device.startswith("cuda"):
        with NoNumbers():
            yield
        return
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def synchronises(setting: Setting, **settings: Any) -> str:
    """Why a step or the reading of its batch waits for the device; nothing where none does. The first steps, which set things up, do not count."""
    loop = of_kdcore(setting, "-".join(["sync", *map(str, settings.values())]), **settings)
    loop.steps(3)
    loop.chunk.guard = lambda: nothing_waits(setting.device)
    try:
        loop.steps(STEPS)
    except RuntimeError as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/kdcore" in frame.filename]
        return f"{str(error).splitlines()[0]} ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else str(error)
    return ""


def other_pixels(data: Path, device: str, **settings: Any) -> str:
    """The first batch of the device that is not the CPU's; nothing where all are."""
    both = []
    for name in ("cpu", device):
        config = read_config({"model": MODEL, "data": str(data), "method": "plain", "device": name, **settings})
        both.append(prepare(config).batches("train", train=True))
    for epoch in (0, 1):
        for step, (one, other) in enumerate(zip(both[0].epoch(epoch), both[1].epoch(epoch), strict=True)):
            for what, a, b in zip(("images", "labels", "numbers"), one, other, strict=True):
                if not torch.equal(a, b.cpu()):
                    apart = (a.double() - b.cpu().double()).abs().max()
                    return f"epoch {epoch}, batch {step}: {what} differ by up to {apart:.3g}"
    return ""


def losses(setting: Setting, amp: str, channels_last: bool) -> float:
    loop = of_kdcore(setting, f"{amp}-{channels_last}", amp=amp, channels_last=channels_last)
    return loop.steps(STEPS)["loss"]


class StopAfterOne(Watch):
    def epoch(self, record: Any) -> None:
        raise KeyboardInterrupt


def resumes_otherwise(data: Path, folder: Path, device: str, method: str) -> str:
    """By how much the weights of a run that was stopped after its first epoch differ, at its end, from those of one that was not."""
    torch.backends.cudnn.deterministic = True
    torch.use_deterministic_algorithms(True, warn_only=True)
    settings = {"method": method, "epochs": 2, "batch_size": 64, "train_limit": 640, "device": device, "mean": list(MEAN), "std": list(STD)}
    kdcore.train(MODEL, str(data), run=folder / f"{method}-whole", **settings)
    with suppress(KeyboardInterrupt):
        kdcore.train(MODEL, str(data), run=folder / f"{method}-killed", watch=StopAfterOne(), **settings)
    kdcore.train(run=folder / f"{method}-killed", resume=True)
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic = False
    one, other = (load_file(folder / f"{method}-{name}" / "student.safetensors") for name in ("whole", "killed"))
    apart = {
        name: float((one[name].double() - other[name].double()).abs().max()) for name in one if not torch.equal(one[name], other[name])
    }
    return f"{len(apart)} of {len(one)} tensors differ, by up to {max(apart.values()):.3g}" if apart else ""


def main() -> None:
    parser = arguments(__doc__ or "")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows: list[dict[str, Any]] = []

    def tell(name: str, why: str) -> None:
        print(f"{name:46} {'yes' if not why else 'NO: ' + why}", flush=True)
        rows.append(row(f"check/{name}", "bool", float(not why), float(not why), float(not why), 1, target="yes", met=not why, why=why))

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = random_images(folder, 640 if args.quick else 4_000, classes=10)
        with np.load(data) as arrays:
            images, labels = arrays["train_images"], arrays["train_labels"].ravel().astype(np.int64)
        teacher = train_teacher(MODEL, data, folder, args.device)
        methods = ("plain", "byot") if args.quick else ("plain", "deep-supervision", "byot")
        plain, kd = (
            Setting(MODEL, run, data, images, labels, folder / kind, 32, 0, args.device) for run, kind in ((None, "a"), (teacher, "b"))
        )
        for method in methods:
            tell(f"nothing in a step waits: {method}", synchronises(plain, method=method))
        tell("nothing in a step waits: kd", synchronises(kd))
        augmentations: dict[str, dict[str, Any]] = {"crop, flip": {}, "cutout": {"cutout": 8}, "none": {"aug": False}}
        if not args.quick:
            augmentations |= {"rotation": {"rotation": 15.0}, "erasing": {"reprob": 0.5}, "vertical flip": {"vflip": 0.5}}
        for what, settings in augmentations.items():
            tell(f"resident batches are the CPU's: {what}", other_pixels(data, args.device, **settings))
        exact = losses(plain, "none", False)
        for amp, last in (("none", True), ("bfloat16", False), ("bfloat16", True)):
            loss, allowed = losses(plain, amp, last), 0.02 if amp == "bfloat16" else 0.002
            why = "" if abs(loss - exact) <= allowed * abs(exact) else f"mean loss {loss:.4f}, in float32 and ordinary format {exact:.4f}"
            tell(f"trains alike: {amp if amp != 'none' else 'float32'}{', channels last' if last else ''}", why)
        for method in methods[-1:] if args.quick else ("plain", "byot"):
            tell(f"resumes to the same weights: {method}", resumes_otherwise(data, folder, args.device, method))
    write(args.json, rows, args.device)


if __name__ == "__main__":
    main()

"""Images a second of whole training, reading and augmentation included: kdcore against torchdistill, and timm's own tasks.

    python benchmarks/throughput.py [--quick] [--json throughput.json] [--device cuda] [--compile]

Distillation of --teacher into --student, then plain training of --student, on images of CIFAR's shape (random ones, or --data FILE.npz). All train
the same networks with the same batches, pad-crop-flip and SGD (`loops.py`); they take turns of --steps steps in one process, the order rotating,
and each pair of turns gives a ratio. kdcore runs with its defaults, its automatic precision included. The loaders' workers stay alive between the
turns and fill their queues again in nobody's time. With one thread of torch, which is the default here, they have the other cores to themselves: that
favours those that read through PIL.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import arguments, rank_interval, ratio_of, row, seconds, write
from loops import Loop, Setting, of_kdcore, of_timm, of_timm_tuned, of_torchdistill, random_images, train_teacher, versions

TARGETS = {"torchdistill": 2.0, "timm as it comes": 1.3, "timm tuned by hand": 1.0}
"""What kdcore's images a second are to be at least, in distillation, times those of each (issue 4)."""


def rounds(loops: list[Loop], steps: int, pairs: int, device: str, settle: bool) -> dict[str, list[float]]:
    """Seconds of each loop's turns by its name. The first turn of each does not count."""
    for loop in loops:
        seconds(lambda loop=loop: loop.steps(max(steps, 2)), device)
    took: dict[str, list[float]] = {loop.name: [] for loop in loops}
    for number in range(pairs):
        start = number % len(loops)
        for loop in loops[start:] + loops[:start]:
            took[loop.name].append(seconds(lambda loop=loop: loop.steps(steps), device))
            time.sleep(loop.settle if settle else 0.05)
    return took


def rows_of(kind: str, loops: list[Loop], took: dict[str, list[float]], images: int, about: dict[str, Any]) -> list[dict[str, Any]]:
    """Images a second of each, and how many times as many kdcore's are. images: of a turn."""
    rows, first = [], loops[0]
    for loop in loops:
        rates = [images / value for value in took[loop.name]]
        low, high = rank_interval(rates)
        told = {**about, "precision": loop.precision}
        rows.append(row(f"throughput/{kind}/{loop.name}", "images/s", statistics.median(rates), low, high, len(rates), **told))
        print(f"{kind:5} {loop.name:20} {rows[-1]['median']:9.0f} images/s ({low:.0f} to {high:.0f}; {loop.precision})", flush=True)
    for loop in loops[1:]:
        found = ratio_of(took[first.name], took[loop.name])
        told = {**about, "against": loop.name}
        if kind == "kd" and loop.name in TARGETS:
            told |= {"target": f">= {TARGETS[loop.name]:g}", "met": found.median >= TARGETS[loop.name]}
        rows.append(row(f"speed-up/{kind}/{loop.name}", "ratio", found.median, found.low, found.high, found.pairs, **told))
        print(f"{kind:5} {first.name} does {found} times as many as {loop.name}", flush=True)
    return rows


def loops_of(setting: Setting, compiled: bool) -> list[Loop]:
    """kdcore first. One that cannot be built here is left out aloud."""
    makes: list[Callable[[Setting], Loop]] = [of_kdcore, of_torchdistill, of_timm, of_timm_tuned]
    if compiled:
        makes.insert(1, lambda setting: of_kdcore(setting, "kdcore --compile", compile=True))
    loops = []
    for make in makes:
        try:
            loops.append(make(setting))
        except ImportError as error:
            print(f"left out: {error}", flush=True)
    return loops


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--student", help="default: cifar/resnet20; test_resnet_32px with --quick")
    parser.add_argument("--teacher", help="default: cifar/resnet56; test_resnet_32px with --quick")
    parser.add_argument(
        "--data", type=Path, help="an .npz with train_images uint8 [N, 32, 32, 3] and train_labels (default: drawn at random)"
    )
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--steps", type=int, help="steps of a turn")
    parser.add_argument("--workers", type=int, default=min(os.cpu_count() or 1, 4), help="of the loaders that have some")
    parser.add_argument("--kinds", default="kd,plain")
    parser.add_argument("--compile", action="store_true", help="a row of kdcore --compile as well")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    small = "test_resnet_32px" if args.quick else None
    student, teacher = args.student or small or "cifar/resnet20", args.teacher or small or "cifar/resnet56"
    batch, steps = args.batch_size or (32 if args.quick else 128), args.steps or (2 if args.quick else 5)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = args.data or random_images(folder, 2_000 if args.quick else 10_000)
        with np.load(data) as arrays:
            images, labels = arrays["train_images"], arrays["train_labels"].ravel().astype(np.int64)
        for kind in args.kinds.split(","):
            run = train_teacher(teacher, data, folder, args.device) if kind == "kd" else None
            setting = Setting(student, run, data, images, labels, folder / kind, batch, args.workers, args.device)
            about = {
                "student": student,
                "teacher": teacher if run else None,
                "batch_size": batch,
                "workers": args.workers,
                "versions": versions(),
            }
            loops = loops_of(setting, args.compile)
            took = rounds(loops, steps, args.pairs, args.device, settle=not args.quick)
            rows += rows_of(kind, loops, took, steps * batch, about)
            del loops  # and the workers of their loaders
    write(args.json, rows, args.device)


if __name__ == "__main__":
    main()

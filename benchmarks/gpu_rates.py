"""Images a second on a GPU: eager against one graph of the whole step, and the share of the roofline.

    python benchmarks/gpu_rates.py graph    [--quick] [--json graph.json]    --device cuda
    python benchmarks/gpu_rates.py roofline [--quick] [--json roofline.json] --device cuda

graph: cifar/resnet20 at batch 128, plain, by distillation and by BYOT, kdcore as it comes against kdcore with --compile; in turns.
roofline: plain cifar/resnet18 at batch 512 in bfloat16, as a share of 131,000 images/s (an H200; --roof for another device), with the rate
of a large matrix product beside it. Reading and augmentation are included in all of them.
"""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import arguments, rank_interval, ratio_of, row, wait, write
from loops import Setting, of_kdcore, random_images, train_teacher
from throughput import rounds

ROOF = 131_000.0
"""Images a second of CIFAR ResNet-18 training that an H200's arithmetic and memory allow (issue 4)."""


def graph(args: Any, folder: Path, data: Path, arrays: tuple[np.ndarray, np.ndarray]) -> list[dict[str, Any]]:
    student = args.student or "cifar/resnet20"
    batch, steps = (32, 2) if args.quick else (128, 60)
    rows = []
    for kind in args.kinds.split(","):
        teacher = train_teacher(args.teacher or "cifar/resnet56", data, folder, args.device) if kind == "kd" else None
        setting = Setting(student, teacher, data, *arrays, folder / kind, batch, 0, args.device)
        method = {} if kind == "kd" else {"method": kind}
        eager = of_kdcore(setting, "eager", **method)
        begin = time.perf_counter()
        compiled = of_kdcore(setting, "compiled", compile=True, **method)
        compiled.steps(3)
        wait(args.device)
        first = time.perf_counter() - begin
        took = rounds([eager, compiled], steps, args.pairs, args.device, settle=False)
        found = ratio_of(took["compiled"], took["eager"])
        rates = {loop: statistics.median(steps * batch / value for value in took[loop]) for loop in took}
        about: dict[str, Any] = {
            "against": "eager",
            "student": student,
            "batch_size": batch,
            "images_per_second": rates,
            "compile_seconds": first,
        }
        made = getattr(compiled.task, "graphed", None)  # only on CUDA
        about["graph"] = "recorded" if made is not None and made.graph is not None else (made.refused if made is not None else "none")
        if kind == "plain":
            about |= {"target": ">= 3", "met": found.median >= 3}
        rows.append(row(f"graph/{kind}", "ratio", found.median, found.low, found.high, found.pairs, **about))
        print(
            f"{kind}: compiled {found} times eager; {rates['eager']:.0f} and {rates['compiled']:.0f} images/s; compiled in {first:.0f} s;"
            f" graph: {about['graph']}",
            flush=True,
        )
    return rows


def roofline(args: Any, folder: Path, data: Path, arrays: tuple[np.ndarray, np.ndarray]) -> list[dict[str, Any]]:
    student = args.student or "cifar/resnet18"
    batch, steps = (32, 2) if args.quick else (512, 40)
    setting = Setting(student, None, data, *arrays, folder / "roofline", batch, 0, args.device)
    loops = [of_kdcore(setting, name, compile=name == "compiled") for name in ("eager", "compiled")[: 1 if args.eager else 2]]
    rows = []
    for name, took in rounds(loops, steps, args.pairs, args.device, settle=False).items():
        shares = [steps * batch / value / args.roof for value in took]
        median = statistics.median(shares)
        about = {"student": student, "batch_size": batch, "images_per_second": median * args.roof, "against": f"{args.roof:,.0f} images/s"}
        about |= {"target": ">= 0.6", "met": median >= 0.6} if name == loops[-1].name else {}
        rows.append(row(f"roofline/{name}", "share", median, *rank_interval(shares), len(shares), **about))
        print(f"{name}: {median * args.roof:.0f} images/s, {median:.3f} of {args.roof:.0f}", flush=True)
    rates = matrix_rates(args.device, 256 if args.quick else 8192)
    rows.append(row("matrix product in bfloat16", "TFLOP/s", statistics.median(rates), *rank_interval(rates), len(rates)))
    return rows


def matrix_rates(device: str, side: int) -> list[float]:
    """TFLOP/s of square matrix products on random data."""
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    rates = []
    for _ in range(18):
        wait(device)
        begin = time.perf_counter()
        a @ b
        wait(device)
        rates.append(2 * side**3 / (time.perf_counter() - begin) / 1e12)
    return rates[3:]


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("what", choices=["graph", "roofline"])
    parser.add_argument("--student")
    parser.add_argument("--teacher")
    parser.add_argument("--kinds", default="plain,kd,byot", help="of graph")
    parser.add_argument("--eager", action="store_true", help="of roofline: not compiled as well")
    parser.add_argument("--roof", type=float, default=ROOF, help="images a second that the device allows")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = random_images(folder, 640 if args.quick else 50_000)
        with np.load(data) as stored:
            arrays = stored["train_images"], stored["train_labels"].ravel().astype(np.int64)
        rows = (graph if args.what == "graph" else roofline)(args, folder, data, arrays)
    write(args.json, rows, args.device)


if __name__ == "__main__":
    main()

"""What exits and terms cost: a step with them as a multiple of the same network's plain step, in float32 and bfloat16, channels last.

    python benchmarks/exits.py [--quick] [--json exits.json] [--device cuda] [--model resnet18_32px]

Exits: three in front of the head of `--model` at 32 px, batch 32, each trained by cross entropy alone, so that a row differs from plain in
its exits: linear layers, BYOT's bottlenecks, BYOT's separable convolutions. Terms: on three linear exits, one more term each. The baseline of
a row is said in `against`. Neighbours: OSAKD's search alone, as a share of a plain step of ResNet-20 at 32 px (cifar/resnet20, 100 classes).
"""

from collections.abc import Callable
from typing import Any

import torch
from common import arguments, interleaved, row, write

import kdcore
from kdcore import Batch, Outputs, Step, backbones  # noqa: F401 - registers the 32-pixel ResNets
from kdcore.precision import Precision
from kdcore_osakd.knn import KNN

EXITS = {
    "three linear exits": ("deep-supervision", {}, {}),
    "three bottlenecks (byot)": ("byot", {"alpha": 0.0, "hint_weight": 0.0}, {}),
    "three separable convolutions (byot, final)": ("byot", {"preset": "final", "alpha": 0.0, "hint_weight": 0.0}, {}),
}
TERMS = {
    "kl@deepest on three exits": {"losses": ["kl@deepest:shallow"]},
    "kl@mean-of-exits on all": {"losses": ["kl@mean-of-exits"]},
    "mse@deepest on three exits": {"losses": ["mse@deepest:shallow"]},
    "a second cross entropy": {"losses": ["ce"]},
}


def step_of(
    model: str, method: str, options: dict, more: dict, batch: int, precision: Precision, device: torch.device
) -> Callable[[], Any]:
    """One forward and backward pass of a task of its own."""
    task = kdcore.compose(model, method, options=options, num_classes=100, image_size=32, device=device, batch_size=batch, **more).task()
    precision.apply(task)
    task.train()
    draw = torch.Generator().manual_seed(0)
    images = precision.images(torch.randn(batch, 3, 32, 32, generator=draw).to(device))
    labels, index = torch.randint(0, 100, (batch,), generator=draw).to(device), torch.arange(batch, device=device)

    def step() -> None:
        with precision.autocast(device):
            loss = task(images, labels, index)["loss"]
        loss.backward()
        task.zero_grad(set_to_none=True)

    return step


def search_of(batch: int, times: int, device: torch.device) -> Callable[[], Any]:
    """OSAKD's neighbours of a batch, sought so many times."""
    draw = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(batch, 100, generator=draw).to(device), torch.randint(0, 100, (batch,), generator=draw).to(device)
    clock, source = torch.zeros((), dtype=torch.float64, device=device), KNN(k=8)
    step = Step(Batch(torch.zeros(batch, 1, 1, 1, device=device), labels), Outputs([logits], []), clock, clock)

    def search() -> None:
        for _ in range(times):
            source(step)

    return search


def neighbours(batch: int, pairs: int, device: torch.device) -> dict[str, Any]:
    """The search as a share of the quickest plain step that we know of, in bfloat16."""
    precision, times = Precision("bfloat16", True), 20
    ratio = interleaved(
        step_of("cifar/resnet20", "plain", {}, {}, batch, precision, device), search_of(batch, times, device), pairs, device=device
    )
    share, low, high = (value / times for value in (ratio.median, ratio.low, ratio.high))
    print(f"{precision!s:26} neighbours, batch {batch:<37} {share:.4f} ({low:.4f} to {high:.4f}, {ratio.pairs} pairs) of plain", flush=True)
    about = {"against": "plain step of cifar/resnet20", "precision": str(precision), "batch": batch, "milliseconds": 1000 * ratio.b / times}
    met = {"target": "<= 0.005", "met": share <= 0.005}
    return row(f"neighbours/osakd.knn, batch {batch}", "share", share, low, high, ratio.pairs, **about, **met)


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--model", help="a backbone for 32-pixel images  [resnet18_32px; test_resnet_32px with --quick]")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    model = args.model or ("test_resnet_32px" if args.quick else "resnet18_32px")
    batch, pairs = (16, 5) if args.quick else (32, args.pairs)
    rows = []
    for amp in ("none", "bfloat16"):
        precision = Precision(amp, True)
        plain = step_of(model, "plain", {}, {}, batch, precision, device)
        linear = step_of(model, "deep-supervision", {}, {}, batch, precision, device)
        cases = [(f"exits/{name}", plain, "plain", *case) for name, case in EXITS.items()]
        cases += [(f"terms/{name}", linear, "three linear exits", "deep-supervision", {}, more) for name, more in TERMS.items()]
        for name, baseline, against, method, options, more in cases:
            ratio = interleaved(baseline, step_of(model, method, options, more, batch, precision, device), pairs, device=device)
            print(f"{precision!s:26} {name:52} {ratio} of {against}", flush=True)
            about = {"against": against, "precision": str(precision), "model": model, "batch": batch, "milliseconds": 1000 * ratio.b}
            rows.append(row(f"{name}/{amp}", "times a step", ratio.median, ratio.low, ratio.high, ratio.pairs, **about))
    rows += [neighbours(size, pairs, device) for size in ((64,) if args.quick else (64, 128, 256, 512))]
    write(args.json, rows, device)


if __name__ == "__main__":
    main()

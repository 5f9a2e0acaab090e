"""Automatic precision against float32 in the ordinary memory format: forward and backward of the whole task, exits included.

    python benchmarks/precision.py [--quick] [--json precision.json] [--models resnet18,...] [--all]

For each network: what `by_rule` chooses, and how many times faster a step is with it. --all also times every other combination of
bfloat16 and channels last, from which the rule was made. The ratio must never be below 0.97.
"""

from collections.abc import Callable
from typing import Any

import torch
from common import arguments, interleaved, row, write
from torch import Tensor

import kdcore
from kdcore.precision import Precision, by_rule

LEAST = 0.97

MODELS = {  # image size, batch: what two cores can do
    "resnet18": (96, 8),
    "resnet50": (96, 8),
    "mobilenetv3_small_100": (128, 8),
    "efficientnet_b0": (96, 8),
    "convnext_atto": (96, 8),
    "vit_tiny_patch16_224": (224, 8),
    "deit_tiny_patch16_224": (224, 8),
    "swin_tiny_patch4_window7_224": (224, 2),
    "regnety_002": (128, 8),
    "mobilevit_xxs": (128, 8),
    "cifar/resnet20": (32, 64),
    "cifar/shufflenetv2": (32, 32),
    "resnet18_32px": (32, 16),
}

QUICK = ("resnet18", "mobilenetv3_small_100", "cifar/resnet20")

METHODS = {"resnet18_32px": ("plain", "deep-supervision", "byot"), "cifar/resnet20": ("plain", "deep-supervision", "byot")}


def step_of(name: str, method: str, options: dict, precision: Precision, device: torch.device) -> Callable[[], Tensor]:
    """One forward and backward pass of a task of its own, laid out and cast as `precision` says."""
    size, batch = MODELS[name]
    task = kdcore.compose(name, method, options=options, num_classes=100, image_size=size, device=device, batch_size=batch).task()
    precision.apply(task)
    task.train()
    draw = torch.Generator().manual_seed(0)
    images = precision.images(torch.randn(batch, 3, size, size, generator=draw).to(device))
    labels, index = torch.arange(batch, device=device), torch.arange(batch, device=device)

    def step() -> None:
        with precision.autocast(device):
            loss = task(images, labels, index)["loss"]
        loss.backward()
        task.zero_grad(set_to_none=True)

    return step


def chosen_for(name: str, method: str, options: dict, device: torch.device) -> Precision:
    size, batch = MODELS[name]
    student = kdcore.compose(name, method, options=options, num_classes=100, image_size=size, device=device, batch_size=batch).student
    return by_rule(student, (size, size), device, "auto", None)


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--models", help="comma-separated; default: the list that docs/performance.md shows")
    parser.add_argument("--all", action="store_true", help="also every combination that the rule did not choose")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device, pairs = torch.device(args.device), 5 if args.quick else args.pairs
    names = args.models.split(",") if args.models else QUICK if args.quick else tuple(MODELS)
    rows: list[dict[str, Any]] = []
    for name in names:
        cases = [(method, {}) for method in METHODS.get(name, ("plain",))]
        if name == "resnet18_32px":
            cases.append(("byot", {"preset": "final"}))  # separable exits
        for method, options in cases:
            try:
                rule = chosen_for(name, method, options, device)
            except kdcore.KdError as error:  # a plugin that is not installed
                print(f"{name:30} {method}: left out: {error}")
                continue
            others = [Precision(amp, last) for amp in ("none", "bfloat16") for last in (False, True)] if args.all else [rule]
            case = "/".join([name, method, *options.values()])
            plain = step_of(name, method, options, Precision(), device)
            for candidate in others:
                if candidate == Precision():
                    if candidate == rule:
                        rows.append(row(case, "times float32", 1.0, 1.0, 1.0, 0, chosen=str(rule), target=f">= {LEAST}", met=True))
                        print(f"{name:30} {method:17} {rule!s:27} is what it is measured against <- the rule")
                    continue
                ratio = interleaved(step_of(name, method, options, candidate, device), plain, pairs, device=device)
                mark = " <- the rule" if candidate == rule else ""
                print(f"{name:30} {method:17} {candidate!s:27} {ratio} times as fast{mark}", flush=True)
                about: dict[str, Any] = {"precision": str(candidate), "method": method, "options": options, "size": MODELS[name][0]}
                if candidate == rule:
                    about |= {"chosen": str(rule), "target": f">= {LEAST}", "met": ratio.median >= LEAST}
                what = f"{case}, {candidate}" if args.all else case
                rows.append(row(what, "times float32", ratio.median, ratio.low, ratio.high, pairs, **about))
    write(args.json, rows, device)


if __name__ == "__main__":
    main()

"""One whole run of BYOT by its recipe (preset `conference`, 200 epochs, test accuracy after every epoch), in pieces, beside the paper's row.

    python benchmarks/gpu_byot.py cifar100.npz --run runs/byot [--limit 540] [--json byot.json] --device cuda [--compile]

Ends after --limit seconds at the next epoch's end, with what there is so far; the same command again goes on from there.
"""

import sys
import time
from pathlib import Path
from typing import Any

from common import arguments, row, write

import kdcore
from kdcore.runs import Run
from kdcore.session import Watch

PAPER = {"exit1": 67.85, "exit2": 74.57, "exit3": 78.23, "exit4": 78.64, "ensemble": 79.67}
"""Table 1 of Zhang et al. (arXiv:1905.08094): ResNet-18 on CIFAR-100, top-1 of the exits from the shallowest, and of their ensemble."""


class Limit(Watch):
    """Stops after the epoch in which the time runs out, and says how each went."""

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds

    def note(self, text: str) -> None:
        print(text, flush=True)

    def epoch(self, record: Any) -> None:
        numbers = {name: value for name, value in (record.get("test") or {}).items() if name.endswith("/top1")}
        told = " ".join(f"{name.removesuffix('/top1')} {value:.2f}" for name, value in numbers.items())
        print(
            f"epoch {record['epoch']} of {record['epochs']}, loss {record['train']['loss']:.3f}, {60 * record['minutes']:.1f} s {told}",
            flush=True,
        )
        if time.monotonic() > self.end and record["epoch"] < record["epochs"]:
            raise KeyboardInterrupt


def accuracies(report: dict[str, Any]) -> dict[str, float]:
    """Top-1 of every exit and of the ensemble, from `results.json`."""
    found = {f"exit{entry['exit']}": entry["top1"] for entry in report["exits"]}
    if report["ensembles"]:
        found["ensemble"] = report["ensembles"]["mean_logits"]["top1"]
    return found


def rows_of(run: Run, model: str) -> list[dict[str, Any]]:
    """The paper's row and ours, and the minutes; or how far the run has got."""
    records, results = run.metrics(), run.results()
    about = {"student": model, "epochs": len(records)}
    minutes = sum(record["minutes"] for record in records)
    if results is None:
        done, of = len(records), records[-1]["epochs"] if records else 0
        print(f"{done} of {of} epochs in {minutes:.1f} minutes; the same command goes on", flush=True)
        return [row("byot/epochs so far", "epochs", done, done, done, 1, **about, minutes=minutes)]
    rows = []
    for name, value in accuracies(results["last"]["test"]).items():
        paper = PAPER.get(name) if model in ("cifar/resnet18", "resnet18_32px") else None
        rows.append(
            row(f"byot/{name}, last epoch", "% top-1", value, value, value, 1, **about, **({"against": f"paper {paper}"} if paper else {}))
        )
        print(f"{name:9} {value:6.2f} {'(paper ' + str(paper) + ')' if paper else ''}", flush=True)
    told = {**about, "target": "<= 6", "met": minutes <= 6} if len(records) == 200 else about
    rows.append(row("byot/minutes, evaluation included", "minutes", minutes, minutes, minutes, 1, **told))
    print(f"{minutes:.2f} minutes", flush=True)
    return rows


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("data")
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--model", default="cifar/resnet18")
    parser.add_argument("--limit", type=float, default=540, help="seconds after which it ends with the epoch, to go on later")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    watch = Limit(args.limit)
    settings: dict[str, Any] = {"epochs": 2, "train_limit": 256, "batch_size": 64, "decay_milestones": [1]} if args.quick else {}
    settings |= {"epochs": args.epochs} if args.epochs else {}
    try:
        if (args.run / "config.toml").exists():
            kdcore.train(run=args.run, resume=True, watch=watch)
        else:
            settings |= {"seed": args.seed, "device": args.device, "compile": args.compile, "dev_fraction": 0.0, "test_every_epoch": True}
            kdcore.train(args.model, args.data, recipe="byot", run=args.run, watch=watch, **settings)
    except KeyboardInterrupt:
        if time.monotonic() < watch.end:
            sys.exit(130)  # somebody's, not ours
    write(args.json, rows_of(Run.open(args.run), args.model), args.device)


if __name__ == "__main__":
    main()

"""Plain, deep supervision and BYOT on Fashion-MNIST: three paired seeds, 20,000 images, 6 epochs; prints the table of docs/results.md.

    python benchmarks/fashion_mnist.py fashion-mnist.npz [--seeds 3] [--runs runs/fashion]

The .npz has the MedMNIST keys ({train,test}_{images,labels}). Finished runs are not run again. About 20 minutes on two cores.
"""

import argparse
from pathlib import Path
from statistics import mean, stdev

import kdcore
from kdcore.runs import Run, environment

METHODS = ("plain", "deep-supervision", "byot")
SETTINGS = {
    "epochs": 6,
    "train_limit": 20_000,
    "batch_size": 64,
    "lr": 0.05,
    "crop_pad": 0,
    "hflip": 0.5,
    "amp": "bfloat16",
    "channels_last": True,
}


def cell(runs: Path, method: str, data: str, seed: int, model: str) -> Run:
    """One run, made unless it is there already; an interrupted one goes on."""
    folder = runs / f"{method}-{seed}"
    if (folder / "results.json").exists():
        return Run.open(folder)
    if (folder / "config.toml").exists():
        return kdcore.train(run=folder, resume=True).run
    return kdcore.train(model, data, method=method, seed=seed, run=folder, **SETTINGS).run


def row(name: str, runs: list[Run], which: str, exits: int) -> str:
    """Mean and deviation over the seeds of each exit's and the ensemble's top-1 on the test set."""
    reports = [run.results()[which]["test"] for run in runs]
    cells = {entry["exit"]: [r["exits"][k]["top1"] for r in reports] for k, entry in enumerate(reports[0]["exits"])}
    if len(cells) == 1:
        cells = {exits: next(iter(cells.values()))}
    texts = [spread(cells[k]) if k in cells else "" for k in range(1, exits + 1)]
    texts.append(spread([r["ensembles"]["mean_logits"]["top1"] for r in reports]) if reports[0]["ensembles"] else "")
    minutes = mean(run.results()["minutes"] for run in runs)
    return f"| {name} | {' | '.join(texts)} | {minutes:.1f} |"


def spread(values: list[float]) -> str:
    return f"{mean(values):.2f} ± {stdev(values):.2f}" if len(values) > 1 else f"{values[0]:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=Path, default=Path("runs/fashion"))
    parser.add_argument("--model", default="test_resnet_32px")
    arguments = parser.parse_args()
    runs: dict[str, list[Run]] = {name: [] for name in METHODS}
    for seed in range(arguments.seeds):
        for name in METHODS:
            runs[name].append(cell(arguments.runs, name, arguments.data, seed, arguments.model))
            print(f"{name}, seed {seed}: {runs[name][-1].path}", flush=True)
    exits = max(len(run.results()["last"]["test"]["exits"]) for group in runs.values() for run in group)
    machine = environment([])
    for which, title in (("last", "last epoch"), ("best", "best epoch on dev")):
        print(f"\nTest top-1 in %, {title}, mean ± deviation of {arguments.seeds} seeds\n")
        print("| method | " + " | ".join(f"exit {k}" for k in range(1, exits + 1)) + " | ensemble | minutes a run |")
        print("|---" * (exits + 3) + "|")
        for name, group in runs.items():
            print(row(name, group, which, exits))
    print("\n" + ", ".join(f"{key} {machine[key]}" for key in machine if isinstance(machine[key], str)))


if __name__ == "__main__":
    main()

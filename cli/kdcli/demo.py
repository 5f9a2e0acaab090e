"""`kd demo`: real images, a small backbone, few labels; plain training, deep supervision and self-distillation side by side.

The images are scikit-learn's digits: 20 labels a class to train on, 1,000 to test on. Every method gets the same settings and the same seeds;
the table shows the last epoch, so that nothing was selected by looking. The learning rate is the best of .05, .1, .2 and .4 for plain training on
dev, over the seeds 10 to 14 (93.5, 95.3, 95.3, 95.8 %), which no run of the demo uses by default.
"""

import os
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from kdcore.errors import KdError

METHODS = ("plain", "deep-supervision", "byot")
MODEL, DATA = "test_resnet_32px", "digits"
SETTINGS: dict[str, Any] = {
    "img_size": 16,
    "labels_per_class": 20,
    "batch_size": 64,
    "amp": "none",
    "channels_last": True,
}


@click.command()
@click.option("--seeds", type=click.IntRange(1), default=3, help="seeds for each method, paired  [3]")
@click.option("--epochs", type=click.IntRange(1), default=40, help="epochs of each run  [40]")
@click.option("--lr", type=click.FloatRange(0, min_open=True), default=0.4, help="learning rate of each run  [0.4]")
@click.option("--run", metavar="DIR", help="the folder of the runs  [runs/demo-N]")
def demo(seeds: int, epochs: int, lr: float, run: str | None) -> None:
    """Train a small timm backbone on scikit-learn's digits plainly, with deep supervision and by its own teaching, and compare.

    Needs no download, and less than four minutes on two cores.
    """
    methods, missing = available()

    from kdcli.progress import Total
    from kdcli.tables import console
    from kdcore.training import train

    folder = make_folder(run)
    out = console()
    out.print(f"{MODEL} on {DATA}: 200 labelled images, 1000 test images, {len(methods)} methods x {seeds} seeds x {epochs} epochs")
    begin = time.monotonic()
    found: dict[str, list[dict[str, float]]] = {method: [] for method in methods}
    with one_thread(), Total(len(methods) * seeds * epochs) as watch:
        for seed in range(seeds):
            for method in methods:
                watch.about(f"{method}, seed {seed}")
                settings = {**SETTINGS, "epochs": epochs, "lr": lr, "seed": seed}
                results = train(MODEL, DATA, method=method, run=folder / f"{method}-{seed}", watch=watch, **settings).results
                found[method].append(accuracies(results))
                watch.done(f"{method}, seed {seed}: {found[method][-1]['last']:.1f} %, {results['seconds_this_time']:.0f} s")
    minutes = (time.monotonic() - begin) / 60
    out.print("", summary(found))
    out.print(f"test top-1 in percent at the last epoch, mean ± standard deviation of {seeds} paired seeds; plain has only the last exit")
    out.print(f"{minutes:.1f} minutes on {hardware()}", soft_wrap=True)
    out.print(f"again: kd demo --seeds {seeds} --epochs {epochs} --lr {lr:g}    one run: kd eval {folder}/{methods[-1]}-0", soft_wrap=True)
    if missing:
        out.print(missing, soft_wrap=True)


def available() -> tuple[list[str], str]:
    """The methods that can run here, and a line about the one that cannot."""
    from kdcore.plugins import Plugins, installed

    own = [method for method in METHODS if method != "byot"]
    if not any(info.name == "byot" for info in installed()):
        return own, "BYOT was left out: pip install kdcore-byot adds it"
    try:
        Plugins().part("methods", "byot")
    except KdError as error:
        return own, f"BYOT was left out: {error}"
    return list(METHODS), ""


def make_folder(run: str | None) -> Path:
    from kdcore.files import file_errors
    from kdcore.runs import Run

    if run is not None:
        Run.check_free(run)
        with file_errors(run, "make a folder at"):
            Path(run).mkdir(parents=True, exist_ok=True)
        return Path(run)
    number = 1
    with file_errors("runs", "make a folder in"):
        Path("runs").mkdir(exist_ok=True)
        while True:
            try:
                (folder := Path("runs") / f"demo-{number}").mkdir()
                return folder
            except FileExistsError:
                number += 1


@contextmanager
def one_thread() -> Iterator[None]:
    """Networks this small are faster on one thread, by far where other work shares the cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def accuracies(results: dict[str, Any]) -> dict[str, float]:
    """Test top-1 at the last epoch: by exit, of the last exit, and of the mean of the exits' logits."""
    report = results["last"]["test"]
    found = {f"exit {entry['exit']}": entry["top1"] for entry in report["exits"]}
    if report["ensembles"]:
        found["ensemble"] = report["ensembles"]["mean_logits"]["top1"]
    return {**found, "last": report["exits"][-1]["top1"]}


def summary(found: dict[str, list[dict[str, float]]]) -> Any:
    """Rows are methods; columns the exits, shallow to deep, and the ensemble. A single exit is the last one."""
    from rich.table import Table

    count = max(sum(name.startswith("exit") for name in runs[0]) for runs in found.values())
    columns = [f"exit {k}" for k in range(1, count + 1)]
    table = Table(header_style="bold")
    for heading in ("method", *columns[:-1], f"{columns[-1]} (last)", "ensemble"):
        table.add_column(heading, justify="left" if heading == "method" else "right", no_wrap=True)
    for method, runs in found.items():
        names = [*columns[:-1], "last", "ensemble"] if "ensemble" in runs[0] else [*[""] * (count - 1), "last", ""]
        table.add_row(method, *(spread([run[name] for run in runs]) if name in runs[0] else "-" for name in names))
    return table


def spread(values: list[float]) -> str:
    """`93.8 ± 1.4`; one value has no deviation."""
    mean = f"{statistics.mean(values):.1f}"
    return f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean


def hardware() -> str:
    from kdcore.runs import environment

    here = environment([])
    threads = f"one thread of {os.cpu_count()}"
    return f"{here['gpu'] or here['cpu']} ({threads}), torch {here['versions']['torch']}, timm {here['versions']['timm']}"

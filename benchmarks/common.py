"""What all benchmarks share: interleaved timing, the median with its interval, the machine in words, one JSON file of rows.

A benchmark is a ratio of two things that ran in turns in one process (A B A B), so that what else the machine does meets both alike.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import comb
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Ratio:
    """The median of b / a over the pairs, and its interval. a, b: median seconds of each; difference: that of b - a, in seconds."""

    median: float
    low: float
    high: float
    pairs: int
    a: float
    b: float
    difference: float
    difference_low: float
    difference_high: float

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.low:.3f} to {self.high:.3f}, {self.pairs} pairs)"


def interleaved(
    a: Callable[[], Any],
    b: Callable[[], Any],
    pairs: int = 15,
    *,
    warmup: int = 1,
    device: Any = "cpu",
    clock: Callable[[], float] = time.perf_counter,
) -> Ratio:
    """Runs A B, B A, A B and so on, each timed by itself, after `warmup` runs of both that do not count. `a` is what `b` is measured against.

    clock: `time.process_time` counts this process's own work on the CPU, whatever else the machine does; for host work in one thread.
    """
    for _ in range(warmup):
        seconds(a, device), seconds(b, device)
    took = []
    for pair in range(pairs):
        first, second = (a, b) if pair % 2 == 0 else (b, a)
        one, two = seconds(first, device, clock), seconds(second, device, clock)
        took.append((one, two) if pair % 2 == 0 else (two, one))
    return ratio_of([pair[0] for pair in took], [pair[1] for pair in took])


def seconds(function: Callable[[], Any], device: Any = "cpu", clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds that one call takes, all that it gave to the device included."""
    wait(device)
    begin = clock()
    function()
    wait(device)
    return clock() - begin


def wait(device: Any) -> None:
    if str(device).startswith("cuda"):
        import torch

        torch.cuda.synchronize(device)


def ratio_of(a: list[float], b: list[float]) -> Ratio:
    """From the seconds of each pair."""
    ratios = [two / one for one, two in zip(a, b, strict=True)]
    differences = [two - one for one, two in zip(a, b, strict=True)]
    (low, high), (less, more) = rank_interval(ratios), rank_interval(differences)
    medians = [statistics.median(values) for values in (a, b, differences)]
    return Ratio(statistics.median(ratios), low, high, len(ratios), *medians, less, more)


def rank_interval(values: Iterable[float], level: float = 0.95) -> tuple[float, float]:
    """The interval of the median between two order statistics, which holds for any distribution: at least `level`, or all that there is."""
    ordered = sorted(values)
    count, cut, tail = len(ordered), 0, 0.0
    while cut < count // 2 and tail + comb(count, cut) / 2**count <= (1 - level) / 2:
        tail += comb(count, cut) / 2**count
        cut += 1
    cut = max(cut - 1, 0)
    return ordered[cut], ordered[count - 1 - cut]


def machine(device: Any = "cpu") -> dict[str, Any]:
    """Where a row was measured."""
    import timm
    import torch

    told: dict[str, Any] = {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": timm.__version__,
        "device": str(device),
    }
    if str(device).startswith("cuda"):
        told["gpu"] = torch.cuda.get_device_name(device)
    return told


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def row(name: str, unit: str, median: float, low: float, high: float, pairs: int, **more: Any) -> dict[str, Any]:
    """One measured number as it stands in the JSON. more: what else its table shows (against, target, ...)."""
    return {"name": name, "unit": unit, "median": median, "low": low, "high": high, "pairs": pairs, **more}


def write(path: str | Path | None, rows: list[dict[str, Any]], device: Any = "cpu") -> None:
    """The rows as JSON, each with the machine, the date and the command; nothing without a path."""
    if path is None:
        return
    where = {
        "machine": machine(device),
        "date": time.strftime("%Y-%m-%d"),
        "command": " ".join([Path(sys.argv[0]).name, *without_paths(sys.argv[1:])]),
    }
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps([{**item, **where} for item in rows], indent=2) + "\n")
    print(f"written to {path}")


def without_paths(words: list[str]) -> list[str]:
    """The command's words but for --json FILE, which says nothing but where this machine keeps things."""
    at = words.index("--json") if "--json" in words else len(words)
    return words[:at] + words[at + 2 :]


def arguments(description: str) -> argparse.ArgumentParser:
    """A parser with what every benchmark takes: --quick, --json FILE, --device NAME, --pairs N, --threads N; a script may add its own."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="less than a minute: shorter blocks and fewer cases, which prove that it runs")
    parser.add_argument("--json", metavar="FILE", help="write the rows there")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--pairs", type=int, default=15, help="A B pairs of each row")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    return parser

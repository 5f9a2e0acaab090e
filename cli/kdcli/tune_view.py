"""What `kd tune` shows: a bar and a line for each trial on stderr, then the table of the best."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from kdcli.tables import console, grid
from kdcore.estimate import Estimate, counted
from kdcore.tuning import Tuned, TuneWatch
from kdcore.tuning.outcome import BEST
from kdcore.tuning.plan import Plan

ROWS = 10


def follow(quiet: bool) -> "View":
    return View(Console(stderr=True, highlight=False, markup=False, soft_wrap=True, quiet=quiet))


class View(TuneWatch):
    """One bar over all trials, and a line for each that ended."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.folder: Path | None = None
        self.plan: Plan | None = None
        self.total = self.done = 0
        self.estimated = False
        columns = (
            TextColumn("{task.description}"),
            BarColumn(30),
            TextColumn("{task.completed:.0f}/{task.total} trials"),
            TextColumn("{task.fields[place]}"),
        )
        self.bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self.task = self.bar.add_task("looking at the data", total=None, place="", visible=True)

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.bar.stop()

    def begun(self, folder: Path, plan: Plan, trials: int, done: int) -> None:
        self.folder, self.plan, self.total, self.done = folder, plan, trials, done
        method, model, data = (plan.settings.get(name) for name in ("method", "model", "data"))
        drawn = "a grid" if plan.strategy == "grid" else plan.strategy
        pruned = "nothing pruned" if plan.pruner == "none" else f"pruner {plan.pruner}"
        self.console.print(
            f"tuning {method} on {model}, {data}, by {plan.measure}: {counted(trials, 'trial')} ({drawn}, {pruned}); {folder}"
            + (f"; {done} of them done" if done else "")
        )
        for dimension in plan.space:
            self.console.print(f"  {dimension}")
        self.bar.update(self.task, description="", total=trials, completed=done)

    def remark(self, text: str) -> None:
        self.console.print(f"  {text}")

    def estimate(self, expected: Estimate, done: int) -> None:
        if self.plan is not None and not self.estimated and not done:
            self.estimated = True
            runs = (self.total - self.done) * self.plan.seeds
            whole = f"; {counted(runs, 'run')} like it {clock(runs * expected.seconds)}, if none is pruned" if runs > 1 else ""
            self.console.print(f"  this run takes about {clock(expected.seconds)}{whole}")

    def trial(self, row: Mapping[str, Any]) -> None:
        self.bar.update(self.task, description=f"trial {row['number']}", place="")

    def epoch(self, record: Mapping[str, Any]) -> None:
        self.bar.update(
            self.task, completed=self.done + record["epoch"] / record["epochs"], place=f"epoch {record['epoch']}/{record['epochs']}"
        )

    def ended(self, row: Mapping[str, Any], best: Mapping[str, Any] | None) -> None:
        self.done += 1
        self.bar.update(self.task, completed=self.done, place="")
        assert self.plan is not None
        said = f"trial {row['number']}: {settings_text(row['settings'])}: {outcome(row, self.plan)}"
        if best is not None and best["number"] == row["number"]:
            said += ", the best so far"
        self.console.print(said)


def outcome(row: Mapping[str, Any], plan: Plan) -> str:
    """`93.1 % (epoch 9), 0:12`; `pruned after epoch 2`; `failed: why`."""
    if row["same_as"] is not None:
        return f"{row['state']}, the same as trial {row['same_as']}, and not run again"
    if row["state"] == "finished":
        text = plan.measure.text(row["value"])
        return f"{text} (mean of {len(row['values'])})" if len(row["values"]) > 1 else f"{text} (epoch {row['epoch']})"
    if row["state"] == "pruned":
        return f"pruned after {counted(row['epochs'], 'epoch')}"
    if row["state"] == "diverged":
        return f"diverged in epoch {row['epochs'] + 1}"
    return f"{row['state']}: {row['why']}"


def settings_text(settings: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={word(value)}" for name, value in settings.items())


def word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def clock(seconds: float) -> str:
    """`12 s`, `3 min`, `2.5 h`"""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def show(found: Tuned) -> None:
    """The best trials, what mattered, and what comes next."""
    out, plan, place = console(100), found.plan, shlex.quote(str(found.folder))
    states = [row["state"] for row in found.trials]
    counts = [f"{states.count(state)} {state}" for state in ("finished", "pruned", "diverged", "failed", "unfinished") if state in states]
    names = [dimension.name for dimension in plan.space]
    many = plan.seeds > 1
    headings = [
        "trial",
        str(plan.measure) + ("" if plan.measure.minimised else " %"),
        *(["seeds"] if many else ["epoch"]),
        *names,
        "minutes",
    ]
    rows = []
    for row in found.ranked[:ROWS]:
        value = plan.measure.text(row["value"]).removesuffix(" %")
        middle = " ".join(plan.measure.text(v).removesuffix(" %") for v in row["values"]) if many else row["epoch"]
        rows.append([row["number"], value, middle, *(word(row["settings"][name]) for name in names), f"{row['minutes']:.1f}"])
    out.print(f"{counted(len(states), 'trial')}: {', '.join(counts)}" if states else "no trial has begun")
    if rows:
        out.print(grid("" if len(rows) == 1 else "best first", headings, rows, right=[headings[0], headings[1], "epoch", "minutes"]))
    for row in found.trials:
        if row["state"] == "failed":
            out.print(f"trial {row['number']} failed: {row['why']}", soft_wrap=True)
    if found.importance:
        share = ", ".join(f"{name} {100 * value:.0f} %" for name, value in found.importance.items())
        out.print(f"\nimportance (share of the spread that it explains): {share}", soft_wrap=True)
    for note in found.notes:
        out.print(note, soft_wrap=True)
    if found.best is None:
        out.print(f"no trial has finished yet: kd tune --dir {place} --resume", soft_wrap=True)
        return
    out.print()
    lines = {
        "the best, with the test split:": f"kd train --config {place}/{BEST}",
        "all trials as runs:": f"kd runs {place}/trials --sort dev",
    }
    if len(states) >= found.total and "unfinished" not in states and found.plan.strategy != "grid":
        lines["more trials:"] = f"kd tune --dir {place} --resume --trials {2 * len(states)}"
    for what, line in lines.items():
        out.print(f"{what:<32}{line}", soft_wrap=True)
    if found.pictures:
        out.print(f"{'pictures:':<32}{', '.join(f'{found.folder}/{name}' for name in found.pictures)}", soft_wrap=True)
    if len(found.ranked) > 1:
        out.print(
            "The best of many on dev is partly luck: only the test split, which none of them has seen, says what it is worth.",
            soft_wrap=True,
        )

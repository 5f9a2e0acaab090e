"""Tables for people. Numbers with their units in the heading; a percentage has one decimal."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kdcore.comparing import checkpoint_label as label

NAMES = 36  # columns for the names of exits, ensembles and checkpoints


def console(width: int = 140) -> Console:
    """Standard output, `width` columns wide where nobody's terminal says how wide it is."""
    return Console(width=None if sys.stdout.isatty() else width, highlight=False, markup=False)


def grid(title: str, headings: Sequence[str], rows: Iterable[Iterable[Any]], *, right: Iterable[str] = ()) -> Table:
    """A plain table without rules: a title, headings, rows. `right`: the headings over numbers."""
    table = Table(title=title, title_justify="left", title_style="bold", header_style="dim", box=None, padding=(0, 2, 0, 0))
    for heading in headings:
        table.add_column(heading, justify="right" if heading in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(written(cell)) for cell in row))
    return table


def written(cell: Any) -> str:
    if isinstance(cell, list | tuple):
        return ", ".join(map(str, cell))
    return "-" if cell is None else str(cell)


def results_table(results: Mapping[str, Any], costs: Sequence[Mapping[str, Any]]) -> Table:
    """What `results.json` came to: the delivered checkpoint, and the last epoch where that is another one."""
    delivered = "best" if results["checkpoints"]["delivered"] == results["checkpoints"]["best"] else "last"
    groups = [(f"delivered: {label(results, delivered)}", results[delivered])]
    if results[delivered]["epoch"] != results["last"]["epoch"]:
        groups.append((label(results, "last"), results["last"]))
    return exits_table(groups, costs)


def exits_table(groups: Sequence[tuple[str, Mapping[str, Any]]], costs: Sequence[Mapping[str, Any]]) -> Table:
    """Rows are exits, then ensembles; a group of rows for each labelled report. Top-1, top-5 and ECE are in percent. At most 100 columns."""
    splits = [name for name in ("dev", "test") if name in groups[0][1]]
    shown = splits[-1]
    first = groups[0][1][shown]["exits"][0]
    more = ["top5"] if "top5" in first else []
    known = {cost["exit"]: cost for cost in costs}
    table = Table(header_style="bold", box=SIMPLE_HEAD, padding=(0, 1))
    table.add_column("exit", max_width=NAMES, overflow="fold")
    titles = {"top5": "top-5", "nll": "NLL", "ece": "ECE"}
    for heading in [*(f"{name} top-1" for name in splits), *(f"{shown} {titles[key]}" for key in (*more, "nll", "ece"))]:
        table.add_column(heading.replace(" ", "\n"), justify="right")
    for heading in ("parameters", "MACs"):
        table.add_column(heading, justify="right")
    for title, reports in groups:
        table.add_section()
        table.add_row(Text(title, style="italic"))
        for name, entries, cost in rows_of(reports, splits, known):
            numbers = [f"{entry['top1']:.1f}" for entry in entries]
            numbers += [f"{entries[-1][key]:.3f}" if key == "nll" else f"{entries[-1][key]:.1f}" for key in (*more, "nll", "ece")]
            table.add_row(name, *numbers, *(short(cost[key]) if cost else "" for key in ("parameters", "macs")))
    return table


def rows_of(reports: Mapping[str, Any], splits: Sequence[str], known: Mapping[int, Any]) -> Iterable[tuple[str, list[Any], Any]]:
    """Name, one entry for each split, and cost: of every exit, then of every ensemble."""
    tables = [reports[name] for name in splits]
    for place, entry in enumerate(tables[0]["exits"]):
        yield str(entry["exit"]), [table["exits"][place] for table in tables], known.get(entry["exit"])
    for name in tables[0]["ensembles"]:
        title = {"fitted": "ensemble, fitted on dev"}.get(name, f"ensemble, {name.replace('_', ' ')}")
        yield title, [table["ensembles"].get(name, tables[0]["ensembles"][name]) for table in tables], None


def classes_table(report: Mapping[str, Any], split: str, most: int = 20) -> Table:
    """Recall of each class at every exit, in percent, and what the last exit mistakes it for most often; the worst first."""
    exits = report["exits"]
    last = exits[-1]
    names = list(last["recall"])
    seen = [k for k, name in enumerate(names) if last["recall"][name] is not None]
    worst = sorted(seen, key=lambda k: last["recall"][names[k]])[:most]
    title = f"recall by class on {split}, worst first" + (f": {most} of {len(seen)} classes" if len(seen) > most else "")
    headings = ["class", "images", *(f"exit {entry['exit']}" for entry in exits), "taken for"]
    rows = []
    for k in worst:
        counts = last["confusion"][k]
        wrong = max((count, other) for other, count in enumerate(counts) if other != k)
        taken = f"{names[wrong[1]]} ({wrong[0]})" if wrong[0] else None
        rows.append([names[k], sum(counts), *(f"{entry['recall'][names[k]]:.1f}" for entry in exits), taken])
    return grid(title, headings, rows, right=headings[1:-1])


def short(count: int) -> str:
    """`1234567` as `1.23 M`."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return str(count)

"""Tables for people. Numbers with their units in the heading; a percentage has one decimal."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from kdcore.comparing import checkpoint_label as label
from kdcore.comparing import plugin_numbers

NAMES = 28  # columns for the names of exits and ensembles


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


def results_table(results: Mapping[str, Any], costs: Sequence[Mapping[str, Any]]) -> Group:
    """What `results.json` came to: the delivered checkpoint, and the last epoch where that is another one."""
    delivered = "best" if results["checkpoints"]["delivered"] == results["checkpoints"]["best"] else "last"
    groups = [(f"delivered: {label(results, delivered)}", results[delivered])]
    if results[delivered]["epoch"] != results["last"]["epoch"]:
        groups.append((label(results, "last"), results["last"]))
    return exits_table(groups, costs)


def exits_table(groups: Sequence[tuple[str, Mapping[str, Any]]], costs: Sequence[Mapping[str, Any]]) -> Group:
    """Rows are exits, then ensembles; a group of rows for each labelled report. Top-1, top-5 and ECE are in percent. Fits 100 columns."""
    splits = [name for name in ("dev", "test") if name in groups[0][1]]
    if not splits:
        return Group(Text("There is neither a dev nor a test split: nothing was measured."))
    shown = splits[-1]
    more = ["top5"] if "top5" in groups[0][1][shown]["exits"][0] else []
    known = {cost["exit"]: cost for cost in costs}
    titles = {"top5": "top-5", "nll": "NLL", "ece": "ECE"}
    measured = [*(f"{name} top-1" for name in splits), *(f"{shown} {titles[key]}" for key in (*more, "nll", "ece"))]
    headings = {"exit": NAMES, **dict.fromkeys(measured, 10 if len(measured) < 5 else 6), "parameters": 10, "MACs": 7}
    pieces: list[Any] = [_columns(headings, header=True), "─" * (sum(headings.values()) + 2 * len(headings) - 2)]
    for title, reports in groups:
        rows = _columns(headings, header=False)
        for name, entries, cost in rows_of(reports, splits, known):
            numbers = [f"{entry['top1']:.1f}" for entry in entries]
            numbers += [in_columns(entries[-1][key]) if key == "nll" else f"{entries[-1][key]:.1f}" for key in (*more, "nll", "ece")]
            rows.add_row(name, *numbers, *(short(cost[key]) if cost else "" for key in ("parameters", "macs")))
        pieces += [Text(title, style="italic"), rows]
    return Group(*pieces, *plugins_table(groups[0][1], shown))


def plugins_table(reports: Mapping[str, Any], split: str) -> Iterable[Any]:
    """What metrics of plugins say of every exit and ensemble, below an empty line; nothing where there are none."""
    numbers = [(name, plugin_numbers(entries[-1])) for name, entries, _ in rows_of(reports, [split], {})]
    if titles := list(dict.fromkeys(title for _, found in numbers for title in found)):
        rows = _columns({"exit": NAMES, **{title: max(map(len, title.split())) for title in titles}}, header=True)
        for name, found in numbers:
            rows.add_row(name, *("-" if (value := found.get(title)) is None else f"{value:.4g}" for title in titles))
        yield from ("", Text(f"metrics of plugins on {split}", style="italic"), rows)


def _columns(headings: Mapping[str, int], *, header: bool) -> Table:
    """Columns of these widths, so that groups stand below one heading; the first is text."""
    table = Table(header_style="bold", box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=header)
    for place, (heading, width) in enumerate(headings.items()):
        table.add_column(heading, width=width, justify="right" if place else "left", vertical="bottom", overflow="fold")
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


def in_columns(value: float, columns: int = 6) -> str:
    """A number of so many columns, with three decimals or as many of them as there is room for: `1.234`, `150.39`, `1e+06`."""
    return next((text for digits in (3, 2, 1, 0) if len(text := f"{value:z.{digits}f}") <= columns), f"{value:.0e}")


def short(count: int) -> str:
    """`1234567` as `1.23 M`."""
    for unit, size in (("T", 10**12), ("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return str(count)

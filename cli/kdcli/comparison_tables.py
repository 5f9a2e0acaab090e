"""A comparison in the terminal: within 100 columns, a number above its deviation, and tables that are too wide in pieces. Imports no torch."""

from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from kdcore.comparison.aggregate import Comparison
from kdcore.comparison.sheets import LEGEND, Sheet, lines_of, sheets

WIDTH = 100
NAME = 24  # columns for the names of rows
GAP = 2


def comparison_tables(found: Comparison, width: int = WIDTH) -> Group:
    """Accuracies at every checkpoint, differences at the delivered one, minutes and machines, and the notes."""
    pieces: list[Any] = []
    for place, sheet in enumerate(sheets(found)):
        if sheet.name == "details" or (sheet.name.startswith("difference") and place > 1):
            continue  # those are in the files
        pieces += [Text(sheet.title, style="bold"), *(_table(sheet, columns) for columns in _pieces(sheet, width)), Text("")]
    pieces += [Text(line, style="dim") for line in LEGEND]
    minutes = {row: list(values.values()) for row, values in found.costs.get("minutes", {}).items() if values}
    if minutes:
        pieces.append(Text("minutes a run: " + ", ".join(f"{row} {sum(values) / len(values):.1f}" for row, values in minutes.items())))
    pieces += [Text(f"on {machine}") for machine in found.costs.get("machines", [])]
    return Group(*pieces, *(Text(f"note: {note}", style="yellow") for note in found.notes))


def _table(sheet: Sheet, columns: Sequence[int]) -> Table:
    table = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("", width=_name_width(sheet), overflow="fold")
    for column in columns:
        table.add_column(_heading(sheet, column), width=_width(sheet, column), justify="right", vertical="top", overflow="fold")
    for row in sheet.rows:
        table.add_row(*(Text("\n".join(lines_of(row[column]))) for column in (0, *columns)))
    return table


def _pieces(sheet: Sheet, width: int) -> Iterator[list[int]]:
    """The columns after the first, as many of them beside each other as fit."""
    piece: list[int] = []
    left = free = width - _name_width(sheet) - GAP
    for column in range(1, len(sheet.headings)):
        wide = _width(sheet, column)
        if piece and wide > left:
            yield piece
            piece, left = [], free
        piece.append(column)
        left -= wide + GAP
    yield piece


def _heading(sheet: Sheet, column: int) -> str:
    return sheet.headings[column].replace("ensemble,", "ens.").replace("probabilities", "probs")


def _name_width(sheet: Sheet) -> int:
    return min(NAME, max(len(line) for row in sheet.rows for line in lines_of(row[0])))


def _width(sheet: Sheet, column: int) -> int:
    """Of the widest number or interval, and of the widest word of what stands above or below it: words wrap."""
    lines = [line for row in sheet.rows for line in lines_of(row[column])]
    remarks = [line for line in lines if line.startswith("(")]
    words = [word for text in (_heading(sheet, column), *remarks) for word in text.split()]
    return max(*map(len, words), *(len(line) for line in lines if line not in remarks), len("(exit 4)") if remarks else 1)

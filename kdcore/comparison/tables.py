"""A comparison's folder: `table.csv`, `table.md`, `table.tex`, `comparison.json`, `plot.png`, `plot.svg`, `plot.pdf`, and `costs.json`.

The same runs give the same bytes, whatever was killed on the way; only `costs.json` has minutes and machines. Imports no torch.
"""

import csv
import io
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path

from kdcore.comparison.aggregate import Comparison, aggregate
from kdcore.comparison.entries import Entry
from kdcore.comparison.measures import CHECKPOINTS
from kdcore.comparison.sheets import LEGEND, Cell, Sheet, lines_of, sheets
from kdcore.files import write_bytes, write_json, write_text

COLUMNS = ("row", "checkpoint", "split", "what", "exit", "metric", "mean", "deviation", "n", "difference", "low", "high", "pairs")


def write_tables(entries: Sequence[Entry], folder: str | Path, *, baseline: str | None = "plain") -> Comparison:
    """Reads the finished runs and writes every table into `folder`, each file whole or not at all.

    baseline: the row to whose deepest exit the others are paired by seed; where it is not there a note says so. Raises KdError in one line for
    a row whose runs differ in more than their seed or are not finished, FileError for a damaged run.
    """
    from kdcore.comparison.plot import pictures  # matplotlib

    folder = Path(folder)
    found = aggregate(entries, baseline=baseline, folder=folder)
    write_text(folder / "table.csv", csv_text(found))
    write_text(folder / "table.md", markdown(found))
    write_text(folder / "table.tex", latex(found))
    for name, content in pictures(found).items():
        write_bytes(folder / name, content)
    write_json(folder / "costs.json", found.costs)
    write_json(folder / "comparison.json", found.to_json())
    return found


def csv_text(found: Comparison) -> str:
    """One line for each number: mean, sample standard deviation, n, and the paired difference with its interval where there is one."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for value in found.values:
        measure, spread, difference = value.measure, value.spread, value.difference
        end = (difference.mean, difference.low, difference.high, difference.n) if difference else (None,) * 4
        place = (value.row, CHECKPOINTS[measure.checkpoint], measure.split, measure.what, value.exits, measure.metric)
        writer.writerow((*place, spread.mean, spread.deviation, spread.n, *end))
    return file.getvalue()


def markdown(found: Comparison) -> str:
    """One table for each checkpoint, ready for a README, with what a reader must be told below."""
    pieces = []
    for sheet in sheets(found):
        rows = [sheet.headings, *([" ".join(lines_of(cell)) for cell in row] for row in sheet.rows)]
        text = ["| " + " | ".join(_marked(cell) for cell in row) + " |" for row in rows]
        text.insert(1, "|---|" + "---:|" * (len(sheet.headings) - 1))
        pieces.append(f"**{_marked(sheet.title)}**\n\n" + "\n".join(text))
    pieces.append(" ".join(LEGEND))
    if found.notes:
        pieces.append("\n".join(f"- {_marked(note)}" for note in found.notes))
    return "\n\n".join(pieces) + "\n"


def _marked(text: str) -> str:
    """What Markdown would take for its own, apart; a line stays a line."""
    return re.sub(r"([\\|*<`])", r"\\\1", " ".join(text.split()))


def latex(found: Comparison) -> str:
    """A booktabs table for each checkpoint, to be read with \\input."""
    notes = [*LEGEND, *found.notes]
    pieces = ["% \\usepackage{booktabs}; made by kd compare, from the runs that comparison.json names"]
    for sheet in sheets(found):
        body = [" & ".join(map(_tex_heading, sheet.headings)) + r" \\", r"\midrule"]
        body += [" & ".join(_tex_cell(cell) for cell in row) + r" \\" for row in sheet.rows]
        columns = "@{}l" + "r" * (len(sheet.headings) - 1) + "@{}"
        pieces.append(
            "\n".join(
                [
                    r"\begin{table}",
                    r"\centering\footnotesize\setlength{\tabcolsep}{3pt}",
                    rf"\caption{{{_tex(sheet.title)}.{' ' + _tex(' '.join(map(_sentence, notes))) if sheet.name.startswith('accuracy') else ''}}}",
                    rf"\label{{tab:{sheet.name}}}",
                    rf"\begin{{tabular}}{{{columns}}}",
                    r"\toprule",
                    *body,
                    r"\bottomrule",
                    r"\end{tabular}",
                    r"\end{table}",
                ]
            )
        )
    return "\n\n".join(pieces) + "\n"


def _sentence(note: str) -> str:
    return note if note.endswith(".") else note[:1].upper() + note[1:] + "."


def _tex_heading(heading: str) -> str:
    """Words below each other where they would be wider than their column's numbers."""
    lines = [_tex(line) for line in textwrap.wrap(heading, 14)]
    return r"\shortstack[r]{" + r" \\ ".join(lines) + "}" if len(lines) > 1 else "".join(lines)


def _tex_cell(cell: Cell) -> str:
    return " ".join(_tex(line) for line in lines_of(cell))


TEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "±": r"$\pm$",
    "−": "$-$",
    **{letter: "\\" + letter for letter in "&%$#_{}"},
}


def _tex(text: str) -> str:
    """Any text as LaTeX that prints it; a line stays a line."""
    return "".join(TEX.get(letter, letter) for letter in " ".join(text.split()))


__all__ = ["Comparison", "Sheet", "csv_text", "latex", "markdown", "write_tables"]

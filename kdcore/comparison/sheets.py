"""A comparison as tables of cells, which every format writes in its own way. Imports no torch."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

from kdcore.comparison.aggregate import Comparison, Value
from kdcore.comparison.measures import CHECKPOINTS, CHOSEN, DEEPEST, ENSEMBLES, Measure
from kdcore.comparison.statistics import CONFIDENCE, Difference
from kdcore.report.cells import short

LEGEND = (
    "± is the sample standard deviation over the n seeds; a cell of fewer seeds says its own n.",
    f"Differences are paired by seed; in brackets the {100 * CONFIDENCE:.0f} % interval by Student's t, not corrected for how many there are.",
)


@dataclass(frozen=True)
class Accuracy:
    """A mean with its deviation. `n`: where it is not the row's; `exits`: which were the best on dev."""

    mean: float
    deviation: float | None
    n: int | None
    exits: str


Cell = str | Accuracy | Difference


@dataclass(frozen=True)
class Sheet:
    """The first column is text; of the others numbers. name: for labels."""

    name: str
    title: str
    headings: list[str]
    rows: list[list[Cell]]


def accuracies(found: Comparison, checkpoint: str) -> Sheet:
    """Test top-1 of each exit and ensemble. The deepest exits stand in one column, whatever their numbers."""
    own = [value for value in found.values if value.measure.checkpoint == checkpoint and _is_top1(value)]
    numbers = {row.name: sorted(int(v.measure.exit) for v in own if v.row == row.name and v.measure.what == "exit") for row in found.rows}
    shallow = sorted({number for exits in numbers.values() for number in exits[:-1]})
    last = {exits[-1] for exits in numbers.values() if len(exits) > 1}
    columns = [("exit", str(number), f"exit {number}") for number in shallow]
    columns.append((DEEPEST, "", f"exit {last.pop()}, deepest" if len(last) == 1 else DEEPEST))
    others = [(CHOSEN, "", CHOSEN), *(("ensemble", name, f"ensemble, {text}") for name, text in ENSEMBLES.items())]
    several = [value for value in own if len(numbers[value.row]) > 1]  # of one exit there is nothing to choose
    columns += [column for column in others if any((v.measure.what, v.measure.exit) == column[:2] for v in several)]
    rows: list[list[Cell]] = []
    for row in found.rows:
        mine = {(v.measure.what, v.measure.exit): v for v in own if v.row == row.name}
        deepest = mine.get((DEEPEST, ""))
        n = deepest.spread.n if deepest else 0
        cells: list[Cell] = [row.name, str(n)]
        for what, exit, _ in columns:
            value = mine.get((what, exit))
            hidden = (
                value is None or (what == "exit" and int(exit) == numbers[row.name][-1]) or (what == CHOSEN and len(numbers[row.name]) < 2)
            )
            cells.append("" if value is None or hidden else _accuracy(value, n))
        rows.append(cells)
    return Sheet(f"accuracy-{checkpoint}", f"Test top-1 in percent, {CHECKPOINTS[checkpoint]}", ["", "n", *(c[2] for c in columns)], rows)


def _is_top1(value: Value) -> bool:
    return (value.measure.split, value.measure.metric) == ("test", "top1")


def _accuracy(value: Value, n: int) -> Accuracy:
    exits = value.exits if value.measure.what == CHOSEN else ""
    return Accuracy(value.spread.mean, value.spread.deviation, value.spread.n if value.spread.n != n else None, exits)


def differences(found: Comparison, checkpoint: str) -> Sheet | None:
    """Against the baseline's deepest exit; None where no row has one to be paired with."""
    own = [v for v in found.values if v.measure.checkpoint == checkpoint and _is_top1(v) and v.difference is not None]
    columns = [(DEEPEST, "", DEEPEST), (CHOSEN, "", CHOSEN), *(("ensemble", name, f"ensemble, {text}") for name, text in ENSEMBLES.items())]
    columns = [column for column in columns if any((v.measure.what, v.measure.exit) == column[:2] for v in own)]
    if not found.baseline or not columns:
        return None
    rows: list[list[Cell]] = []
    for row in found.rows:
        if row.baseline in (None, row.name):
            continue
        mine = {(v.measure.what, v.measure.exit): v.difference for v in own if v.row == row.name}
        pairs = max((difference.n for difference in mine.values() if difference), default=0)
        rows.append([row.name, str(pairs), *(mine.get((what, exit)) or "" for what, exit, _ in columns)])
    title = f"Difference to the deepest exit of {found.baseline}, points of test top-1, {CHECKPOINTS[checkpoint]}"
    return Sheet(f"difference-{checkpoint}", title, ["", "pairs", *(column[2] for column in columns)], rows)


def details(found: Comparison) -> Sheet:
    """Cost, dev accuracy and calibration of every exit and ensemble, at the delivered checkpoint."""
    checkpoint = found.delivered()
    rows: list[list[Cell]] = []
    for row in found.rows:
        known = {str(cost["exit"]): cost for cost in row.exits}
        for what, exit in dict.fromkeys((v.measure.what, v.measure.exit) for v in found.values if v.row == row.name):
            if what not in ("exit", "ensemble"):
                continue
            numbers = [
                found.find(row.name, checkpoint, *key[:1], what, exit, key[1])
                for key in (("dev", "top1"), ("test", "nll"), ("test", "ece"))
            ]
            cost = known.get(exit, {})
            texts = [spread_text(value, digits) for value, digits in zip(numbers, (2, 3, 2), strict=True)]
            title = exit if what == "exit" else f"ensemble, {ENSEMBLES.get(exit, exit)}"
            rows.append([row.name, title, *(short(cost[key]) if cost else "" for key in ("parameters", "macs")), *texts])
    headings = ["", "exit", "parameters", "MACs", "dev top-1 (%)", "test NLL (nats)", "test ECE (%)"]
    return Sheet("details", f"Cost, dev accuracy and calibration of the delivered checkpoint ({CHECKPOINTS[checkpoint]})", headings, rows)


def spread_text(value: Value | None, digits: int) -> str:
    """`90.27 ± 0.13`; one value has no deviation."""
    if value is None:
        return ""
    deviation = value.spread.deviation
    return f"{value.spread.mean:.{digits}f}" + (f" ± {deviation:.{digits}f}" if deviation is not None else "")


def sheets(found: Comparison) -> Iterator[Sheet]:
    """All tables, in the order in which files have them: those of the delivered checkpoint first, the optimistic one last.

    Where the last epoch is the best on dev in every run, one table says so.
    """
    order = sorted(found.checkpoints(), key=lambda name: (name != found.delivered(), list(CHECKPOINTS).index(name)))
    title = ""
    if "best" in order and _numbers(found, "best") == _numbers(found, "last"):
        order.remove("last")
        title = f"{CHECKPOINTS['last']}, in every run the best on dev"
    for checkpoint in order:
        for sheet in (accuracies(found, checkpoint), differences(found, checkpoint)):
            if sheet is not None:
                same = title and checkpoint == "best"
                yield dataclasses.replace(sheet, title=sheet.title.replace(CHECKPOINTS["best"], title)) if same else sheet
    yield details(found)


def _numbers(found: Comparison, checkpoint: str) -> dict[tuple[str, Measure], dict[int, float]]:
    return {
        (value.row, dataclasses.replace(value.measure, checkpoint="")): value.seeds
        for value in found.values
        if value.measure.checkpoint == checkpoint
    }


def lines_of(cell: Cell) -> list[str]:
    """A cell as a few short texts: number, deviation or interval, and what is to be added. Files put them on one line."""
    if isinstance(cell, Accuracy):
        more = [f"n={cell.n}"] if cell.n is not None else []
        more += [f"exit{'s' if ' ' in cell.exits else ''} {cell.exits.replace(' ', ', ')}"] if cell.exits else []
        deviation = [f"± {cell.deviation:.2f}"] if cell.deviation is not None else []
        return [f"{cell.mean:.2f}", *deviation, *([f"({'; '.join(more)})"] if more else [])]
    if isinstance(cell, Difference):
        interval = [f"[{signed(cell.low)},", f"{signed(cell.high)}]"] if cell.low is not None and cell.high is not None else []
        return [signed(cell.mean), *interval]
    return [cell]


def signed(value: float) -> str:
    """`+0.28`, `−0.10`, `0.00`: a zero has no sign."""
    text = f"{abs(value):.2f}"
    return text if float(text) == 0 else ("+" if value > 0 else "−") + text

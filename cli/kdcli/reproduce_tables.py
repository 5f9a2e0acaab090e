"""Experiments in the terminal: the list, a plan, the paper's numbers beside those measured, and claims. Imports no torch."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group
from rich.text import Text

from kdcli.tables import grid, short
from kdcore.estimate import counted
from kdcore.experiments.outcome import HEADINGS, Outcome, cells_of


def list_table(rows: Sequence[Mapping[str, Any]]) -> Group:
    """A line for each experiment."""
    headings = ("experiment", "paper", "title", "rows", "runs x epochs x images", "hours here")
    cells = [
        (
            row["experiment"],
            f"{row['authors']}, {row['table'].partition(' (')[0]}",
            row["title"],
            f"{row['runnable']}/{row['rows']}",
            cost(row),
            hours_of(row),
        )
        for row in rows
    ]
    legend = (
        "rows: those that can be run here, of the paper's; hours here: of the paper's seeds, one run after the other, "
        "by earlier runs on this machine, or about (~) by multiply-adds; - where nobody says how many images there are"
    )
    table = grid("", headings, cells, right=("rows", "runs x epochs x images", "hours here"))
    table.columns[0].no_wrap = True  # a name is there to be copied
    table.columns[0].min_width = max(len(row["experiment"]) for row in rows)
    return Group(table, Text(""), Text(legend, style="dim"))


def hours_of(row: Mapping[str, Any]) -> str | None:
    """`12.3` by earlier runs, `~1,200` by an estimate."""
    hours = row["hours_here"]
    if hours is None:
        return None
    return f"{hours:,.1f}" if row["timed"] else f"~{estimated(hours)}"


def estimated(hours: float) -> str:
    """An estimate knows two digits."""
    return f"{float(f'{hours:.2g}'):,g}"


def cost(row: Mapping[str, Any]) -> str:
    return f"{row['runs']} x {row['epochs']} x {short(row['images']) if row['images'] else '?'}"


def plan_tables(planned: Any, hours: float | None) -> Group:
    """What would run: rows and teachers as they were composed, what was scaled, what the paper leaves open, and what waits for a plugin.

    hours: about how long the rows of the file take here, one run after the other.
    """
    cells = [
        (one.row, one.model, one.method, one.exits, " + ".join(f"{epochs}" for _, epochs in one.phases), short(one.parameters))
        for one in planned.fits
    ]
    pieces: list[Any] = [
        Text(planned.heading, style="bold"),
        grid("", ("row", "network", "method", "exits", "epochs", "parameters"), cells, right=("exits", "epochs", "parameters")),
        Text(
            f"all of them compose; {counted(planned.runs, 'run')} over {counted(planned.seeds, 'seed')}, {planned.images} training images"
        ),
        Text(f"data: {planned.data}"),
    ]
    if planned.cost:
        work = f"a seed of the rows: {planned.cost['images']:.3g} images trained on, {planned.cost['macs']:.3g} multiply-adds"
        pieces.append(Text(work if hours is None else f"{work}; about {estimated(hours)} hours here for all seeds"))
    lines = [f"in proportion: {text}" for text in planned.said] + [f"open in the paper: {text}" for text in planned.open]
    lines += [f"{row}: needs {needs}" for row, needs in planned.needs.items()]
    lines += [f"{one.row}: composed on the CPU, as a part of it looks at values" for one in planned.fits if one.device != "meta"]
    return Group(*pieces, *(Text(f"  {line}") for line in lines))


def outcome_tables(found: Outcome) -> Group:
    """The table, what differs from the paper's recipe, and the claims."""
    cells, before = [], None
    for line in found.lines:
        cell = list(cells_of(line))
        cells.append(["" if line.row == before else cell[0], *cell[1:]])
        before = line.row
    pieces: list[Any] = [Text(found.heading, style="bold"), grid("", HEADINGS, cells, right=("paper", "measured", "difference"))]
    pieces += [Text(found.numbers_are, style="dim")]
    if found.differs:
        pieces += [Text("\nwhat differs from the paper's recipe", style="bold"), *(Text(f"  {line}") for line in found.differs)]
    if found.claims:
        pieces += [Text("\nclaims", style="bold"), _claims([one.to_json() for one in found.claims])]
    return Group(*pieces)


def claims_tables(judged: Sequence[Mapping[str, Any]]) -> Group:
    """A table of claims for each reproduction, with what tells it from the paper's."""
    pieces: list[Any] = []
    for one in judged:
        pieces += [Text(f"{one['experiment']} ({one['folder']}; {one['runs']})", style="bold")]
        pieces += [_claims(one["claims"]) if one["claims"] else Text("its file has no claims"), Text("")]
    held = [claim["verdict"] for one in judged for claim in one["claims"]]
    counts = ", ".join(f"{held.count(word)} {word}" for word in dict.fromkeys(held))
    return Group(
        *pieces, Text(f"differences in points of test top-1, paired by seed, with 95 % intervals; {counts or 'no claims'}", style="dim")
    )


def _claims(claims: Sequence[Mapping[str, Any]]) -> Any:
    rows = [(one["text"], one["statistic"], one["measured"] or None, one["verdict"], one["remark"]) for one in claims]
    return grid("", ("claim", "statistic", "measured", "", ""), rows)

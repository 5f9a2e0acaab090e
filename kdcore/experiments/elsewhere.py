"""The papers' claims judged on runs that are no reproduction: a comparison's rows by the same methods, on its own network and data."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcore.comparison.arms import Arm
from kdcore.comparison.grid import NAME, PER_METHOD, Row, read_grid
from kdcore.errors import KdError
from kdcore.experiments.claims import Judged, judge
from kdcore.experiments.finding import experiments
from kdcore.experiments.folders import STATE, stored_comparison
from kdcore.experiments.reading import ClaimOf, Experiment, RowOf
from kdcore.options import options_of
from kdcore.plugins import Plugins

if TYPE_CHECKING:
    from kdcore.comparison.aggregate import Comparison

CHECKPOINT = "best"
"""A comparison delivers the best epoch on dev (the last, without a dev split), whatever the paper's numbers are of."""


def comparisons(folder: str | Path = "runs") -> list[Path]:
    """Comparisons in a folder and its subfolders, or the folder itself, that are not parts of reproductions."""
    folder = Path(folder)
    found = sorted({*folder.glob(NAME), *folder.glob(f"*/{NAME}"), *folder.glob(f"*/*/{NAME}")})
    return [path.parent for path in found if not (path.parent / STATE).exists()]


def claims_on(place: Path) -> list[dict[str, Any]]:
    """For each experiment with claims that the comparison's rows can test: its name, the runs in words, and the claims as they came out.

    A claim that a paper makes of several networks stands once for each network here. Raises KdError for a comparison that is damaged.
    """
    grid = read_grid(place)
    seeds, found = stored_comparison(place)
    if found is None:
        return []
    runs = sum(len(row.runs) for row in found.rows)
    words = [
        f"{runs} finished runs",
        f"{len(seeds)} seeds",
        *(f"{name} {grid.shared[name]}" for name in ("data", "epochs") if name in grid.shared),
    ]
    judged = []
    seen: set[tuple[Any, ...]] = set()  # what one table of a paper claims, another may claim of another set
    for one in experiments().values():
        try:
            claims = list(_tested(one.read(), grid.rows, found, seen))
        except KdError:
            continue  # a file that is damaged is its own experiment's concern
        if claims:
            judged.append({"experiment": one.name, "runs": ", ".join(words), "claims": [claim.to_json() for claim in claims]})
    return judged


def _tested(experiment: Experiment, rows: list[Row], found: "Comparison", seen: set[tuple[Any, ...]]) -> Iterator[Judged]:
    paper = {row.name: row for row in experiment.runnable}
    exits = {row.name: len(row.exits) for row in found.rows}
    for claim in experiment.claims:
        ours, theirs = paper.get(claim.row), paper.get(claim.than or claim.row)
        if ours is None or theirs is None or ours.model != theirs.model:
            continue
        for model in dict.fromkeys(row.model for row in rows):
            above, below = (_like(one, [row for row in rows if row.model == model]) for one in (ours, theirs))
            if above is None or below is None or (claim.kind == "better" and above is below):
                continue
            here = [
                exit for exit in claim.exits if not exit.isdigit() or int(exit) < min(exits.get(above.name, 0), exits.get(below.name, 0))
            ]
            what = (experiment.paper, claim.kind, above.name, below.name, tuple(here))
            if what in seen or len(here) < (2 if claim.kind == "increasing" else 1):
                continue
            seen.add(what)
            yield _judged(experiment, claim, (ours, theirs), (above, below), here, found)


def _judged(
    experiment: Experiment, claim: ClaimOf, papers: tuple[RowOf, RowOf], rows: tuple[Row, Row], exits: list[str], found: "Comparison"
) -> Judged:
    above, below = rows
    prefix, _, rest = claim.text.partition(": ")
    text = rest if rest and claim.row.startswith(prefix) else claim.text  # the paper's network, which is not this one
    moved = claim.model_copy(update={"text": text, "row": above.name, "than": claim.than and below.name, "exits": exits})
    (one,) = judge(experiment.model_copy(update={"claims": [moved], "checkpoint": CHECKPOINT}), found)
    others = {row.name: paper.method for paper, row in zip(papers, rows, strict=True) if not _same_parts(paper, row)}
    remarks = [one.remark, f"on {above.model}, in the paper {papers[0].model}", *(f"{row} for {method}" for row, method in others.items())]
    return replace(one, remark="; ".join(filter(None, remarks)))


def _like(paper: RowOf, rows: Iterable[Row]) -> Row | None:
    """The row by the paper's method with the same options and parts; else the only one by that method, if its options are the paper's."""
    same = [row for row in rows if row.method == paper.arm.method and _options(row) == _options(paper.arm)]
    exact = [row for row in same if _same_parts(paper, row)]
    return exact[0] if exact else same[0] if len(same) == 1 else None


def _same_parts(paper: RowOf, row: Row) -> bool:
    return all(paper.arm.settings.get(name) == row.settings.get(name) for name in PER_METHOD)


def _options(one: Row | Arm) -> dict[str, Any]:
    """Those that were given, over the defaults of the method's own."""
    return {**_defaults(one.method), **one.options}


@cache
def _defaults(method: str) -> dict[str, Any]:
    try:
        return {name: option.default for name, option in options_of(Plugins().part("methods", method).target).items()}
    except KdError:  # a plugin that is broken or gone: its rows have the options that were typed
        return {}

"""`kd runs`: the runs under a folder, sorted, or some of them side by side. Imports no torch."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from kdcore.comparing import COLUMNS, find_runs, sort_rows, summary
from kdcore.comparison.side_by_side import compare
from kdcore.errors import KdError
from kdcore.runs import Run
from kdcore.teaching import teachers

WIDTH = 100
SHARED = ("model", "method", "data", "seed")  # said once where all runs agree


@click.command()
@click.argument("folder", metavar="[FOLDER]", default="runs", required=False)
@click.option("--sort", metavar="COLUMN", help=f"{', '.join(COLUMNS)}  [date]")
@click.option("--reverse", is_flag=True, help="the other way round")
@click.option("--json", "as_json", is_flag=True, help="everything as JSON")
@click.option("--lineage", "phases", is_flag=True, help="the phases of each run of several: generation, start, teacher, accuracy")
@click.option(
    "--teachers",
    "teaching",
    is_flag=True,
    help="the finished runs of FOLDER, however deep, as teachers: accuracy, and how many each taught",
)
@click.option("--compare", "first", metavar="RUN", help="compare this run with those that follow: --compare A B C")
@click.argument("more", nargs=-1, metavar="[RUN]...")
def runs(
    folder: str, sort: str | None, reverse: bool, as_json: bool, phases: bool, teaching: bool, first: str | None, more: tuple[str, ...]
) -> None:
    """List the runs in FOLDER and its subfolders, or compare some of them.

    dev and test are top-1 in percent of the delivered checkpoint: of the deepest exit, and after @ of the exit that is best on dev.

    \b
    kd runs
    kd runs experiments --sort test
    kd runs --lineage                                  who taught whom
    kd runs --teachers                                 what can be given as --teacher
    kd runs --compare runs/resnet18-byot-1 runs/resnet18-plain-1
    """
    if first is not None:
        named = [first, *([folder] if folder != "runs" or more else []), *more]
        if len(named) < 2:
            raise KdError(f"--compare takes two runs or more: kd runs --compare {first} OTHER")
        found = compare([Path(name) for name in named])
        click.echo(json.dumps(found, indent=1)) if as_json else show_comparison(found)
        return
    if folder == "teachers" and not Path(folder).is_dir():
        folder, teaching = (more[0] if more else "runs"), True
        more = more[1:]
    if more:
        raise KdError(f"one folder is listed at a time, and '{more[0]}' is another; to compare runs: kd runs --compare {folder} {more[0]}")
    if teaching:
        able = teachers(folder)
        click.echo(json.dumps(able, indent=1)) if as_json else show_teachers(able, folder)
        return
    rows = sort_rows([summary(path, root=Path(folder)) for path in find_runs(folder)], sort or "date")
    if reverse:
        rows.reverse()
    if phases:
        found = {row["run"]: lineage_of(Path(folder), row) for row in rows}
        click.echo(json.dumps(found, indent=1)) if as_json else show_lineage(found, folder)
        return
    if as_json:
        click.echo(json.dumps(rows, indent=1))
    elif rows:
        show(rows)
    else:
        click.echo(f"there is no run in {folder} yet: kd train BACKBONE --data SPEC makes one")


def show(rows: list[dict[str, Any]]) -> None:
    from kdcli.tables import console, grid

    shared = [name for name in SHARED if len(rows) > 1 and len({str(row[name]) for row in rows}) == 1]
    own = [name for name in SHARED if name not in shared]
    headings = ["run", *own, "epochs", "dev", "test", "@exit", "minutes", "date"]
    cells = [[cell(row, name) for name in headings] for row in rows]
    out = console(WIDTH)
    if shared:
        out.print("all: " + ", ".join(f"{name} {cell(rows[0], name)}" for name in shared))
    out.print(grid("", headings, cells, right=("seed", "epochs", "dev", "test", "@exit", "minutes")))
    for row in rows:
        if row["problem"]:
            out.print(f"{row['run']}: {row['problem']}", soft_wrap=True)


def show_teachers(rows: list[dict[str, Any]], folder: str) -> None:
    from kdcli.tables import console, grid

    if not rows:
        click.echo(f"no run in {folder} is finished: kd train BACKBONE --data SPEC --method plain makes a teacher")
        return
    headings = ("run", "model", "method", "data", "dev", "test", "taught")
    cells = [[row[name] if name == "taught" else cell(row, name) for name in headings] for row in rows]
    out = console()
    out.print(grid("", headings, cells, right=("dev", "test", "taught")))
    out.print(f"taught: runs here that have it as their teacher; to teach: --teacher {Path(folder) / rows[0]['run']}", soft_wrap=True)


def lineage_of(folder: Path, row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The phases of one of the listed runs; none of one that is damaged."""
    from kdcore.lineage import lineage

    path = folder / row["run"]
    return [] if row["state"] == "damaged" else lineage(Run(path if path.is_dir() else Path(row["run"])))


def show_lineage(found: Mapping[str, list[dict[str, Any]]], folder: str) -> None:
    from kdcli.tables import console, grid

    headings = ["run", "phase", "generation", "start", "teacher", "epochs", "dev", "best dev"]
    rows: list[list[Any]] = []
    for run, phases in found.items():
        if len(phases) < 2 and len(found) > 1:
            continue
        for place, phase in enumerate(phases):
            dev, best = (None if phase[name] is None else f"{phase[name]:.1f}" for name in ("dev", "best"))
            own = [phase[name] for name in ("generation", "start", "teacher", "epochs")]
            rows.append(["" if place else run, phase["phase"] + " *" * phase["delivered"], *own, dev, best])
    if not rows:
        click.echo(f"no run in {folder} has several phases: schedules with generations make them")
        return
    out = console()  # phases have long names
    out.print(grid("", headings, rows, right=("generation", "epochs", "dev", "best dev")))
    out.print("* delivered; dev: top-1 of the deepest exit in percent, at the last epoch and at the best")


def cell(row: Mapping[str, Any], name: str) -> str | None:
    """What stands in a column. epochs: with the state of a run that is not finished; @exit: test top-1 of the best exit on dev."""
    if name == "@exit":
        top1 = "" if row["test@exit"] is None else f"{row['test@exit']:.1f} "
        return None if row["exit"] is None else f"{top1}@{row['exit']}"
    value = row[name]
    if value is None:
        return row["state"] if name == "epochs" else None
    if name == "data" and ("/" in str(value) or "\\" in str(value)):
        return Path(value).name
    if name == "date":
        return str(value)[5:10]
    if name == "epochs" and row["state"] != "finished":
        return f"{value} {row['state']}"
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def show_comparison(found: Mapping[str, Any]) -> None:
    """Options that differ, then top-1 by exit; a column for each group of runs that differ in the seed alone."""
    from kdcli.tables import console, grid

    out = console(WIDTH)
    letters = [chr(ord("A") + k) if k < 26 else str(k + 1) for k in range(len(found["groups"]))]
    for letter, group in zip(letters, found["groups"], strict=True):
        seeds = ", ".join(map(str, group["seeds"]))
        out.print(f"{letter}: {', '.join(group['runs'])} (seed{'s' if len(group['seeds']) > 1 else ''} {seeds})", soft_wrap=True)
    if found["options"]:
        rows = [[name, *(_value(value) for value in values)] for name, values in found["options"].items()]
        out.print("\noptions that differ")
        out.print(grid("", ["option", *letters], rows))
    else:
        out.print("no option differs but the seed")
    rows = [[name, *(spread(value) for value in values)] for name, values in found["metrics"].items()]
    out.print("\ntop-1 in percent, delivered checkpoint; mean ± standard deviation (runs)")
    out.print(grid("", ["", *letters], rows, right=letters))


def spread(value: Mapping[str, Any] | None) -> str | None:
    """`93.8 ± 1.4 (3)`; one value has no deviation."""
    if value is None:
        return None
    return f"{value['mean']:.1f}" + (f" ± {value['deviation']:.1f} ({value['n']})" if value["n"] > 1 else "")


def _value(value: Any) -> str | None:
    return None if value is None else json.dumps(value) if isinstance(value, dict | list) else str(value)

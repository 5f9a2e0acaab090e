"""`kd reproduce`: the papers' tables, listed, run through a comparison's cells, and set beside the papers' numbers."""

import functools
import json
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import Any

import click

from kdcli import flags
from kdcore.config import Config
from kdcore.errors import KdError

MACHINE = ("device", "amp", "compile", "workers", "data_dir")
"""Settings that change no experiment, and which an experiment's file therefore does not say."""


def options(command):
    option = partial(click.option, cls=type("Flag", (flags.Flag,), {"heading": "Reproduction"}))
    machine = partial(click.option, cls=type("Flag", (flags.Flag,), {"heading": "Machine"}))

    def text(name: str) -> str:
        return str(Config.model_fields[name].description)

    for one in (
        option("--seeds", metavar="N|A,B,...", help="how many (5 is 0 to 4), or which (3,7,11; one alone: 7,)  [the paper's number]"),
        option("--smoke", is_flag=True, help="an epoch of each method on a few small images: whether everything runs, in under a minute"),
        option("--data", metavar="SPEC", help="data in place of the paper's: anything that kd train takes"),
        option("--subset", type=float, metavar="SHARE", help="train on this share of the images of each class, e.g. 0.1"),
        option("--epochs", type=int, metavar="E", help="in place of the paper's; milestones and warm-up in proportion"),
        option("--row", "rows", multiple=True, metavar="NAME", help="run this row (or pattern: 'ResNet18*') and no other; repeatable"),
        option("--baselines/--no-baselines", default=True, help="plain and deep-supervision are added where the table lacks them  [on]"),
        option("--dir", "folder", metavar="DIR", help="the folder; one that is there goes on  [runs/reproduce-PAPER-TABLE-...]"),
        option("--dry-run", is_flag=True, help="compose every row without data, say what would run, and run nothing"),
        option("--claims", is_flag=True, help="judge the papers' claims on the reproductions and comparisons in DIR...  [runs]"),
        option("--json", "as_json", is_flag=True, help="as JSON on stdout; progress stays on stderr"),
        option("--quiet", is_flag=True, help="no progress"),
        machine("--engine", type=click.Choice(("local", "ray")), default="local", help="processes of this machine, or Ray  [local]"),
        machine("--jobs", type=click.IntRange(1), help="runs at once  [local: 1, with --smoke as many as cores; ray: as many as fit]"),
        machine("--threads", type=click.IntRange(1), help="threads of torch in every run  [cores / jobs; with --smoke 1]"),
        machine("--device", help=text("device")),
        machine("--amp", type=click.Choice(("auto", "bfloat16", "none")), help="autocast, as in kd train"),
        machine("--compile/--no-compile", default=None, help=text("compile")),
        machine("-j", "--workers", type=click.IntRange(0), help=text("workers")),
        machine("--data-dir", metavar="DIR", help=text("data_dir")),
        machine("--download", is_flag=True, help=text("download")),
    )[::-1]:
        command = one(command)
    return command


@click.command(cls=flags.Command)
@click.argument("names", metavar="[PAPER/TABLE]", nargs=-1)
@options
def reproduce(names: tuple[str, ...], dry_run: bool, claims: bool, as_json: bool, quiet: bool, **values: Any) -> None:
    """Run a paper's table, with the honest baselines beside it: paper, measured, difference, and what deviates from the paper's recipe.

    \b
    kd reproduce                                                    lists the tables
    kd reproduce osakd/table1-fashion-mnist --smoke                 whether it runs, in under a minute
    kd reproduce osakd/table1-fashion-mnist --download              as the paper has it; goes on where it was stopped
    kd reproduce byot/table1-cifar100 --row 'ResNet18*' --epochs 20 --subset 0.2 --seeds 3
    kd reproduce --claims                                           which of the papers' claims held in the runs at hand
    """
    if claims:
        show_claims(names or ("runs",), as_json)
    elif not names:
        typed = [flag for flag in ("smoke", "data", "subset", "epochs", "folder") if values[flag]]
        if dry_run or typed:
            raise KdError("which table? kd reproduce PAPER/TABLE (kd reproduce lists them)")
        show_list(as_json)
    elif len(names) > 1:
        raise KdError(f"one table at a time: {names[0]}, then {names[1]}")
    elif dry_run:
        show_plan(names[0], as_json, values)
    else:
        run(names[0], as_json, quiet, values)


def run(name: str, as_json: bool, quiet: bool, values: dict[str, Any]) -> None:
    from kdcli.compare_progress import follow
    from kdcli.train import Terminated, terminated_like_interrupted
    from kdcore.experiments.reproducing import reproduce

    watch = follow(quiet)
    try:
        with terminated_like_interrupted(), watch:
            done = reproduce(name, watch=watch, **values)
    except KeyboardInterrupt as stop:
        click.echo(stopped(name, watch.folder), err=True)
        sys.exit(143 if isinstance(stop, Terminated) else 130)
    if as_json:
        click.echo(json.dumps({"folder": str(done.folder), "failed": done.failed, **done.outcome.to_json()}, indent=1))
    else:
        from kdcli.reproduce_tables import outcome_tables
        from kdcli.tables import console

        out = console()
        out.print(outcome_tables(done.outcome))
        for cell, why in done.failed.items():
            out.print(f"  failed: {cell}: {why}", soft_wrap=True)
        path = shlex.quote(str(done.folder))
        out.print(
            f"\n{path}: reproduction.md, .csv, .json; all numbers with intervals: table.md; its runs: kd runs {path}/cells", soft_wrap=True
        )
        if done.failed:
            out.print(f"to run again what failed: kd reproduce {name} --dir {path}", soft_wrap=True)
    sys.exit(1 if done.failed else 0)


def stopped(name: str, folder: Path | None) -> str:
    """What to say after Ctrl-C. folder: None where nothing had begun."""
    if folder is None:
        return "kd: stopped before the first run began"
    return f"kd: stopped; all is kept up to each run's last finished epoch. To go on: kd reproduce {name} --dir {shlex.quote(str(folder))}"


def show_list(as_json: bool) -> None:
    """Every experiment; a file that is malformed is told, and the others are listed."""
    from kdcore.experiments.costs import hours_estimated, hours_here, reproductions, size_of
    from kdcore.experiments.finding import experiments
    from kdcore.experiments.pace import pace_here

    pace = functools.cache(lambda: pace_here(flags.note))
    known, rows, problems = reproductions(), [], []
    for found in experiments().values():
        try:
            experiment = found.read()
            about = {name: getattr(experiment, name) for name in ("title", "paper", "url", "table", "seeds")}
            counts = {"runnable": len(experiment.runnable), "rows": len(experiment.rows), **size_of(experiment)}
            timed = hours_here(found.name, experiment, known)
            hours = timed or hours_estimated(experiment, pace)
        except KdError as error:
            problems.append(str(error))
            continue
        where = {"distribution": found.distribution, "path": str(found.path)}
        rows.append(
            {
                "experiment": found.name,
                **about,
                **counts,
                "hours_here": hours,
                "timed": timed is not None,
                **where,
                "authors": experiment.authors,
            }
        )
    if as_json:
        click.echo(json.dumps(rows, indent=1))
    elif not rows and not problems:
        click.echo("no installed plugin carries an experiment (kd plugins lists the plugins)")
    elif rows:
        from kdcli.reproduce_tables import list_table
        from kdcli.tables import console

        console().print(list_table(rows))
    for problem in problems:
        flags.note(problem)


def show_plan(name: str, as_json: bool, values: dict[str, Any]) -> None:
    """What would run, after every row was composed without data."""
    from kdcore.experiments.pace import pace_here
    from kdcore.experiments.rehearsing import dry_run

    wanted = ("seeds", "smoke", "subset", "epochs", "baselines", "rows")
    planned = dry_run(name, **{key: values[key] for key in wanted})
    pace = pace_here(flags.note) if planned.cost and not values["smoke"] else None
    hours = planned.seeds * pace.hours(**planned.cost) if pace and planned.cost else None
    if as_json:
        click.echo(json.dumps({**planned.to_json(), "hours_here": hours}, indent=1))
        return
    from kdcli.reproduce_tables import plan_tables
    from kdcli.tables import console

    console().print(plan_tables(planned, hours))


def show_claims(folders: tuple[str, ...], as_json: bool) -> None:
    from kdcore.experiments.costs import reproductions
    from kdcore.experiments.elsewhere import claims_on, comparisons
    from kdcore.experiments.folders import claims_of

    judged = []
    for folder in folders:
        there, others = reproductions(folder), comparisons(folder)
        if not there and not others and folders != ("runs",):
            raise KdError(f"{folder} holds no reproduction and no comparison: kd reproduce PAPER/TABLE makes one, kd compare the other")
        for place, name, choices, _ in there:
            if not choices.smoke:
                judged.append({"folder": str(place), "experiment": name, **claims_of(place)})
        judged += [{"folder": str(place), **one} for place in others for one in claims_on(place)]
    if as_json:
        click.echo(json.dumps(judged, indent=1))
        return
    from kdcli.reproduce_tables import claims_tables
    from kdcli.tables import console

    if not judged:
        click.echo("nothing in runs tests a claim yet: kd reproduce PAPER/TABLE does, and a kd compare of methods that a paper compares")
        return
    console().print(claims_tables(judged))

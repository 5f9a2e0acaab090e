"""`kd compare`: a grid of methods and paired seeds in; runs and their table out."""

import json
import shlex
import sys
from functools import partial
from typing import Any

import click

from kdcli import flags
from kdcore.comparison.arms import FORM
from kdcore.config import laid_over

OWN = ("method", "seed", "test_every_epoch")


def own_options(command):
    """What `kd compare` takes beside the settings of its runs."""
    kind = type("Flag", (flags.Flag,), {"heading": "Comparison"})
    option = partial(click.option, cls=kind)
    for one in (
        option(
            "--method",
            "method",
            multiple=True,
            metavar="[LABEL=]ROW,...",
            help=f"what is compared: {FORM}; a LABEL is what the table calls it; repeatable",
        ),
        option("--model", "models", multiple=True, metavar="BACKBONE,...", help="backbones, as BACKBONE; each by every method"),
        option("--seeds", metavar="N|A,B,...", help="how many (5 is 0 to 4), or which (3,7,11; one alone: 7,)  [3]"),
        option("--baselines/--no-baselines", default=True, help="plain and deep-supervision are rows whether they are typed or not  [on]"),
        option("--baseline", metavar="ROW", help="the row that the others are set against  [plain]"),
        option("--runs", "runs", multiple=True, metavar="DIR|GLOB", help="finished runs that join the table; repeatable"),
        option("--dir", "folder", metavar="DIR", help="the comparison's folder; one that is there goes on  [runs/compare-N]"),
        option("--resume", is_flag=True, help="go on in --dir, with its rows, seeds and settings; what is typed is added"),
        option(
            "--engine", type=click.Choice(("local", "ray")), default="local", help="processes of this machine, or a Ray cluster  [local]"
        ),
        option("--jobs", type=click.IntRange(1), help="cells at once  [local: 1; ray: as many as fit]"),
        option("--threads", type=click.IntRange(1), help="threads of torch in every cell  [cores / jobs]"),
        option("--ray-address", metavar="ADDRESS", help="a cluster's (default: a Ray on this machine); all its machines must see --dir"),
        option("--cpus-per-cell", type=click.FloatRange(0), help="what Ray sets aside for a cell  [--threads]"),
        option("--gpus-per-cell", type=click.FloatRange(0), help="a fraction puts several cells on one GPU  [1 where there is any]"),
        option(
            "--test-every-epoch/--no-test-every-epoch",
            default=None,
            help="evaluate the test split after every epoch, for the column `best over epochs`; it selects nothing  [on]",
        ),
        option("--config", "file", metavar="FILE", help="settings from a TOML file; flags override it"),
        option("--quiet", is_flag=True, help="no progress"),
        option("--json", "as_json", is_flag=True, help="the table as JSON on stdout; progress stays on stderr"),
    )[::-1]:
        command = one(command)
    return command


@click.command(cls=flags.Command)
@own_options
@partial(flags.settings, without=OWN)
def compare(
    models: tuple[str, ...], method: tuple[str, ...], folder: str | None, file: str | None, quiet: bool, as_json: bool, **values: Any
) -> None:
    """Compare methods on BACKBONE over paired seeds, with plain training and deep supervision always beside them.

    \b
    kd compare resnet18_32px --data digits --method byot,byot:preset=final --seeds 5 --jobs 2
    kd compare resnet18_32px --data digits --method plain,light=byot:alpha=0.1:--lr=0.01
    kd compare --dir runs/compare-1 --resume          goes on; finished cells are never run again
    kd compare --dir runs/compare-1 --seeds 10        adds seeds
    kd compare --runs runs/                           a table of the runs that are there
    """
    names = ("seeds", "baselines", "baseline", "runs", "resume", "engine", "jobs", "threads")
    own = {name: values.pop(name) for name in (*names, "ray_address", "cpus_per_cell", "gpus_per_cell")}
    typed = flags.given(values)
    recipe = typed.pop("recipe", None)
    stored = flags.read_toml(file) if file else {}
    stored = {name: value for name, value in stored.items() if name not in OWN or name == "method"}  # of a run's config.toml
    settings = laid_over(stored, typed)
    backbone = settings.pop("model", None)
    wanted = [*models, *([backbone] if backbone and (not models or values.get("model")) else [])]
    kept = settings.pop("method", None)

    from kdcli.compare_progress import follow
    from kdcli.train import Terminated, terminated_like_interrupted
    from kdcore.comparison.run import compare

    watch = follow(quiet)
    try:
        with terminated_like_interrupted(), watch:
            done = compare(
                wanted, method=method or ([kept] if kept else ()), recipe=recipe, folder=folder, watch=watch, **{**own, **settings}
            )
    except KeyboardInterrupt as stop:
        click.echo(watch.stopped(), err=True)
        sys.exit(143 if isinstance(stop, Terminated) else 130)
    if as_json:
        click.echo(json.dumps({"folder": str(done.folder), "failed": done.failed, **done.comparison.to_json()}, indent=1))
    else:
        show(done)
    sys.exit(1 if done.failed else 0)


def show(done: Any) -> None:
    """The tables, what a reader must be told, and where it all is."""
    from kdcli.comparison_tables import comparison_tables
    from kdcli.tables import console

    out = console()
    out.print(comparison_tables(done.comparison))
    for note in done.notes:
        out.print(f"  {note}", soft_wrap=True)
    for cell, why in done.failed.items():
        out.print(f"  failed: {cell}: {why}", soft_wrap=True)
    path = shlex.quote(str(done.folder))
    out.print(f"\n{path}: table.md, table.csv, table.tex, plot.png; its runs: kd runs {path}/cells", soft_wrap=True)
    if done.failed:
        out.print(f"to run again what failed: kd compare --dir {path} --resume", soft_wrap=True)

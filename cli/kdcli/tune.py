"""`kd tune`: settings and options searched by their number on dev, with Optuna; a table of trials and a file of settings out."""

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import click

from kdcli import flags
from kdcore.errors import KdError


class Command(flags.Command):
    """`--sampler` is the order of the training images, in every command; whoever means Optuna's is told its name here."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.BadParameter as error:
            if error.param is not None and error.param.name == "sampler":
                raise click.UsageError(f"{error.format_message()} (the order of the images) - did you mean --strategy?", ctx) from None
            raise


@click.command(cls=Command)
@click.option("--search", multiple=True, metavar="SPACE", help="NAME=LOW..HIGH[:log][:STEP] or NAME=A,B,C; repeatable")
@click.option("--trials", type=int, help="trials in all, those of earlier starts among them  [30; of a grid every point]")
@click.option("--timeout", type=float, metavar="MINUTES", help="time for all trials together")
@click.option(
    "--objective", metavar="NAME", help="what is compared on dev: deepest, exit:N, ensemble, best-exit (top-1), or nll  [deepest]"
)
@click.option("--strategy", metavar="NAME", help="how trials are drawn: tpe, random, grid  [tpe]")
@click.option("--pruner", metavar="NAME", help="median (median:3: once three trials have finished), hyperband, none  [median]")
@click.option("--seeds", type=int, help="seeds of every trial, whose mean counts; the first is --seed  [1]")
@click.option("--dir", "folder", metavar="DIR", help="the study's folder; one that holds the same study goes on  [runs/tune-N]")
@click.option("--resume", is_flag=True, help="go on in --dir DIR with all that its command said")
@click.option("--jobs", type=int, default=1, help="trials at a time, each in a process of its own  [1]")
@click.option("--config", "file", metavar="FILE", help="settings from a TOML file; flags override it")
@click.option("--quiet", is_flag=True, help="no progress")
@click.option("--json", "as_json", is_flag=True, help="all trials as JSON on stdout; progress stays on stderr")
@flags.settings
def tune(
    search: tuple[str, ...],
    trials: int | None,
    timeout: float | None,
    objective: str | None,
    strategy: str | None,
    pruner: str | None,
    seeds: int | None,
    folder: str | None,
    resume: bool,
    jobs: int,
    file: str | None,
    quiet: bool,
    as_json: bool,
    **values: Any,
) -> None:
    """Search settings and options by their accuracy on dev; the test split is not looked at.

    NAME is a setting (lr, cutout, opt) or an option as after -o (alpha, byot.hint.reduction).

    \b
    kd tune resnet18_32px --data digits --method byot --search lr=0.01..1:log --search alpha=0.1..0.9
    kd tune resnet18 --data ./photos --search opt=sgd,adamw --search epochs=10..30:10 --strategy grid
    kd tune --dir runs/tune-1 --resume
    """
    how: dict[str, Any] = {"objective": objective, "strategy": strategy, "pruner": pruner, "seeds": seeds}
    how = {name: value for name, value in how.items() if value is not None}
    if resume:
        wanted = flags.given(values)
        if how or file:
            raise KdError(
                f"--resume takes everything from --dir: leave out {', '.join(f'--{name}' for name in [*how, *(['config'] if file else [])])}"
            )
    else:
        wanted = flags.read_settings(values, file, "tune")
        flags.read_config(wanted)
        from kdcore.tuning.space import read_space

        read_space(search)  # here, before torch is imported: a slip of the pen is said at once

    from kdcli.train import Terminated, terminated_like_interrupted
    from kdcli.tune_view import follow, show
    from kdcore.tuning import tune as run

    watch = follow(quiet)
    try:
        with terminated_like_interrupted(), watch:
            found = run(
                search=search, trials=trials, timeout=timeout, folder=folder, resume=resume, jobs=jobs, watch=watch, **how, **wanted
            )
    except KeyboardInterrupt as stop:
        click.echo(stopped(watch.folder), err=True)
        sys.exit(143 if isinstance(stop, Terminated) else 130)
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=1))
    else:
        show(found)


def stopped(folder: Path | None) -> str:
    """What to say after Ctrl-C. `folder`: None where no trial had begun."""
    if folder is None:
        return "kd: stopped before the first trial; nothing was written"
    return f"kd: stopped; all is kept up to the last finished epoch. To go on: kd tune --dir {shlex.quote(str(folder))} --resume"

"""`kd train`: flags in, a run and its table out."""

import json
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from kdcli import flags
from kdcore.errors import FileError


def run_options(command):
    """What `kd train` and `kd plan` take beside the settings of a run."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="results as JSON on stdout; progress stays on stderr"),
        click.option("--quiet", is_flag=True, help="no progress"),
        click.option(
            "--config", "file", metavar="FILE", help="settings from a TOML file (a run's config.toml repeats that run); flags override it"
        ),
        click.option("--resume", is_flag=True, help="go on in --run DIR from its last checkpoint, with its own settings"),
        click.option("--run", metavar="DIR", help="the run's folder  [runs/BACKBONE-METHOD-N]"),
    ):
        command = option(command)
    return command


@click.command(cls=flags.Command)
@flags.settings
@run_options
@click.option("--json-lines", is_flag=True, help="on stdout one JSON object a line: started, note, phase, log, epoch, finished")
def train(run: str | None, resume: bool, file: str | None, quiet: bool, as_json: bool, json_lines: bool, **values: Any) -> None:
    """Train BACKBONE (any timm name) on --data by --method, and report every exit.

    \b
    kd train resnet18_32px --data digits
    kd train resnet18 --data ./photos --method byot --loss kl@deepest:shallow=0.5
    kd train --run runs/resnet18-byot-1 --resume
    """
    if resume:
        own = flags.read_resumed(run, file).model_dump(exclude_none=True)
        wanted = flags.given(values)
        flags.read_config({**own, **{name: value for name, value in wanted.items() if name != "recipe"}})
    else:
        wanted = flags.read_settings(values, file, "train")
        flags.read_config(wanted)  # here, before torch is imported: a slip of the pen is said at once

    from kdcli.progress import follow
    from kdcore.training import train

    watch = follow(quiet, json_lines, as_json)
    try:
        with terminated_like_interrupted(), watch:
            trained = train(run=run, resume=resume, watch=watch, **wanted)
    except KeyboardInterrupt as stop:
        click.echo(stopped(watch.run), err=True)
        sys.exit(143 if isinstance(stop, Terminated) else 130)
    except FileError as error:
        if watch.run is None:
            raise
        raise FileError(f"{error}; {go_on(watch.run)}") from error
    if json_lines:
        return
    if as_json:
        click.echo(json.dumps({"run": str(trained.run.path), **trained.results}, indent=1))
        return

    from kdcli.tables import console, results_table
    from kdcore.loading import read_about, timm_line

    out, about = console(), read_about(trained.run.path / "model.json")
    out.print(results_table(trained.results, about["exits"]))
    path = shlex.quote(str(trained.run.path))
    out.print()
    lines = {
        "classes of new images:": f"kd predict {path} IMAGES...",
        "curves, mistakes, one page:": f"kd report {path}",
        "this table on other data:": f"kd eval {path} --data SPEC",
        "the student, for timm:": f"{path}/student.safetensors",
    }
    for what, line in lines.items():
        out.print(f"{what:<28}{line}", soft_wrap=True)
    out.print(f"  {timm_line(about, trained.run.path / 'student.safetensors')}", soft_wrap=True)


def stopped(run: Any) -> str:
    """What to say after Ctrl-C. `run`: None where it had not begun."""
    if run is None:
        return "kd: stopped before training began; nothing was written"
    return f"kd: stopped; {go_on(run)}"


def go_on(run: Any) -> str:
    """What is kept of a run that ended early, and the line that goes on with it."""
    from kdcore.training import has_checkpoint

    kept = "all is kept up to the last finished epoch. To go on" if has_checkpoint(run) else "no epoch was finished. To begin again"
    return f"{kept}: kd train --run {shlex.quote(str(run.path))} --resume"


class Terminated(KeyboardInterrupt):
    """SIGTERM: what a batch system sends before it takes the machine away."""


@contextmanager
def terminated_like_interrupted() -> Iterator[None]:
    """Within the block SIGTERM ends the run as Ctrl-C does."""

    def stop(*_: Any) -> None:
        raise Terminated

    try:
        former = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread: whoever runs us there answers for signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)

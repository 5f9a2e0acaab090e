"""The command `kd`: a command's module is imported when it is called, and torch only when something is computed.

Exit status: 0, 2 usage and configuration, 65 data, 74 input and output, 130 stopped with Ctrl-C. An error is one line; KD_TRACEBACK=1 shows where
it came from.
"""

import os
import sys
from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import Any

import click

from kdcore.errors import FileError, KdError, nearest

COMMANDS = {
    "data": ("kdcli.data:data", "Check a data set before training, or bring a paper's set into form."),
    "train": ("kdcli.train:train", "Train a backbone by a method, and report every exit."),
    "plan": ("kdcli.plan:plan", "Say what kd train would run, without training."),
    "compare": ("kdcli.compare:compare", "Compare methods over paired seeds, against honest baselines."),
    "reproduce": ("kdcli.reproduce:reproduce", "Run a paper's table: paper, measured, difference."),
    "eval": ("kdcli.evaluate:evaluate", "Evaluate a finished run, on its own data or on another set."),
    "report": ("kdcli.report:report", "Write a finished run's report: one HTML file with pictures."),
    "predict": ("kdcli.predict:predict", "Name the classes of images, with a finished run's model."),
    "analyze": ("kdcli.analyze:analyze", "Run a plugin's study of finished runs: tables and pictures."),
    "runs": ("kdcli.runs:runs", "List, sort and compare runs."),
    "tune": ("kdcli.tune:tune", "Search settings and options by their accuracy on dev, with Optuna."),
    "demo": ("kdcli.demo:demo", "Compare self-distillation with plain training on real images, in minutes."),
    "recipes": ("kdcli.recipes:recipes", "List the recipes: settings by name, each a file one can read."),
    "new": ("kdcli.new:new", "Write a new plugin that works and is tested, to put your own into."),
    "models": ("kdcli.models:models", "List the backbones, timm's and the plugins': cost, taps, weights."),
    "plugins": ("kdcli.listing:plugins", "List the installed plugins, without importing them."),
    "methods": ("kdcli.listing:methods", "List the methods, the core's and every plugin's."),
    "show": ("kdcli.listing:show", "Explain a plugin, a method or any part: paper, parts, options."),
}


class Commands(click.Group):
    """A group that imports a command when it is needed, and says every error in one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[name][0].partition(":")
        return getattr(import_module(module), attribute)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise KdError(f"there is no command '{args[0]}'{nearest(args[0], COMMANDS)}")
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, to_the_front(args) or ["--help"])

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def main(self, *args: Any, **extra: Any) -> Any:
        try:
            status = super().main(*args, **{**extra, "standalone_mode": False})
        except (KdError, OSError, click.ClickException, click.Abort) as error:
            if os.environ.get("KD_TRACEBACK"):
                raise
            status = report(error)
        sys.exit(status if isinstance(status, int) else 0)


GLOBAL = ("--plugins-only", "--no-plugin")


def to_the_front(args: Sequence[str]) -> list[str]:
    """`kd`'s own options may stand anywhere, also where most type them: after the command."""
    front: list[str] = []
    rest: list[str] = []
    given = iter(args)
    for arg in given:
        if arg == "--":
            return [*front, *rest, arg, *given]
        (front if arg.partition("=")[0] in GLOBAL else rest).append(arg)
        if arg in GLOBAL:
            front.append(next(given, ""))
    return front + rest


def report(error: Exception) -> int:
    """Says an error in one line on stderr. Returns the exit status."""
    if isinstance(error, click.Abort):
        text, status = "stopped", 130
    elif isinstance(error, click.ClickException):
        text, status = error.format_message(), error.exit_code
        if isinstance(error, click.UsageError) and error.ctx is not None:
            text = f"{text.rstrip('.')} ({error.ctx.command_path} --help)"
    elif isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        text, status = f"{where}{error.strerror or error}", FileError.exit_status
    else:
        text, status = str(error), getattr(error, "exit_status", KdError.exit_status)
    click.echo(f"kd: {' '.join(text.split())}", err=True)
    return status


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="kdcore-cli", prog_name="kd")
@click.option(
    "--plugins-only", "only", multiple=True, metavar="A,B", help="use no plugin but these; kdcore: none; repeatable (KD_PLUGINS_ONLY)"
)
@click.option("--no-plugin", "without", multiple=True, metavar="A", help="leave out a plugin or distribution; repeatable (KD_NO_PLUGIN)")
@click.pass_context
def kd(ctx: click.Context, only: tuple[str, ...], without: tuple[str, ...]) -> None:
    """Knowledge distillation and self-distillation over timm.

    \b
    kd demo                                              real images, a few minutes on a CPU
    kd train resnet18 --data ./photos --method byot      a folder of photos, one subfolder for each class
    """
    if only or without:
        from kdcore.installed import blocking

        ctx.with_resource(blocking(_names("--plugins-only", only), _names("--no-plugin", without)))


def _names(flag: str, given: Iterable[str]) -> list[str]:
    """The names in values like `a,b`. Raises KdError for a value without one."""
    names = [value.replace(",", " ").split() for value in given]
    if not all(names):
        raise KdError(f"{flag} needs the name of a plugin (kd plugins lists them)")
    return [name for some in names for name in some]


def main() -> None:
    kd.main(prog_name="kd")

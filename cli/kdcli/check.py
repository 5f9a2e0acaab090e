"""`kd plugins check`: the conformance kit over the parts of installed plugins, or of a loose file."""

import json
import shutil
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from kdcore import verdicts
from kdcore.errors import FileError, KdError, nearest
from kdcore.installed import PluginInfo, installed
from kdcore.plugins import Plugins

WORDS = ("passed", "failed", "cannot", "skipped")


@click.command()
@click.argument("name", required=False, metavar="[NAME|FILE]")
@click.option("-k", "only", metavar="CHECK", help="only checks whose name contains this, e.g. compiles")
@click.option("--json", "as_json", is_flag=True, help="as JSON")
@click.pass_context
def check(ctx: click.Context, name: str | None, only: str | None, as_json: bool) -> None:
    """Check what a plugin can do: NAME, a loose FILE, or all that are installed.

    Every part is built and trained for a few steps on tiny networks, alone and beside every installed method: half a minute for each. A check
    passes, fails with a line of advice, or is declared as something that the part cannot do. Exit status 1 where one failed.
    """
    names = _chosen(name)
    try:
        from kdcore.testing import run
    except ModuleNotFoundError as error:
        if error.name != "pytest":
            raise
        raise KdError("the checks need pytest: pip install 'kdcore[testing]'") from None

    found: list[dict[str, Any]] = []
    for each in names:
        say = _Lines(quiet=as_json)
        outcomes = run(each, only, say)
        found += [{"plugin": Path(each).stem if each.endswith(".py") else each, **asdict(outcome)} for outcome in outcomes]
        if only is None:
            _keep(each, outcomes)
        if outcomes:
            say.sum_up(each)
    if not found:
        whose = f"'{names[0]}'" if len(names) == 1 else "any plugin"
        raise KdError(f"-k {only}: no check of {whose} has this in its name")
    if as_json:
        click.echo(json.dumps(found, indent=1))
    if any(one["status"] == "failed" for one in found):
        ctx.exit(1)


def _chosen(name: str | None) -> list[str]:
    """The plugins to check. Raises KdError for one that is not there."""
    known = dict.fromkeys(info.name for info in installed())
    if name is None:
        if not known:
            raise KdError("no plugin is installed; kd plugins check FILE.py checks a loose file")
        return list(known)
    if name.endswith(".py"):
        if not Path(name).expanduser().is_file():
            raise FileError(f"{name}: there is no such file")
        return [name]
    if name not in known:
        raise Plugins().missing(name, "plugin", f"{nearest(name, known)} (a loose file ends in .py)")
    return [name]


def _keep(name: str, outcomes: list[Any]) -> None:
    """The verdict, for `kd plugins`."""
    claims: list[PluginInfo] = [info for info in installed() if info.name == name]
    if len(claims) == 1:
        former = verdicts.read(claims[0])
        failed = {f"{one.component}: {one.check}": one.text for one in outcomes if one.status == "failed"}
        verdicts.write(claims[0], broken=former.broken if former else "", failed=failed)


class _Lines:
    """Says every outcome as it comes, under the name of its component: what passed in one paragraph, anything else in lines of its own."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self.component: tuple[str, str] | None = None
        self.skipped: dict[str, list[str]] = {}
        self.counts: Counter[str] = Counter()
        self.seconds = 0.0
        self.width = min(shutil.get_terminal_size().columns, 110)
        self.column = 0  # where the paragraph of what passed stands; 0 where there is none
        self.before = ""  # the last check in it

    def __call__(self, outcome: Any) -> None:
        self.counts[outcome.status] += 1
        self.seconds += outcome.seconds
        if self.quiet:
            return
        if (outcome.family, outcome.component) != self.component:
            self.end()
            self.component = (outcome.family, outcome.component)
            click.secho(f"\n{outcome.family.replace('_', ' ')}: {outcome.component}", bold=True)
        name = outcome.check.removeprefix("test_")
        if outcome.status == "skipped":
            self.skipped.setdefault(outcome.text, []).append(name)
        elif outcome.status == "passed":
            self.passed(name)
        else:
            self.end_paragraph()
            colour = {"failed": "red", "cannot": "yellow"}.get(outcome.status)
            click.echo(f"  {click.style(f'{outcome.status:8}', fg=colour)} {name}")
            click.echo(f"           {outcome.text}")

    def passed(self, name: str) -> None:
        """One more name in the paragraph, at once: a check may take seconds. Of one with parameters, the name stands there once."""
        check, bracket, parameter = name.partition("[")
        short = f"[{parameter}" if self.column and bracket and check == self.before else name
        if self.column and self.column + len(short) + 3 <= self.width:
            text = f", {short}"
            self.column += len(text)
        else:
            head = f",\n{' ' * 11}" if self.column else f"  {click.style('passed  ', fg='green')} "
            text, self.column = f"{head}{short}", 11 + len(short)
        click.echo(text, nl=False)
        self.before = check

    def end_paragraph(self) -> None:
        if self.column:
            click.echo()
        self.column, self.before = 0, ""

    def end(self) -> None:
        """Of a component: what was not checked, each reason once."""
        self.end_paragraph()
        for reason, checks in self.skipped.items():
            named = checks if len(checks) <= 4 else [*checks[:2], f"and {len(checks) - 2} more"]
            click.echo(f"  skipped  {', '.join(named)}\n           {reason}")
        self.skipped.clear()

    def sum_up(self, name: str) -> None:
        self.end()
        if not self.quiet:
            counts = ", ".join(f"{self.counts[word]} {word}" for word in WORDS if self.counts[word])
            click.echo(f"\n{name}: {counts} ({self.seconds:.0f} s)")

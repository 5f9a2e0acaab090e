"""`kd analyze`: a plugin's study of finished runs, as tables here and tables and pictures in a folder."""

import json
import shlex
from collections.abc import Sequence
from typing import Any

import click

from kdcli.flags import note
from kdcli.listing import as_json_flag, plugin_flag
from kdcore.errors import KdError

ROWS = 40  # of a table on the screen


@click.command()
@click.argument("name", metavar="[NAME]", required=False)
@click.argument("runs", nargs=-1, metavar="[RUN]...")
@click.option("-o", "--option", "options", multiple=True, metavar="OPTION=VALUE", help="an option of the analysis; repeatable")
@click.option("--out", metavar="DIR", help="where its files go  [RUN/analyses/NAME]")
@plugin_flag
@as_json_flag
def analyze(
    name: str | None, runs: tuple[str, ...], options: tuple[str, ...], out: str | None, extra: tuple[str, ...], as_json: bool
) -> None:
    """Run the analysis NAME on finished runs; without NAME, list those that are installed.

    An analysis with other options goes into a folder of its own: earlier ones stay. One that trains goes on where it was stopped.

    \b
    kd analyze                                          what there is
    kd show PLUGIN                                      the options of each
    kd analyze PLUGIN.NAME runs/resnet18-plain-1 -o OPTION=VALUE
    """
    from kdcore.analysis import analyze as run_analysis
    from kdcore.analysis import loose_files
    from kdcore.options import read_assignments
    from kdcore.plugins import Plugins
    from kdcore.runs import Run

    if name is None:
        show_available(Plugins(extra), as_json)
        return
    if not runs:
        raise KdError(f"RUN is missing: write kd analyze {name} RUN (kd analyze lists the analyses)")
    known = Plugins(loose_files([Run.open(run) for run in runs], extra))
    done = run_analysis(name, runs, read_assignments(options), out=out, plugins=known, note=note)
    if as_json:
        click.echo(json.dumps(done.to_json(), indent=1))
        return
    show_analysis(done)


def show_analysis(done: Any) -> None:
    from kdcli.tables import console, grid
    from kdcore.analysis import headings

    out = console()
    for title, rows in done.to_json()["tables"].items():
        columns = headings(rows)
        numbers = [heading for heading in columns if all(isinstance(row.get(heading), int | float | None) for row in rows)]
        of = f" ({ROWS} of {len(rows)} rows)" if len(rows) > ROWS else ""
        out.print(grid(f"{title}{of}", columns, ([shown(row.get(heading)) for heading in columns] for row in rows[:ROWS]), right=numbers))
        out.print()
    if done.analysis.text:
        out.print(done.analysis.text, soft_wrap=True)
    out.print(f"{shlex.quote(str(done.folder))}: {', '.join(done.files)}", soft_wrap=True)


def shown(value: Any) -> Any:
    """Five digits are enough on a screen; the files have all."""
    return f"{value:.5g}" if isinstance(value, float) else value


def show_available(known: Any, as_json: bool) -> None:
    """Every plugin is imported; one that is broken is reported, and the others are listed."""
    from kdcli.listing import described
    from kdcore.analysis import available

    parts, broken = available(known)
    found = [described(part) for part in parts]
    if as_json:
        click.echo(json.dumps({"analyses": found, "broken": broken}, indent=1, default=repr))
        return

    from kdcli.tables import console, grid

    out = console()
    if found:
        rows = [(a["name"], f"{a['distribution']} {a['version']}".strip(), a["text"], option_names(a["options"])) for a in found]
        out.print(grid("", ("analysis", "from", "what it shows", "options"), rows))
    else:
        out.print("no plugin that is installed has an analysis (kd plugins lists them)")
    for reason in broken.values():
        out.print(f"broken: {reason}", soft_wrap=True)


def option_names(options: Sequence[dict[str, Any]]) -> str:
    return ", ".join(option["name"] for option in options)

"""`kd report`: a run's report as one HTML file, or the check that rebuilds every table of it."""

import shlex
import sys

import click

from kdcore.runs import Run


@click.command()
@click.argument("run", metavar="RUN")
@click.option("--out", metavar="FILE", help="where to write the page, or the page to check  [RUN/report.html]")
@click.option("--check", is_flag=True, help="write nothing: rebuild every table from the run's files, and say where they differ")
@click.option("--no-images", is_flag=True, help="leave out the single images, and do not open the data")
def report(run: str, out: str | None, check: bool, no_images: bool) -> None:
    """Write the report of the run in the folder RUN: tables, curves, calibration, confusion, mistakes.

    It is one HTML file with all its pictures, to be opened in a browser or sent as an attachment. It takes some seconds.

    \b
    kd report runs/resnet18-byot-1
    kd report runs/resnet18-byot-1 --check      exit status 65 where a number does not follow from the run's files
    """
    Run.open(run)  # a wrong folder is said before a word about seconds
    click.echo(f"{'checking' if check else 'reading'} {run}; this takes some seconds", err=True)
    from kdcore.report.check import check as rebuilt
    from kdcore.report.write import write

    if check:
        _check(rebuilt(run, out), run)
        return
    written = write(run, out, images=not no_images)
    path, place = shlex.quote(str(run)), shlex.quote(str(written.path))
    click.echo(f"wrote {place}; open it in a browser, or send it as it is")
    if written.problem:
        click.echo(f"  {written.problem}", err=True)
    if not written.finished:
        click.echo(f"the run is unfinished, and the report shows what is there; to go on: kd train --run {path} --resume")
    else:
        click.echo(f"the classes of other images:  kd predict {path} IMAGE...")
        click.echo(f"are the numbers right?         kd report {path} --check")


def _check(lines: list[str], run: str) -> None:
    """Exit status 65 where there is a difference."""
    if not lines:
        click.echo(f"{run}: every table and sentence follows from the run's files")
        return
    for line in lines:
        click.echo(line)
    click.echo(f"kd: {'1 line does' if len(lines) == 1 else f'{len(lines)} lines do'} not follow from the files of {run}", err=True)
    sys.exit(65)

"""`kd eval`: a finished run's exits and ensembles on its own data, or on another set with the same classes."""

import json
import shlex

import click


@click.command("eval")
@click.argument("run", metavar="RUN")
@click.option("--data", metavar="SPEC", help="another data set with the same classes")
@click.option("--which", type=click.Choice(["delivered", "last", "best"]), default="delivered", help="which checkpoint  [delivered]")
@click.option("--device", default="auto", help="cpu, cuda, cuda:1, mps, or auto  [auto]")
@click.option("--json", "as_json", is_flag=True, help="everything as JSON: the whole confusion matrices too")
def evaluate(run: str, data: str | None, which: str, device: str, as_json: bool) -> None:
    """Evaluate the finished run in the folder RUN: every exit, the ensembles, and the classes.

    \b
    kd eval runs/resnet18-byot-1
    kd eval runs/resnet18-byot-1 --data ./more-photos --json
    """
    from kdcore.loading import read_about
    from kdcore.runs import Run
    from kdcore.training import evaluate

    reports = evaluate(run, data, which=which, device=device)
    if as_json:
        click.echo(json.dumps(reports, indent=1))
        return

    from kdcli.tables import classes_table, console, exits_table, label

    folder = Run.open(run)
    results = folder.results() or {}
    delivered = "best" if results["checkpoints"]["delivered"] == results["checkpoints"]["best"] else "last"
    title = f"{reports['data']}: {label(results, delivered if which == 'delivered' else which)}"
    shown = "test" if "test" in reports else "dev"
    out = console()
    out.print(exits_table([(title, reports)], read_about(folder.path / "model.json")["exits"]))
    out.print("", classes_table(reports[shown], shown))
    for note in reports["notes"]:
        click.echo(f"kd: {note}", err=True)
    click.echo(
        f"kd: pictures of all this: kd report {shlex.quote(run)}; the classes of new images: kd predict {shlex.quote(run)} IMAGES...",
        err=True,
    )

"""`kd plan`: what `kd train` with the same arguments would run, and what each exit would cost. Nothing is trained or written."""

import json
from typing import Any

import click

from kdcli import flags
from kdcli.train import run_options


@click.command(cls=flags.Command)
@flags.settings
@run_options
def plan(run: str | None, resume: bool, file: str | None, quiet: bool, as_json: bool, **values: Any) -> None:
    """Say what kd train with the same arguments would run: parts, options, weights, phases, costs."""
    config = flags.read_resumed(run, file) if resume else flags.read_config(flags.read_settings(values, file, "plan"))

    from kdcore.preparing import prepare
    from kdcore.runs import Run

    if run is not None and not resume:
        Run.check_free(run)
    found = describe(prepare(config))
    if as_json:
        click.echo(json.dumps(found, indent=1, default=repr))
        return

    from kdcli.tables import console, grid, short

    out = console()
    about = found["data"]
    counts = ", ".join(f"{name} {count}" for name, count in about["images"].items())
    size = "x".join(map(str, about["image_size"]))
    out.print(
        f"{found['method']} on {found['model']}: {about['name']}, {counts} images of {size}, {about['classes']} classes; {found['device']}"
    )
    for note in found["notes"]:
        out.print(f"  {note}", soft_wrap=True)
    rows = [(p["place"], p["name"], f"{p['distribution']} {p['version']}".strip(), written(p["options"])) for p in found["parts"]]
    out.print("", grid("parts", ("place", "name", "from", "options"), rows))
    rows = [(t["name"], t["loss"], t["weight"], t["source"] or "-", t["exits"]) for t in found["terms"]]
    out.print("", grid("terms", ("term", "loss", "weight", "soft targets", "exits"), rows))
    rows = [(p["name"], p["epochs"], p["model"], ", ".join(p["trains"]), p["teacher"], p["start"]) for p in found["phases"]]
    out.print("", grid("phases", ("phase", "epochs", "model", "trains", "teacher", "start"), rows, right=["epochs"]))
    rows = [(e["exit"], short(e["parameters"]), short(e["macs"])) for e in found["exits"]]
    out.print("", grid("exits", ("exit", "parameters", "MACs"), rows, right=["parameters", "MACs"]))
    out.print("", grid("settings", ("name", "value"), found["settings"].items()))


def describe(prepared: Any) -> dict[str, Any]:
    """Everything that a run would do, as plain values."""
    from kdcore.options import configured
    from kdcore.training import exit_costs

    recipe, data, composition = prepared.recipe, prepared.data, prepared.composition
    places = {"method": None, **recipe.components()}
    options = {place: recipe.options if place == "method" else configured(component) for place, component in places.items()}
    return {
        "model": prepared.config.model,
        "method": recipe.name,
        "device": str(prepared.device),
        "teacher": prepared.teacher.label if prepared.teacher else None,
        "data": {
            "name": prepared.config.data,
            "classes": data.num_classes,
            "image_size": list(prepared.preprocessing.image_size),
            "images": {name: len(split) for name in ("train", "dev", "test") if (split := getattr(data, name)) is not None},
        },
        "notes": prepared.notes,
        "parts": [{"place": place, **origin(recipe, place), "options": options[place]} for place in places],
        "terms": [
            {
                "name": name,
                "loss": origin(recipe, f"term {name}")["name"],
                "weight": term.weight if not callable(term.weight) else repr(term.weight),
                "source": term.source,
                "exits": term.exits,
            }
            for name, term in recipe.method.terms.items()
        ],
        "phases": [phase_of(phase, prepared) for phase in composition.phases],
        "exits": exit_costs(composition.student, composition.context),
        "settings": settings_of(prepared.config),
    }


def origin(recipe: Any, place: str) -> dict[str, str]:
    """The part's full name, distribution and version; what a method brings along itself has the method's."""
    part = recipe.parts.get(place)
    if part is None:
        return {"name": f"({recipe.name}'s own)", "distribution": recipe.labels.get(place, ""), "version": ""}
    return {"name": part.name, "distribution": part.plugin.distribution, "version": part.plugin.version}


def phase_of(phase: Any, prepared: Any) -> dict[str, Any]:
    """A phase as it was rehearsed: a checkpoint that does not exist yet is an earlier result."""
    values = phase.to_json()
    there = {"auto": "given" if prepared.teacher else "none", None: "none", "given": "given"}
    named = ("stands", "pretrained", "fresh")
    return {
        **values,
        "epochs": phase.epochs or prepared.config.epochs,
        "teacher": there.get(phase.teacher, "an earlier result"),
        "start": phase.start if phase.start in named else "an earlier result",
    }


def settings_of(config: Any) -> dict[str, Any]:
    """The settings that the parts do not show, with the learning rate that follows from them."""
    from kdcore.optimisation import learning_rate

    values = config.model_dump(exclude_none=True, exclude={"model", "data", "method", "options", "loss", "plugin"})
    return {**values, "lr": learning_rate(config)}


def written(options: dict[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in options.items()) or "-"

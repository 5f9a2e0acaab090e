"""`kd plan`: what `kd train` with the same arguments would run, and what each exit would cost. Nothing is trained or written."""

import json
from typing import Any

import click

from kdcli import flags
from kdcli.train import run_options

PHASE = ("name", "epochs", "model", "trains", "teacher", "start")


@click.command(cls=flags.Command)
@flags.settings
@run_options
def plan(run: str | None, resume: bool, file: str | None, quiet: bool, as_json: bool, **values: Any) -> None:
    """Say what kd train with the same arguments would run: parts, options, weights, phases, costs."""
    config = flags.read_resumed(run, file) if resume else flags.read_config(flags.read_settings(values, file, "plan"))

    from kdcore.runs import Run
    from kdcore.starting import make_ready

    if run is not None and not resume:
        Run.check_free(run)
    found = describe(make_ready(config, run=Run.open(run) if run is not None and resume else None))
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
    if found["teacher"]:
        out.print(f"  teacher: {found['teacher']}", soft_wrap=True)
    out.print(f"  {found['estimate']['text']}")
    for note in found["notes"]:
        out.print(f"  {note}", soft_wrap=True)
    tables = (
        grid("plugins", ("plugin", "from", "files", "gives"), (plugin_row(plugin) for plugin in found["plugins"])),
        grid("parts", ("place", "name", "from", "options"), (part_row(part) for part in found["parts"])),
        grid("terms", ("term", "loss", "weight", "soft targets", "exits"), (term.values() for term in found["terms"])),
        grid("phases", PHASE, ([phase[name] for name in PHASE] for phase in found["phases"]), right=["epochs"]),
        grid("exits", ("exit", "parameters", "MACs"), (map(short, exit.values()) for exit in found["exits"]), right=["parameters", "MACs"]),
    )
    for table in tables:
        out.print("", table)
    out.print("", grid("settings", ("name", "value"), worth_saying(found["settings"]).items()))


def describe(ready: Any) -> dict[str, Any]:
    """Everything that a run would do, as plain values."""
    from kdcore.options import configured
    from kdcore.starting import exit_costs

    prepared, expected = ready.prepared, ready.expected
    recipe, data, composition = prepared.recipe, prepared.data, prepared.composition
    places = {"method": None, **recipe.components()}
    options = {place: recipe.options if place == "method" else configured(component) for place, component in places.items()}
    return {
        "model": prepared.config.model,
        "estimate": {"text": str(expected), "seconds": expected.seconds, "epochs": expected.epochs},
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
        "plugins": provenance(prepared),
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
    """The part's full name, plugin, distribution and version; what a method brings along itself has the method's."""
    part = recipe.parts.get(place)
    if part is not None:
        return {"name": part.name, **source(part.plugin)}
    of = recipe.parts.get("method")
    return {"name": f"({recipe.name}'s own)", **(source(of.plugin) if of else {"plugin": "", "distribution": "", "version": ""})}


def source(plugin: Any) -> dict[str, str]:
    return {"plugin": plugin.name, "distribution": plugin.distribution, "version": plugin.version}


def provenance(prepared: Any) -> list[dict[str, Any]]:
    """Every plugin that the run imports, as its environment.json will name it, and the parts and event hooks that the run has of it."""
    from kdcore.hookspecs import EVENTS
    from kdcore.provenance import recorded

    plugins, recipe, model = prepared.plugins, prepared.recipe, prepared.config.model
    callers = {event: getattr(plugins.manager.hook, event).get_hookimpls() for event in EVENTS}
    found = []
    for plugin in recorded(plugins):
        network = [model] if "/" in model and model.partition("/")[0] == plugin["name"] else []
        parts = dict.fromkeys(part.name for part in recipe.parts.values() if part.plugin.name == plugin["name"])
        events = [event for event, hooks in callers.items() if any(hook.plugin_name == plugin["name"] for hook in hooks)]
        metrics = plugins.parts_of(plugin["name"], "metrics")
        found.append({**plugin, "gives": [*network, *parts, *metrics, *(f"{event}()" for event in events)]})
    return found


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


def plugin_row(plugin: dict[str, Any]) -> tuple[str, ...]:
    return plugin["name"], f"{plugin['distribution']} {plugin['version']}".strip(), plugin["files"][:12], ", ".join(plugin["gives"]) or "-"


def part_row(part: dict[str, Any]) -> tuple[str, ...]:
    options = " ".join(f"{name}={value}" for name, value in part["options"].items())
    return part["place"], part["name"], f"{part['distribution']} {part['version']}".strip(), options or "-"


def worth_saying(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings that differ from their defaults, and those that everybody asks for."""
    always = ("epochs", "batch_size", "opt", "lr", "sched", "weight_decay", "seed", "amp")
    defaults = {name: field.default for name, field in flags.Config.model_fields.items()}
    return {name: value for name, value in settings.items() if name in always or value != defaults[name]}

"""`kd plugins`, `kd methods`, `kd show`: what there is, where it comes from, and which options it takes."""

import inspect
import json
from typing import Any

import click

from kdcli.check import check
from kdcore.errors import KdError, nearest
from kdcore.hookspecs import FAMILIES
from kdcore.plugins import CORE, SINGULAR, Plugins

as_json_flag = click.option("--json", "as_json", is_flag=True, help="as JSON")
plugin_flag = click.option("-p", "--plugin", "extra", multiple=True, metavar="FILE", help="a loose file to look into as well; repeatable")


@click.group(invoke_without_command=True)
@as_json_flag
@click.pass_context
def plugins(ctx: click.Context, as_json: bool) -> None:
    """List the installed plugins. Their metadata is read; none of them is imported."""
    if ctx.invoked_subcommand is not None:
        return
    from kdcli.plugin_list import show_plugins

    show_plugins(as_json)


plugins.add_command(check)


@click.command()
@plugin_flag
@as_json_flag
def methods(extra: tuple[str, ...], as_json: bool) -> None:
    """List the methods. Every plugin is imported; one that is broken is reported, and the others are listed."""
    known = Plugins(extra)
    found: list[dict[str, Any]] = []
    broken: dict[str, str] = {}
    for plugin in (CORE, *known.infos):
        try:
            parts = known.parts_of(plugin, "methods").values()
            found += [{**described(part), "paper": part.plugin.paper} for part in parts]
        except KdError as error:
            broken[plugin] = str(error)
    if as_json:
        click.echo(json.dumps({"methods": found, "broken": broken}, indent=1, default=repr))
        return

    from kdcli.tables import console, grid

    out = console()
    rows = [(m["name"], f"{m['distribution']} {m['version']}".strip(), m["text"], m["paper"]) for m in found]
    out.print(grid("", ("method", "from", "what it is", "paper"), rows))
    for reason in broken.values():
        out.print(f"broken: {reason}", soft_wrap=True)


@click.command()
@click.argument("name")
@plugin_flag
@as_json_flag
def show(name: str, extra: tuple[str, ...], as_json: bool) -> None:
    """Explain NAME: a plugin (byot), or a method, loss, source, exits or schedule by its full name (byot.hint, kl)."""
    found = look_up(name, Plugins(extra))
    if as_json:
        click.echo(json.dumps(found, indent=1, default=repr))
        return

    from kdcli.tables import console, grid

    out = console()
    whose = f"{found['distribution']} {found['version']}".strip()  # a loose file has no version
    out.print(f"{found['plugin']}: {found['summary']} ({whose})", soft_wrap=True)
    if found["paper"]:
        out.print(f"paper: {found['paper']}", soft_wrap=True)
    for part in found["parts"]:
        out.print(f"\n{SINGULAR[part['family']]} {part['name']}", style="bold")
        out.print(f"{part['text']}")
        if part["needs"]:
            out.print(f"needs: {', '.join(part['needs'])}")
        if part["options"]:
            rows = [(o["name"], o["type"], "required" if o["required"] else repr(o["default"]), o["meaning"]) for o in part["options"]]
            headings = (
                ("option", "type", "default", "meaning") if any(o["meaning"] for o in part["options"]) else ("option", "type", "default")
            )
            out.print(grid("", headings, (row[: len(headings)] for row in rows)))


def look_up(name: str, known: Plugins) -> dict[str, Any]:
    """The plugin and its parts; for the name of one part, that part alone. Raises KdError with the nearest name."""
    plugin = next((part for part in name.replace("/", ".").split(".")[:1] if part in known.infos), CORE)
    parts = [part for family in FAMILIES for part in known.parts_of(plugin, family).values()]
    chosen = parts if name == plugin else [part for part in parts if part.name == name]
    if not chosen and name != plugin:
        names = {part.name for part in parts} | set(known.infos)
        raise KdError(f"there is no plugin, method or part '{name}'{nearest(name, names)}")
    info = known.loaded[plugin]
    about = {"plugin": plugin, "distribution": info.distribution, "version": info.version, "summary": info.summary, "paper": info.paper}
    return {"name": name, **about, "parts": [described(part) for part in chosen]}


def described(part: Any) -> dict[str, Any]:
    """A part as plain values: family, first paragraph without what it says of options, needs, options with types, defaults, and that."""
    from kdcli.new_from import row
    from kdcore.methods import declared
    from kdcore.options import options_of

    options = options_of(part.target) if part.family not in ("backbones", "metrics") else {}
    text = inspect.getdoc(part.target) or ""
    meanings = {name: row(option, text).meaning for name, option in options.items()}
    about = " ".join(text.split("\n\n")[0].split())
    for name, meaning in meanings.items():  # which stands in the table
        about = " ".join(about.replace(f"{name}: {meaning}.", "").split()) if meaning else about
    return {
        "name": part.name,
        "family": part.family,
        "distribution": part.plugin.distribution,
        "version": part.plugin.version,
        "text": about,
        "needs": list(declared(part.target)),
        "options": [
            {
                "name": o.name,
                "type": o.type_name,
                "default": None if o.required else o.default,
                "required": o.required,
                "meaning": meanings[o.name],
            }
            for o in options.values()
        ],
    }

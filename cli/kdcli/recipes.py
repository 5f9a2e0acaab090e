"""`kd recipes`: settings by name. Each is a TOML file; nothing is imported of the plugins that bring some."""

import json

import click

from kdcore.named_recipes import find_recipe, named_recipes


@click.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="as JSON")
def recipes(name: str | None, as_json: bool) -> None:
    """List the recipes, or print the file of NAME: what it sets, where its values come from, what it costs.

    \b
    kd recipes finetune
    kd train resnet18 --data ./photos --recipe finetune
    kd train resnet18 --data ./photos --config my.toml      a file of your own
    """
    if name is not None:
        recipe = find_recipe(name)
        click.echo(json.dumps({**_about(recipe), "text": recipe.text}, indent=1) if as_json else recipe.text, nl=as_json)
        return
    found = [_about(recipe) for recipe in named_recipes().values()]
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return

    from kdcli.tables import console, grid

    console().print(grid("", ("recipe", "from", "what it is for"), ((r["name"], r["distribution"], r["summary"]) for r in found)))


def _about(recipe) -> dict[str, str]:
    return {"name": recipe.name, "distribution": recipe.distribution, "summary": recipe.summary, "path": str(recipe.path)}

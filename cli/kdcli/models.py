"""`kd models`: the backbones that there are, and what each would be as a student. Weights are neither read nor made."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import click
from rich.progress import track

from kdcli.listing import as_json_flag, plugin_flag
from kdcli.tables import console, grid, short
from kdcore.errors import KdError
from kdcore.plugins import Plugins

FEW = 8  # models that are measured in seconds: no progress bar


@click.command()
@click.argument("pattern", required=False)
@click.option("--img-size", type=click.IntRange(min=1), metavar="N", help="images of N x N pixels  [each backbone's own size]")
@plugin_flag
@as_json_flag
def models(pattern: str | None, img_size: int | None, extra: tuple[str, ...], as_json: bool) -> None:
    """List the backbones by family, or measure those that PATTERN finds: parameters, MACs, default taps, weights.

    PATTERN is as in timm's list_models, or the name of a family. MACs are multiply-accumulates of one image through the plain backbone. A tap
    stands as module channels x side; each tap but the last gets an exit, and the last carries the backbone's own head. Weights: whether timm
    has pretrained ones.

    \b
    kd models                                   all names: timm's, and the plugins'
    kd models 'resnet*'
    kd models '*vit*tiny*' --img-size 96
    kd models hiera                             a family
    kd models 'cifar/*'                         a plugin's
    """
    if pattern is None and img_size is not None:
        raise KdError(f"--img-size needs a pattern: kd models 'resnet*' --img-size {img_size}")
    from kdcore.catalogue.names import all_families, matching

    known = Plugins(extra)
    families, broken = all_families(known)
    if pattern is None:
        list_names(families, broken, as_json)
        return
    chosen = matching(pattern, families)
    found = list(measured(chosen, img_size, known))
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return
    show(found)


def list_names(families: Mapping[str, list[str]], broken: Mapping[str, str], as_json: bool) -> None:
    """Names by family, with how many there are; nothing is built."""
    if as_json:
        click.echo(json.dumps({"families": families, "broken": broken}, indent=1))
        return
    out = console()
    rows = [(family, len(names), " ".join(names)) for family, names in families.items()]
    out.print(grid("", ("family", "models", "names"), rows, right=("models",)))
    for reason in broken.values():
        out.print(f"broken: {reason}", soft_wrap=True)
    out.print(
        f"\n{sum(map(len, families.values()))} backbones; what some are: kd models 'resnet*', or a family: kd models {next(iter(families))}"
    )


def measured(chosen: Mapping[str, str], img_size: int | None, known: Plugins) -> Iterable[dict[str, Any]]:
    """The facts of each, with a bar on stderr where there are many."""
    from rich.console import Console

    from kdcore.catalogue.facts import facts_of

    names = chosen.items()
    bar = track(names, "measuring", console=Console(stderr=True), transient=True, disable=len(names) <= FEW)
    for name, family in bar:
        yield facts_of(name, family=family, img_size=img_size, plugins=known)


def show(found: list[dict[str, Any]]) -> None:
    """A row for each; what is refused says why in its place."""
    rows: list[tuple[Any, ...]] = []
    for one in found:
        reason = one["refused"] or one["failed"]
        about = (None, None) if reason else (short(one["macs"]), sides(one["image_size"]))
        parameters = short(one["parameters"]) if "parameters" in one else None
        rows.append((one["name"], parameters, *about, weights(one), f"refused: {reason}" if reason else taps(one["taps"])))
    headings = ("backbone", "parameters", "MACs", "image", "weights", "default taps (module channels x side)")
    console().print(grid("", headings, rows, right=headings[1:4]))


def weights(one: Mapping[str, Any]) -> str | None:
    return {True: "yes", False: "none"}.get(one.get("pretrained", ""))


def taps(found: Iterable[Mapping[str, Any]]) -> str:
    """`layer1 64 x 56, layer2 128 x 28`."""
    return ", ".join(f"{tap['module']} {tap['channels']} x {sides((tap['height'], tap['width']))}" for tap in found)


def sides(size: Iterable[int]) -> str:
    """`56` for a square, `56 x 40` else."""
    height, width = size
    return str(height) if height == width else f"{height} x {width}"

"""`kd data check`: what training would see in a data set. `kd data prepare`: the papers' sets in a form that kd reads."""

import json
import shlex
import sys
from collections.abc import Callable
from typing import Any

import click

from kdcore.errors import DataError, KdError, nearest

IMAGES_A_SECOND = 5000
"""Written by `kd data prepare pack`, small PNG files: on two cores."""


class Group(click.Group):
    """A group that shows its help when it is called alone, and names the nearest command for a misspelt one."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, args or ["--help"])

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            raise KdError(f"{ctx.command_path} knows no '{args[0]}'{nearest(args[0], self.commands)}")
        return super().resolve_command(ctx, args)


@click.group(cls=Group)
def data() -> None:
    """Check a data set before training, or bring a paper's set into form."""


def data_flags(command: Callable) -> Callable:
    """The flags of `kd train` that decide which images are in which split, with its help texts."""
    from kdcore.config import Config

    special: dict[str, dict[str, Any]] = {
        "seed": {"type": click.IntRange(min=0), "default": 0},
        "dev_fraction": {"type": click.FloatRange(0, 1, max_open=True), "default": 0.1},
        "download": {"is_flag": True},
        "skip_bad_images": {"is_flag": True},
    }
    names = (
        "data_dir",
        "download",
        "train_split",
        "val_split",
        "test_split",
        "input_key",
        "target_key",
        "group_by",
        "skip_bad_images",
        "dev_fraction",
        "seed",
    )
    for name in reversed(names):
        about = Config.model_fields[name].description
        command = click.option(f"--{name.replace('_', '-')}", help=about, **special.get(name, {}))(command)
    return command


@data.command()
@click.argument("spec", metavar="SPEC")
@data_flags
@click.option("--sheet", metavar="FILE.png", help="write a contact sheet: a row of thumbnails for each class")
@click.option("--json", "as_json", is_flag=True, help="everything as JSON: all unreadable images and twins too")
def check(spec: str, sheet: str | None, as_json: bool, **flags: Any) -> None:
    """Open every image of SPEC once, and say what kd train would see.

    \b
    Counts by split and class, sizes, what will be converted, images that cannot be read, twins (the same or nearly
    the same image) within a split and across splits, labels that contradict. About 2 minutes for 2,000 photos of a
    phone, seconds for small images. Exit status 65 where training would stop.

    \b
    kd data check ./photos
    kd data check ./photos --group-by '(IMG_\\d{4})' --sheet sheet.png
    """
    from kdcli import survey_tables
    from kdcore.data import load_data
    from kdcore.data.findings import as_json as to_json
    from kdcore.data.sheet import check_sheet, write_sheet
    from kdcore.data.survey import survey

    if sheet is not None:
        check_sheet(sheet)
    typed = {name: value for name, value in flags.items() if name != "dev_fraction" and value}
    loaded = load_data(spec, dev_fraction=0.0, **typed)
    with survey_tables.Looking() as watch:
        found = survey(
            loaded,
            seed=flags["seed"],
            dev_fraction=flags["dev_fraction"],
            began=watch.began,
            advanced=watch.advanced,
            comparing=watch.comparing,
        )
    on_sheet = write_sheet(found, sheet) if sheet is not None else 0
    report = to_json(found)
    report["next"] = survey_tables.next_lines(found, spec, given(flags), sheet)
    if as_json:
        click.echo(json.dumps(report, indent=1))
    else:
        survey_tables.show(found, report)
        if sheet is not None:
            click.echo(f"contact sheet: {on_sheet} images on {sheet}", err=True)
    if report["problems"]:
        sys.exit(DataError.exit_status)


def given(flags: dict[str, Any]) -> str:
    """The flags that were typed, as they are typed to `kd train`."""
    usual = {"seed": 0, "dev_fraction": 0.1}
    pieces = []
    for name, value in flags.items():
        if value is not None and value is not False and value != usual.get(name):
            flag = f"--{name.replace('_', '-')}"
            pieces += [flag] if value is True else [flag, shlex.quote(str(value))]
    return " ".join(pieces)


@data.group(cls=Group, short_help="Bring a paper's set into a form that kd reads.")
def prepare() -> None:
    """Bring a paper's set into a form that kd reads: a table beside the images, or a tree. Nothing is overwritten."""


@prepare.command("tiny-imagenet", short_help="Tiny-ImageNet's folders and val list as a table")
@click.argument("folder")
@click.argument("out", required=False, metavar="[OUT.csv]")
def tiny_imagenet(folder: str, out: str | None) -> None:
    """FOLDER (tiny-imagenet-200, unpacked) as a table: train, and val to select on.  [FOLDER/tiny-imagenet.csv]

    No image is copied or opened; it takes seconds. The test images of the download have no labels and are left out.
    """
    from kdcore.data.prepared_sets import tiny_imagenet

    wrote(tiny_imagenet(folder, out))


@prepare.command(short_help="CUB-200-2011's lists as a table")
@click.argument("folder")
@click.argument("out", required=False, metavar="[OUT.csv]")
def cub(folder: str, out: str | None) -> None:
    """FOLDER (CUB_200_2011, unpacked) as a table, with its own train and test lists.  [FOLDER/cub.csv]

    No image is copied or opened; it takes a second. There is no val list: kd train holds out a share of train.
    """
    from kdcore.data.prepared_sets import cub

    wrote(cub(folder, out))


@prepare.command(short_help="one or several .npz as one set: an .npz, or a tree of PNG files")
@click.argument("parts", nargs=-1, required=True, metavar="PART.npz...")
@click.argument("out")
def pack(parts: tuple[str, ...], out: str) -> None:
    """One .npz or several parts (MedMNIST's keys, or a pack of mosaics) as one set: OUT.npz, or a tree OUT/SPLIT/CLASS/N.png.

    About a second for 5,000 small images; the images of a set are all held in memory.
    """
    from kdcli.survey_tables import about
    from kdcore.data.packs import pack

    def began(count: int) -> None:
        click.echo(f"writing {count:,} images ({about(count / IMAGES_A_SECOND)})", err=True)

    wrote(pack(parts, out, began=began))


def wrote(written: Any) -> None:
    counts = ", ".join(f"{split} {count:,}" for split, count in written.counts.items())
    click.echo(f"wrote {written.path}: {written.classes} classes, {counts}")
    for note in written.notes:
        click.echo(note)
    click.echo(f"next: kd data check {shlex.quote(str(written.path))}")

"""A flag for every setting of a run, made from `kdcore.config.Config`: name, type, help, heading and default stand there and nowhere else."""

import re
import tomllib
from collections.abc import Callable, Container, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import click

from kdcore.config import Config, laid_over, read_config
from kdcore.errors import FileError, KdError
from kdcore.named_recipes import with_recipe
from kdcore.options import read_assignments
from kdcore.runs import Run, with_own_files

SPELLINGS = {
    "batch_size": ("-b", "--batch-size"),
    "workers": ("-j", "--workers"),
    "options": ("-o", "--option"),
    "plugin": ("-p", "--plugin"),
    "pretrained": ("--pretrained/--scratch",),
}
METAVARS = {"options": "NAME=VALUE", "loss": "TERM", "plugin": "NAME|FILE", "data": "SPEC", "teacher": "BACKBONE|RUN|FILE", "taps": "WHERE"}


class Flag(click.Option):
    """An option that knows the heading under which help lists it."""

    heading = "General"


class Command(click.Command):
    """A command whose help groups its options under headings. It says where data goes that was typed without --data."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            extra = re.search(r"unexpected extra argument \((\S+)\)", error.message)
            if extra and ctx.params.get("data") is None:
                raise click.UsageError(f"{error.message} - did you mean --data {extra[1]}?", ctx) from None
            raise

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        headings: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
            if record is not None:
                headings.setdefault(getattr(parameter, "heading", "Options"), []).append(record)
        for heading, records in headings.items():
            with formatter.section(heading):
                formatter.write_dl(records)


class Numbers(click.ParamType):
    """`30,60` or `0.35,1` as a list of one kind of number."""

    name = "n,n,..."

    def __init__(self, kind: type) -> None:
        self.kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[Any]:
        try:
            return [self.kind(piece) for piece in str(value).replace(",", " ").split()]
        except ValueError:
            wanted = "integers such as 30,60" if self.kind is int else "numbers such as 0.35,1"
            self.fail(f"'{value}' is no list of {wanted}", param, ctx)


def settings(command: Callable, without: Container[str] = ()) -> Callable:
    """Gives a command BACKBONE and a flag for every setting but some. Those that are not given arrive as None or ()."""
    for name, field in reversed(Config.model_fields.items()):
        if name != "model" and name not in without:
            command = click.option(*_spelling(name, field.annotation), **_attributes(name, field))(command)
    kind = type("Flag", (Flag,), {"heading": "General"})
    command = click.option(
        "--recipe", cls=kind, metavar="NAME", help="settings by name (kd recipes lists them); --config and flags override"
    )(command)
    return click.argument("model", metavar="[BACKBONE]", required=False)(command)


def _spelling(name: str, annotation: Any) -> tuple[str, ...]:
    flag = "--" + name.replace("_", "-")
    plain = (f"{flag}/--no-{flag[2:]}",) if _kind(annotation) is bool else (flag,)
    return (name, *SPELLINGS.get(name, plain))


def _attributes(name: str, field: Any) -> dict[str, Any]:
    kind = _kind(field.annotation)
    group = (field.json_schema_extra or {}).get("group", "Data")
    default = "" if field.is_required() or field.default in (None, [], {}, False) else f"  [{_written(field.default)}]"
    found: dict[str, Any] = {"cls": type("Flag", (Flag,), {"heading": group}), "default": None, "help": field.description + default}
    if name in METAVARS:
        found["metavar"] = METAVARS[name]
    if kind is bool:
        return found
    if kind in (list[str], dict[str, Any]):
        return {**found, "multiple": True}
    if get_origin(kind) is Literal:
        return {**found, "type": click.Choice(get_args(kind))}
    return {**found, "type": Numbers(get_args(kind)[0]) if get_origin(kind) is list else kind}


def _kind(annotation: Any) -> Any:
    """The type without `None`."""
    if get_origin(annotation) in (Union, UnionType):
        return next(kind for kind in get_args(annotation) if kind is not NoneType)
    return annotation


def _written(default: Any) -> str:
    return ",".join(map(str, default)) if isinstance(default, list) else str(default)


def given(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that the user typed, as `Config` takes them."""
    found = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items() if value not in (None, ())}
    if "options" in found:
        found["options"] = read_assignments(found["options"])
    return found


def read_settings(values: Mapping[str, Any], file: str | None, command: str) -> dict[str, Any]:
    """The recipe's settings, the file's over them, then the flags; options of parts are merged by name.

    Raises KdError where one that is needed is missing.
    """
    typed = given(values)
    recipe = typed.pop("recipe", None)
    stored = read_toml(file) if file else {}
    merged = with_recipe(recipe, laid_over(stored, typed), note)
    if "model" not in merged:
        raise KdError(f"BACKBONE is missing: write kd {command} resnet18 --data SPEC (any timm name)")
    if "data" not in merged:
        raise KdError(f"--data is missing: write kd {command} {merged['model']} --data digits, --data FILE.npz or --data FOLDER")
    return merged


def note(text: str) -> None:
    """A line beside the output, for people."""
    click.echo(f"kd: {text}", err=True)


def read_toml(path: str) -> dict[str, Any]:
    try:
        return with_own_files(tomllib.loads(Path(path).read_text(encoding="utf-8")), Path(path).parent)
    except OSError as error:
        raise FileError(f"--config {path}: {error.strerror}") from error
    except ValueError as error:
        raise KdError(f"--config {path}: it is not TOML: {error}") from error


def read_resumed(run: str | None, file: str | None) -> Config:
    """The settings of a run that is there. Raises KdError where the command line contradicts `--resume`."""
    if run is None:
        raise KdError("--resume needs the run's folder: add --run DIR")
    if file is not None:
        raise KdError("--resume goes on with the run's own settings: leave out --config")
    return read_config(Run.open(run).config())

"""What a part of a loose file needs for a step, found by training one: what `kd new` writes and prints is then not refused. Imports torch."""

import dataclasses
import warnings
from collections.abc import Iterable, Iterator
from typing import Any, get_args

from kdcli.new_families import Found
from kdcli.new_files import naming
from kdcore.mending import reason_of
from kdcore.options import Option
from kdcore.plugins import Plugins

TRIED = ("loss", "soft-targets", "schedule", "method")
"""Families whose README trains a step."""


def tried(parts: Iterable[Found], plugin: str, plugins: Plugins) -> list[Found]:
    """The same, with the needs under which a step is trained; where there are none, why, and the plugin's own method that has the part."""
    after = [found_out(part, plugin, plugins) if part.family in TRIED else part for part in parts]
    homes = {part.part: part for part in after if part.family == "method"}
    return [dataclasses.replace(part, home=homes.get(part.method)) if part.refused and part.method else part for part in after]


def found_out(part: Found, plugin: str, plugins: Plugins) -> Found:
    """Tried as it is declared first; then with a teacher, with numbered samples, with both, and a loss without soft targets."""
    first = ""
    for variant in variants(part):
        try:
            train_a_step(variant, plugin, plugins)
        except (Exception, SystemExit) as error:
            first = first or reason_of(error)
        else:
            return variant
    return dataclasses.replace(part, refused=first)


def variants(part: Found) -> Iterator[Found]:
    more: list[tuple[str, ...]] = [(), ("teacher",), ("index",), ("teacher", "index")]
    for others in more:
        yield dataclasses.replace(part, needs=tuple(dict.fromkeys((*part.needs, *others))))
    if part.family == "loss" and part.reads is None:
        yield dataclasses.replace(part, reads=())


def train_a_step(part: Found, plugin: str, plugins: Plugins) -> None:
    """The README's snippet of the part (templates/FAMILY/use.md.tmpl). Raises whatever it raises."""
    import timm
    import torch

    import kdcore

    names = naming(plugin, part)
    ways: dict[str, dict[str, Any]] = {
        "loss": {"method": "deep-supervision", "losses": [names["term"]]},
        "soft-targets": {"method": "deep-supervision", "losses": [f"kl@{names['component']}"]},
        "schedule": {"method": "kd", "schedule": names["component"]},
        "method": {"method": names["component"]},
    }
    given = ways[part.family]
    if part.given:
        given["options"] = {f"{names['option']}{name}": value for name, value in part.given}
    if part.taught:
        given["teacher"] = timm.create_model("test_resnet", num_classes=4)
    if "index" in part.needs:
        given["num_samples"] = 8
    images, labels = torch.randn(8, 3, 32, 32), torch.arange(8) % 4
    numbers = [torch.arange(8)] if "index" in part.needs else []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        composed = kdcore.compose("test_resnet_32px", num_classes=4, image_size=32, plugins=plugins, **given)
        composed.task()(images, labels, *numbers)["loss"].backward()


def value_for(option: Option) -> tuple[tuple[str, Any], ...]:
    """A value that the type of an option without a default takes, under its name; nothing where none is found."""
    from pydantic import TypeAdapter

    for value in (0.5, 1, 2, *get_args(option.type), "a"):
        try:
            read = TypeAdapter(option.type).validate_python(value)
        except Exception:
            continue
        if isinstance(read, bool | int | float | str):
            return ((option.name, read),)
    return ()

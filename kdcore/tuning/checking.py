"""Everything that can be refused before the first trial: names, types, limits, and what cannot be composed."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from kdcore.config import Config, read_config
from kdcore.errors import DataError, KdError
from kdcore.estimate import counted
from kdcore.options import Option, describe_type, options_of, target_of
from kdcore.plugins import Plugins
from kdcore.preparing import prepare, resolve_recipe
from kdcore.recipes import Recipe
from kdcore.tuning.objectives import Objective
from kdcore.tuning.space import Dimension, laid_on, typed


def settle_space(space: Sequence[Dimension], settings: dict[str, Any], plugins: Plugins) -> list[Dimension]:
    """The dimensions with their place and kind, by the types of settings and options. Raises KdError in one line that names who refuses."""
    config = read_config(settings)
    own = options_of(plugins.part("methods", config.method).target)
    placed = [_placed(dimension, config.method, own) for dimension in space]
    first = read_config(laid_on(settings, placed, {d.name: d.ends()[0] for d in placed}))
    recipe = resolve_recipe(first, plugins)  # refuses the names that are no option
    return [_typed(dimension, recipe, plugins.part("methods", first.method)) for dimension in placed]


def _placed(dimension: Dimension, method: str, own: dict[str, Option]) -> Dimension:
    if dimension.place != "open":
        return dimension
    if dimension.name in own:
        raise KdError(
            f"--search {dimension.name}: method '{method}' has an option of that name, and there is such a setting: write "
            f"option.{dimension} or setting.{dimension}"
        )
    return dataclasses.replace(dimension, place="setting")


def _typed(dimension: Dimension, recipe: Recipe, method: Any) -> Dimension:
    if dimension.place == "setting":
        annotation = Config.model_fields[dimension.key].annotation
        return typed(dimension, annotation, describe_type(annotation), f"--{dimension.key.replace('_', '-')}")
    part, _, name = dimension.key.rpartition(".")
    if not part:
        return _by_option(dimension, options_of(method.target)[name], method.label)
    components = recipe.components()
    places = [place for place in components if place.partition(" ")[2] == part]
    places = places or [place for place, found in recipe.parts.items() if found.name == part and place in components]
    return _by_option(dimension, options_of(target_of(components[places[0]]))[name], recipe.labels[places[0]])


def _by_option(dimension: Dimension, option: Option, who: str) -> Dimension:
    return typed(dimension, option.type, option.describe(), who)


def check_all(space: Sequence[Dimension], settings: dict[str, Any], objective: Objective, plugins: Plugins) -> None:
    """Composes the run with every choice and both ends of every range, one after another, the others at their first.

    Raises what a run would raise, after the value that it is about.
    """
    for blamed, drawn in variants(space):
        try:
            _check(read_config(laid_on(settings, space, drawn)), objective, plugins)
        except KdError as error:
            raise type(error)(f"--search {blamed}: {error}" if blamed else str(error)) from error


def variants(space: Sequence[Dimension]) -> Iterator[tuple[str, dict[str, Any]]]:
    """What is composed beforehand, each with the value that is new in it."""
    first = {dimension.name: dimension.ends()[0] for dimension in space}
    yield "", first
    for dimension in space:
        for end in dimension.ends()[1:]:
            yield f"{dimension.name}={end}", {**first, dimension.name: end}


def _check(config: Config, objective: Objective, plugins: Plugins) -> None:
    prepared = prepare(config, plugins)
    if prepared.data.dev is None:
        raise DataError(
            f"trials are compared on the dev split, and {config.data} has none here: add --dev-fraction 0.1 (the test set selects nothing)"
        )
    context = prepared.composition.context
    objective.check([k for k, shape in enumerate(context.student_shapes.logits, start=1) if shape == (context.num_classes,)])


def how_many(space: Sequence[Dimension]) -> str:
    return counted(sum(1 for _ in variants(space)), "setting")

"""Recipes by name: settings of a run in TOML files that one can read, the core's and every plugin's. Imports no torch.

The core's files lie in `kdcore/settings`, a plugin's in the folder `recipes` of its package, where they are found without importing it; it is
imported only where a flag puts a part in the place of one that its recipe has options for.
"""

import importlib.util
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcore.config import laid_over
from kdcore.errors import KdError, nearest
from kdcore.plugins import CORE, installed


@dataclass(frozen=True)
class NamedRecipe:
    """A file of settings. `name` is what `--recipe` takes; `distribution` is where it comes from; `summary` is its first comment line."""

    name: str
    distribution: str
    path: Path

    @property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @property
    def summary(self) -> str:
        return self.text.partition("\n")[0].lstrip("# ").strip()


def named_recipes() -> dict[str, NamedRecipe]:
    """Every recipe by name, sorted. A name that several plugins have, or the core, is qualified: `<plugin>.<name>`."""
    own = {path.stem: NamedRecipe(path.stem, CORE, path) for path in _files(Path(__file__).parent / "settings")}
    found = [(info.name, info.label, path) for info in installed() for folder in _folders(info.module) for path in _files(folder)]
    stems = [path.stem for _, _, path in found]
    for plugin, label, path in found:
        clashes = path.stem in own or stems.count(path.stem) > 1
        name = f"{plugin}.{path.stem}" if clashes else path.stem
        own[name] = NamedRecipe(name, label, path)
    return dict(sorted(own.items()))


def find_recipe(name: str) -> NamedRecipe:
    """A recipe by its name; a plugin's also as `<plugin>.<name>`. Raises KdError with the nearest name, or how a file is given."""
    known = named_recipes()
    if name in known:
        return known[name]
    plugin, _, stem = name.partition(".")
    if stem in known and any(info.name == plugin and info.label == known[stem].distribution for info in installed()):
        return known[stem]
    if name.endswith(".toml") or "/" in name:
        raise KdError(f"--recipe {name}: a recipe is given by its name (kd recipes lists them), and a file with --config {name}")
    raise KdError(f"there is no recipe '{name}'{nearest(name, known)} (kd recipes lists them)")


def recipe_settings(name: str) -> dict[str, Any]:
    """The settings of a recipe, as `read_config` takes them."""
    recipe = find_recipe(name)
    try:
        return tomllib.loads(recipe.text)
    except ValueError as error:
        raise KdError(f"recipe '{recipe.name}' ({recipe.distribution}) is not TOML: {error}") from error


def with_recipe(name: str | None, settings: dict[str, Any], told: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """The recipe's settings with those given over them; options of parts are merged by name.

    Where a schedule or exits are given in place of the recipe's, its options of those go to the new part, if that has them too and is the
    same plugin's; else they are left out, and told.
    """
    if name is None:
        return settings
    found = recipe_settings(name)
    if found.get("options") and any(settings.get(setting) for setting in REPLACED):
        found["options"] = _handed_on(found["options"], settings, lambda text: told(f"--recipe {name}: {text}"))
    return laid_over(found, settings)


REPLACED = {"schedule": "schedules", "exits": "exits"}
"""Settings that put a part in another one's place, and its family."""


def _handed_on(options: dict[str, Any], settings: dict[str, Any], told: Callable[[str], None]) -> dict[str, Any]:
    from kdcore.options import options_of
    from kdcore.plugins import Plugins

    plugins = Plugins(settings.get("plugin") or [])
    kept: dict[str, Any] = {}
    for name, value in options.items():
        part, _, option = name.rpartition(".")
        for setting, family in REPLACED.items():
            try:
                old = plugins.part(family, part) if part and settings.get(setting) else None
            except KdError:  # a part of another family
                continue
            if old is not None and old.name != (new := plugins.part(family, settings[setting])).name:
                if new.plugin.name == old.plugin.name and option in options_of(new.target):
                    kept[f"{new.name}.{option}"] = value
                else:
                    told(f"its option {name}={value} is left out, for '{new.name}' ({new.plugin.label}) takes the place of '{old.name}'")
                break
        else:
            kept[name] = value
    return kept


def _folders(module: str) -> list[Path]:
    """The folder `recipes` of a module's top package, found without importing it."""
    try:
        spec = importlib.util.find_spec(module.partition(":")[0].partition(".")[0])
    except (ImportError, ValueError):  # a plugin that is broken cannot touch a run that does not name it
        return []
    return [Path(place) / "recipes" for place in spec.submodule_search_locations or ()] if spec else []


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.toml"))

"""The names of backbones: timm's by its modules, the core's own, and those of plugins that say they bring some."""

from collections.abc import Mapping
from fnmatch import fnmatchcase

import timm
from timm.models import is_model, model_entrypoint

import kdcore.backbones  # which registers the core's own
from kdcore.errors import KdError, nearest
from kdcore.plugins import Plugins

CORES = "kdcore"
"""The family of the backbones that the core registers with timm."""


def timm_families() -> dict[str, list[str]]:
    """Names by family: timm's modules (`vision_transformer`) as timm sorts them, then the core's own. What a plugin registered is left out."""
    families: dict[str, list[str]] = {}
    own = []
    for name in timm.list_models():
        module = model_entrypoint(name).__module__
        if module == kdcore.backbones.__name__:
            own.append(name)
        elif module.startswith("timm."):
            families.setdefault(module.rpartition(".")[2], []).append(name)
    return {**dict(sorted(families.items())), CORES: own}


def all_families(plugins: Plugins) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Names by family, a plugin's family being its name, and why plugins that cannot be imported are missing, by plugin.

    Only plugins whose metadata names the family backbone are imported, and loose files.
    """
    families, broken = timm_families(), {}
    for plugin, claims in sorted(plugins.infos.items()):
        if plugin not in plugins.loaded and not any("backbone" in claim.families for claim in claims):
            continue
        try:
            found = sorted(plugins.parts_of(plugin, "backbones"))
        except KdError as error:
            broken[plugin] = str(error)
        else:
            if found:
                families[plugin] = found
    return families, broken


def matching(pattern: str, families: Mapping[str, list[str]]) -> dict[str, str]:
    """What a pattern means, name to family: names (`resnet*`, `*vit*tiny*`, `cifar/*`), or else whole families (`hiera`, `cifar`).

    One name with the tag of its weights (`resnet50.a1_in1k`) stays as it is. Raises KdError with the nearest names.
    """
    everything = {name: family for family, names in families.items() for name in names}
    found = {name: family for name, family in everything.items() if fnmatchcase(name, pattern)}
    if not found:
        found = {name: family for name, family in everything.items() if fnmatchcase(family, pattern)}
    bare = pattern.partition(".")[0]
    if not found and bare in everything and bare != pattern and is_model(bare):
        found = {pattern: everything[bare]}
    if not found:
        raise KdError(f"no backbone is called like '{pattern}'{near(pattern, [*everything, *families])}")
    return found


def near(pattern: str, names: list[str]) -> str:
    """The names that begin as the pattern does, as a pattern that finds them; else the nearest ones."""
    begins = pattern.strip("*?")
    if begins and any(begins in name for name in names):
        return f"; try '*{begins}*'"
    close = nearest(begins, names)
    return close if "did you mean" in close else "; kd models names them all"

"""Experiments by name: files in the folder `experiments` of plugins' packages, found without importing them. Imports no torch."""

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kdcore.errors import KdError, nearest
from kdcore.plugins import installed

if TYPE_CHECKING:
    from kdcore.experiments.reading import Experiment

FOLDER = "experiments"


@dataclass(frozen=True)
class FoundExperiment:
    """A file that some plugin carries. `name` is `<plugin>/<file's stem>`, `distribution` where it comes from."""

    name: str
    distribution: str
    path: Path

    @property
    def about(self) -> str:
        return f"'{self.name}' ({self.distribution})"

    def read(self) -> "Experiment":
        """Raises KdError in one line that names file, key and distribution."""
        from kdcore.experiments.reading import read_experiment

        return read_experiment(self.path, self.about)


def experiments() -> dict[str, FoundExperiment]:
    """Every experiment by name, sorted. Raises KdError where two distributions bring one of the same name."""
    found: dict[str, FoundExperiment] = {}
    for info in installed():
        for path in _files(info.module):
            one = FoundExperiment(f"{info.name}/{path.stem}", info.label, path)
            if (other := found.get(one.name)) is not None and other.path != path:
                raise KdError(
                    f"two distributions have an experiment '{one.name}': {other.distribution} and {one.distribution}; uninstall one"
                )
            found[one.name] = one
    return dict(sorted(found.items()))


def find_experiment(name: str) -> FoundExperiment:
    """An experiment by its name. Raises KdError with the nearest name, or with those that the plugin has."""
    known = experiments()
    if name in known:
        return known[name]
    plugin = name.partition("/")[0]
    own = [other for other in known if other.partition("/")[0] == plugin]
    if own and "/" not in name.rstrip("/"):
        raise KdError(f"'{name}' has {len(own)} experiments, name one: {', '.join(own)}")
    hint = nearest(name, known) if "did you mean" in nearest(name, known) else nearest(name, own) if own else ""
    raise KdError(f"there is no experiment '{name}'{hint} (kd reproduce lists them)")


def _files(module: str) -> Iterator[Path]:
    """The files of a module's top package, found without importing it."""
    try:
        spec = importlib.util.find_spec(module.partition(":")[0].partition(".")[0])
    except (ImportError, ValueError):  # a plugin that is broken cannot touch a run that does not name it
        return
    for place in (spec.submodule_search_locations or ()) if spec else ():
        yield from sorted((Path(place) / FOLDER).glob("*.toml"))

"""Which settings make two runs the same experiment, and which differences between rows a reader of a table must be told. Imports no torch."""

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

from kdcore.errors import KdError
from kdcore.files import read_json
from kdcore.runs import Run

DECIDED = ("amp", "channels_last")
"""By the rule for the machine, unless typed: the same experiment on another machine may have others."""

MEASURED = ("mean", "std")
"""On the training images that the seed draws, unless typed."""

MACHINE = (*DECIDED, "device", "compile", "workers", "resident_gb", "log_interval", "keep_all", "download", "data_dir")
WITHOUT_EFFECT = (*MACHINE, *MEASURED, "test_every_epoch", "seed")
"""On what a row of a table is: they change no experiment, or are decided anew for every seed."""


def finished(run: Run) -> dict[str, Any]:
    """The results of a run. Raises KdError where it is not finished."""
    results = run.results()
    if results is None:
        raise KdError(f"{run.path} is not finished: it has nothing to compare yet; go on with kd train --run {run.path} --resume")
    return results


def compared_settings(run: Run) -> dict[str, Any]:
    """A run's settings with the defaults of those that it does not name; a loose plugin by its name and what is in it, not by where it lies."""
    from kdcore.config import Config

    known = {name: field.get_default(call_default_factory=True) for name, field in Config.model_fields.items() if not field.is_required()}
    config = {**known, **run.config()}
    return {**config, "plugin": [_identity(name) for name in config["plugin"]]}


def _identity(plugin: str) -> str:
    path = Path(plugin)
    if not plugin.endswith(".py") or not path.is_file():
        return plugin
    return f"{path.name} ({blake2b(path.read_bytes(), digest_size=4).hexdigest()})"


def check_row(row: str, members: Sequence[tuple[Path, Mapping[str, Any]]]) -> None:
    """Raises KdError where two runs of one row, with their settings, differ in more than the seed, or have the same one."""
    path, first = members[0]
    seen: dict[int, Path] = {}
    for other, settings in members:
        differ = [name for name in settings if name not in WITHOUT_EFFECT and settings.get(name) != first.get(name)]
        if differ:
            name = differ[0]
            more = f" (and {', '.join(differ[1:])})" if differ[1:] else ""
            raise KdError(
                f"row '{row}' mixes two experiments: {name} is {first.get(name)!r} in {path} and {settings.get(name)!r} in {other}{more};"
                " runs of one row differ in their seed alone: give them rows of their own"
            )
        if (seed := settings["seed"]) in seen:
            raise KdError(f"row '{row}' has seed {seed} twice: {seen[seed]} and {other}; leave one of them out")
        seen[seed] = other


def differing(rows: Mapping[str, Sequence[Mapping[str, Any]]], reference: str) -> list[str]:
    """A note for each setting in which rows differ from the reference row, beside those that make a method: `epochs: 200, byot 100`.

    rows: the settings of each row's runs, by the row's name.
    """
    from kdcore.config import Config

    found = []
    for name in (name for name, field in Config.model_fields.items() if _worth_a_note(name, field.json_schema_extra)):
        values = {row: " and ".join(sorted({_word(settings.get(name)) for settings in runs})) for row, runs in rows.items()}
        others = [f"{row} {value}" for row, value in values.items() if value != values[reference]]
        if name == "model" and all(row.startswith(f"{value} ") for row, value in values.items()):
            continue  # the rows' names say it
        if others or " and " in values[reference]:
            found.append(f"{name}: {', '.join([values[reference], *others])}")
    return found


def _worth_a_note(name: str, extra: Any) -> bool:
    """What makes a method is the row's name; of the machine only what may change numbers matters."""
    if name in WITHOUT_EFFECT:
        return name in (*DECIDED, "device", "compile")
    return name in ("teacher", "taps") or (isinstance(extra, dict) and extra.get("group")) != "Method"


def _word(value: Any) -> str:
    words = {None: "none", True: "yes", False: "no"}
    return words[value] if isinstance(value, bool | None) else str(value)


def other_images(runs: Mapping[str, Mapping[int, Path]], reference: str) -> list[str]:
    """A note where a row has other images or labels than the reference row at a seed that both have.

    runs: folders by row and seed. Told by the `data.json` of the runs; those older than it are taken to be the same.
    """
    found = []
    for row, own in runs.items():
        other = [
            seed for seed in own.keys() & runs[reference].keys() if _splits(own[seed]).keys() and _splits(runs[reference][seed]).keys()
        ]
        names = sorted(
            {
                split
                for seed in other
                for split in _splits(own[seed]).keys() | _splits(runs[reference][seed]).keys()
                if _splits(own[seed]).get(split) != _splits(runs[reference][seed]).get(split)
            }
        )
        if names:
            found.append(f"{row} and {reference} have other {' and '.join(names)} images at equal seeds: their pairs share the seed alone")
    return found


def _splits(run: Path) -> dict[str, Any]:
    path = run / "data.json"
    found = read_json(path) if path.exists() else {}
    return dict(found.get("splits", {})) if isinstance(found, dict) else {}

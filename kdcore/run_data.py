"""A run's data: read as its configuration says, written down when the run begins, and compared whenever the run reads it again.

`data.json` in the run's folder holds the class names, and for each split the number of samples and two digests: of the samples (names and their
order, relative to the data; the pixels where images are arrays) and of the labels. Image files are not opened for it.
"""

import os
import shlex
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

from kdcore.config import Config
from kdcore.data import Data, load_data
from kdcore.data.splits import Chosen, Split
from kdcore.errors import DataError, FileError
from kdcore.files import read_json, write_json
from kdcore.predictions import digest
from kdcore.runs import Run

NAME = "data.json"


def load_config_data(config: Config) -> Data:
    """The data that a configuration names."""
    return load_data(
        config.data,
        seed=config.seed,
        dev_fraction=config.dev_fraction,
        labels_per_class=config.labels_per_class,
        train_limit=config.train_limit,
        data_dir=config.data_dir,
        download=config.download,
        train_split=config.train_split,
        val_split=config.val_split,
        test_split=config.test_split,
        input_key=config.input_key,
        target_key=config.target_key,
        group_by=config.group_by,
        skip_bad_images=config.skip_bad_images,
    )


def load_own_data(run: Run, config: Config, instead: str = "") -> Data:
    """The data that a run began with, read again. A run that is older than `data.json` is not checked.

    instead: what to type where it cannot be put back; by default how to begin a new run. Raises DataError where it is gone or has changed: the dev
    split would be drawn otherwise, and hold images that the run has trained on. Test images may change until the run has used them, at its end.
    """
    path = shlex.quote(str(run.path))
    remedy = f"put it back, or {instead or f'begin a new run: kd train --config {path}/config.toml --run NEW'}"
    if os.path.isabs(config.data) and not os.path.exists(config.data):
        raise DataError(f"the data of {run.path} was at {config.data} and is gone: {remedy}")
    data = load_config_data(config)
    changes = differences(_written(run), describe(data, config)) if (run.path / NAME).exists() else {}
    if (
        set(changes) == {"test"} and run.results() is None and not config.test_every_epoch
    ):  # a bad test image was removed, say, on which the end of the run had failed
        return replace(
            data, notes=[*data.notes, f"since this run began, its test images have changed ({changes['test']}): it has not used any"]
        )
    if changes:
        raise DataError(f"{config.data} has changed since {run.path} began: {', '.join(changes.values())}; {remedy}")
    return data


def write_down_data(run: Run, data: Data, config: Config) -> None:
    write_json(run.path / NAME, describe(data, config))


def _written(run: Run) -> dict[str, Any]:
    written = read_json(run.path / NAME)
    try:
        return {"class_names": list(written["class_names"]), "splits": {name: dict(split) for name, split in written["splits"].items()}}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FileError(f"{run.path / NAME} is not what kd writes: {type(error).__name__} {error}") from error


def describe(data: Data, config: Config) -> dict[str, Any]:
    """What `data.json` holds."""
    roots = _roots(config)
    splits = {name: split for name in ("train", "dev", "test") if (split := getattr(data, name)) is not None}
    return {"class_names": data.class_names, "splits": {name: _described(split, roots) for name, split in splits.items()}}


def differences(former: dict[str, Any], now: dict[str, Any]) -> dict[str, str]:
    """What a user would want to know of two descriptions, a few words for each split and for the classes; {} where they are the same."""
    old, new = former["class_names"], now["class_names"]
    if len(old) != len(new):
        return {"classes": f"it has {len(new)} classes and had {len(old)}"}
    renamed = [f"class {k} is '{b}' and was '{a}'" for k, (a, b) in enumerate(zip(old, new, strict=True)) if a != b]
    found = {"classes": renamed[0]} if renamed else {}
    for name in ("train", "dev", "test"):
        was, now_is = former["splits"].get(name), now["splits"].get(name)
        if was == now_is:
            continue
        if was is None or now_is is None:
            found[name] = f"there is no {name} split now" if was else f"there was no {name} split"
        elif was.get("count") != now_is["count"]:
            found[name] = f"{name} has {now_is['count']} images and had {was.get('count')}"
        else:
            found[name] = f"{name} has other {'images' if was.get('samples') != now_is['samples'] else 'labels'}"
    return found


def _described(split: Split, roots: list[str]) -> dict[str, Any]:
    samples = digest(split.images) if split.images is not None else _digest(_names(split, roots))
    return {"count": len(split), "samples": samples, "labels": digest(split.labels)}


def _names(split: Split, roots: list[str]) -> list[str]:
    """Paths relative to the data; what a store calls its pictures where it knows that without reading them, else their numbers in it."""
    if split.paths is not None:
        return [_relative(path, roots) for path in split.paths]
    chosen = split.items.numbers if isinstance(split.items, Chosen) else range(len(split))
    names = getattr(split.items.items if isinstance(split.items, Chosen) else split.items, "names", None)
    return [str(number if names is None else names[number]) for number in chosen]


def _roots(config: Config) -> list[str]:
    """The folders to which the data's paths may be relative, each with a slash at its end."""
    data = Path(config.data).expanduser()
    found = [config.data_dir, data if data.is_dir() else data.parent if data.is_file() else None]
    return [os.path.join(os.path.abspath(folder), "") for folder in found if folder]


def _relative(path: str, roots: list[str]) -> str:
    """As `kdcore.predictions.relative`, for very many paths."""
    path = os.path.abspath(path)
    root = next((root for root in roots if path.startswith(root)), "")
    return path[len(root) :].replace(os.sep, "/")


def _digest(names: list[str]) -> str:
    return blake2b("\0".join(names).encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()

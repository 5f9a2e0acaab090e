"""Data sets by the names that timm's `create_dataset` reads: torch/cifar100, hfds/cifar10, hfids/..., wds/..., tfds/....

They are not read through `create_dataset`: it puts the next image in the place of one that it cannot read. What streams (hfids, wds, tfds)
is read through once and kept, encoded, in memory, so that every draw stays a function of (seed, epoch, sample number).
"""

import glob
import importlib.util
import io
import itertools
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdcore.data.parts import Part, Wanted, assemble
from kdcore.data.splits import Data
from kdcore.data.stores import Encoded, HubTable, hub_bytes
from kdcore.data.torch_sets import read_torch
from kdcore.errors import DataError, KdError, nearest

PREFIXES = ("torch", "hfds", "hfids", "wds", "tfds")
_WDS_IMAGES = "jpg;jpeg;png;webp;bmp;gif;tif;tiff;ppm"


def is_named(spec: str) -> bool:
    """Whether this is a name such as torch/cifar100, and no path."""
    prefix, slash, name = spec.partition("/")
    return bool(slash and name) and prefix.lower() in PREFIXES


def read_named(wanted: Wanted) -> Data:
    """Read a named data set. Raises `DataError`, `KdError` in one line that says where it was looked for, and what to type."""
    prefix, _, name = wanted.spec.partition("/")
    notes: list[str] = []
    if prefix.lower() == "torch":
        parts = read_torch(name, wanted)
    elif prefix.lower() in ("hfds", "hfids"):
        parts = _hub(name, wanted, notes, streaming=prefix.lower() == "hfids")
    else:
        parts = {"wds": _webdataset, "tfds": _tensorflow}[prefix.lower()](name, wanted, notes)
    if wanted.group_by and any(part.groups for part in parts.values()):
        notes.append(f"groups: by the column {wanted.group_by}")
    return assemble(wanted.spec, parts, notes)


def _needs(spec: str, module: str, line: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise KdError(f"{spec} needs the package {module}: pip install {line}")


def _hub(name: str, wanted: Wanted, notes: list[str], *, streaming: bool) -> dict[str, Part]:
    _needs(wanted.spec, "datasets", "'kdcore[hub]'")
    import datasets

    name = os.path.expanduser(name)
    try:
        splits = wanted.splits_of(datasets.get_dataset_split_names(name, cache_dir=wanted.data_dir))
        read = {
            part: datasets.load_dataset(name, split=split, cache_dir=wanted.data_dir, streaming=streaming) for part, split in splits.items()
        }
    except KdError:
        raise
    except Exception as error:  # the hub's errors have many classes, and no common one
        why = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        offline = "HF_HUB_OFFLINE is set: unset it to download" if datasets.config.HF_HUB_OFFLINE else "check the name and the connection"
        where = f"in {wanted.data_dir or 'the cache of the Hugging Face hub'}, and at huggingface.co/datasets"
        raise DataError(
            f"{wanted.spec}: not found {where} ({why}); {offline}, or name a folder on this machine: hfds//path/to/it"
        ) from error
    parts = {}
    for part, dataset in read.items():
        features = dataset.features or dict.fromkeys(next(iter(dataset), {}))
        image = _column(wanted.spec, features, wanted.input_key, "--input-key", ("image",), datasets.Image)
        label = _column(wanted.spec, features, wanted.target_key, "--target-key", ("label", "labels", "fine_label"), datasets.ClassLabel)
        dataset = dataset.cast_column(image, datasets.Image(decode=False))
        names = getattr(features[label], "names", None)
        group = wanted.group_by if wanted.group_by in features else None
        if streaming:
            rows = [(hub_bytes(row[image]), row[image].get("path"), row[label], row[group] if group else "") for row in dataset]
            items: Any = Encoded((row[0] for row in rows), [row[1] or f"item {i}" for i, row in enumerate(rows)])
            labels, groups = [row[2] for row in rows], [row[3] for row in rows]
        else:
            items, labels, groups = HubTable(dataset, image), list(dataset[label]), list(dataset[group]) if group else []
        alone = [str(name if name not in (None, "") else f"{part}, item {i}") for i, name in enumerate(groups)]
        parts[part] = Part(labels, names, items=items, groups=alone if group else None)
    if streaming:
        notes.append(_kept(wanted.spec, parts))
    return parts


def _column(spec: str, features: dict[str, Any], given: str | None, flag: str, known: tuple[str, ...], kind: type) -> str:
    """The column that was asked for; or one with a known name; or the only one of this kind."""
    if given is not None:
        if given not in features:
            raise KdError(f"{flag} {given}: {spec} has no such column{nearest(given, features)}")
        return given
    found = [name for name in known if name in features] or [name for name, feature in features.items() if isinstance(feature, kind)]
    if len(found) != 1 and (not found or found[0] not in known):
        raise KdError(f"{spec} has the columns {', '.join(features)}; name the one to read with {flag}")
    return found[0]


def _kept(spec: str, parts: dict[str, Part]) -> str:
    stores = [part.items for part in parts.values() if isinstance(part.items, Encoded)]
    size = sum(len(store.content) for store in stores) / 1e6
    return f"{spec}: {sum(map(len, stores))} images were read through once and are kept in memory, encoded ({size:.1f} MB)"


def _webdataset(name: str, wanted: Wanted, notes: list[str]) -> dict[str, Part]:
    """`wds/NAME` in --data-dir, or wds//path/to/it: tar files, with an `_info.json` as timm reads it or called train*.tar, val*.tar, ...."""
    _needs(wanted.spec, "webdataset", "'kdcore[webdataset]'")
    root = os.path.expanduser(wanted.data_dir or name)
    if "://" not in root and not os.path.isdir(root):
        raise DataError(f"{wanted.spec}: no folder {root}; name the folder of the tar files with --data-dir")
    shards = _shards(root)
    asked = {
        split: _expanded(root, split) for split in (wanted.train_split, wanted.val_split, wanted.test_split) if split and ".tar" in split
    }
    shards |= asked
    parts = {}
    for part, split in wanted.splits_of(list(shards)).items():
        rows = list(_samples(wanted, shards[split]))
        parts[part] = Part([row[2] for row in rows], items=Encoded((row[1] for row in rows), [row[0] for row in rows]))
    notes.append(_kept(wanted.spec, parts))
    return parts


def _shards(root: str) -> dict[str, list[str]]:
    for name in ("_info.json", "info.json"):
        path = Path(root, name)
        if path.is_file():
            try:
                splits = json.loads(path.read_text(encoding="utf-8"))["splits"]
                return {split: [os.path.join(root, file) for file in about["filenames"]] for split, about in splits.items()}
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(
                    f"{path}: not a description of splits ({error}); mend it, or remove it and name the tar files by split"
                ) from error
    found: dict[str, list[str]] = {}
    for file in sorted(glob.glob(os.path.join(glob.escape(root), "*.tar"))):
        word = os.path.basename(file)[: -len(".tar")].rstrip("0123456789-_.")
        found.setdefault(word.replace("_", "-").split("-")[-1], []).append(file)
    return found


def _expanded(root: str, pattern: str) -> list[str]:
    from webdataset.shardlists import expand_urls

    return [file if "://" in file else os.path.join(root, file) for file in expand_urls(pattern.split("|")[0])]


def _samples(wanted: Wanted, shards: list[str]) -> Iterator[tuple[str, bytes, Any]]:
    """Name, encoded picture and label of every sample. Read here and not by webdataset, which leaves its files open."""
    keys = (wanted.input_key or _WDS_IMAGES).split(";")
    for shard in shards:
        try:
            for name, sample in _grouped(shard):
                image = next((sample[key] for key in keys if key in sample), None)
                if image is None:
                    there = ", ".join(sample)
                    raise DataError(
                        f"{wanted.spec}: sample {name} has no image (it has: {there}); name the image's ending with --input-key"
                    )
                yield name, image, _wds_label(wanted, name, sample)
        except (OSError, EOFError, ValueError, tarfile.TarError) as error:
            raise DataError(
                f"{wanted.spec}: cannot read {shard} ({(str(error.args[0] if error.args else error)).splitlines()[0]})"
            ) from error


def _grouped(shard: str) -> Iterator[tuple[str, dict[str, bytes]]]:
    """webdataset's convention: files that follow each other and agree up to the first dot of the name are one sample, by their endings."""
    from webdataset import gopen

    def pieces() -> Iterator[tuple[str, str, bytes]]:
        with gopen(shard) as stream, tarfile.open(fileobj=stream, mode="r|*") as tar:
            for member in tar:
                folder, file = os.path.split(member.name)
                key, dot, ending = file.partition(".")
                if key and dot and (content := tar.extractfile(member)) is not None:  # no ._0001.png of macOS, no LICENSE
                    yield os.path.join(folder, key), ending.lower(), content.read()

    for name, sample in itertools.groupby(pieces(), lambda piece: piece[0]):
        yield name, {ending: content for _, ending, content in sample}


def _wds_label(wanted: Wanted, name: str, sample: dict[str, bytes]) -> Any:
    """The sample's .cls, or the ending or the field of its .json that was asked for."""
    key = wanted.target_key or "cls"
    if key in sample:
        return sample[key].decode(errors="replace").strip()
    fields = json.loads(sample["json"]) if "json" in sample else {}
    if not isinstance(fields, dict):
        raise DataError(f"{wanted.spec}: the .json of sample {name} has no fields; name the label with --target-key")
    found = fields.get(wanted.target_key or "label")
    if found is None:
        there = ", ".join([*sample, *fields])
        raise DataError(f"{wanted.spec}: sample {name} has no label '{key}' (it has: {there}); name it with --target-key")
    return found


def _tensorflow(name: str, wanted: Wanted, notes: list[str]) -> dict[str, Part]:
    """TensorFlow's data sets, read by timm."""
    _needs(wanted.spec, "tensorflow_datasets", "tensorflow-datasets tensorflow-cpu")
    from timm.data import create_dataset

    options: dict[str, Any] = {"root": wanted.data_dir, "download": wanted.download}
    options |= {"input_key": wanted.input_key, "target_key": wanted.target_key}
    try:
        first = create_dataset(wanted.spec, split=wanted.train_split or "train", **options).reader
        parts = {}
        for part, split in wanted.splits_of(list(first.builder.info.splits)).items():
            dataset = create_dataset(wanted.spec, split=split, **options)
            rows = [(_png(image), int(label)) for image, label in dataset]
            names = sorted(dataset.reader.class_to_idx, key=dataset.reader.class_to_idx.get) or None
            parts[part] = Part(
                [label for _, label in rows], names, items=Encoded((png for png, _ in rows), [f"item {i}" for i in range(len(rows))])
            )
    except KdError:
        raise
    except Exception as error:  # whatever TensorFlow makes of a set that is not there
        why = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        hint = "check the name and the connection" if wanted.download else "add --download to fetch it"
        where = wanted.data_dir or "TensorFlow's own folder"
        raise DataError(f"{wanted.spec}: not found in {where} ({why}); {hint}, or name its folder with --data-dir") from error
    notes.append(_kept(wanted.spec, parts))
    return parts


def _png(image: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "png")
    return buffer.getvalue()

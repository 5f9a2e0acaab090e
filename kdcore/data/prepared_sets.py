"""Papers' sets as a table beside their images: Tiny-ImageNet's val list and CUB's four lists become a CSV that `load_data` reads."""

import csv
import io
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from kdcore.errors import DataError, FileError
from kdcore.files import file_errors, write_text

Row = tuple[Path, str, str]
"""An image, its label, its split."""


@dataclass(frozen=True)
class Written:
    """What was written: where, how many classes, how many images in each split, and what a user should know."""

    path: Path
    classes: int
    counts: dict[str, int]
    notes: list[str] = field(default_factory=list)


def tiny_imagenet(folder: str | Path, out: str | Path | None = None) -> Written:
    """Tiny-ImageNet-200 as it is unpacked (`train/<wnid>/images/`, `val/val_annotations.txt`, `words.txt`): a CSV of path, label, split.

    A class is called by its first synonym, with the wnid where two would be called alike. val selects the model; the test images, which have
    no labels, are left out. Raises `DataError` where the folder is not of that form, `FileError` where the CSV exists or cannot be written.
    """
    folder = _folder(folder, "train", "val/val_annotations.txt", "words.txt", name="tiny-imagenet-200")
    out = new_file(out or folder / "tiny-imagenet.csv")
    with file_errors(folder, "read"):
        wnids = sorted(entry.name for entry in os.scandir(folder / "train") if entry.is_dir() and not entry.name.startswith("."))
        train = [(wnid, sorted((folder / "train" / wnid / "images").glob("*.JPEG"))) for wnid in wnids]
    words = {wnid: names.split(",")[0].strip() for wnid, names in _pairs(folder / "words.txt", "\t") if wnid in set(wnids)}
    names = _unique({wnid: words.get(wnid) or wnid for wnid in wnids})
    rows: list[Row] = [(path, names[wnid], "train") for wnid, paths in train for path in paths]
    if not rows:
        raise DataError(f"{folder / 'train'}: no images in <wnid>/images/*.JPEG; give the folder as it was unpacked")
    for file, rest in _pairs(folder / "val" / "val_annotations.txt", "\t"):
        wnid = rest.split("\t")[0]
        if wnid not in names:
            raise DataError(f"{folder / 'val' / 'val_annotations.txt'}: '{file}' is of class '{wnid}', which train/ lacks")
        rows.append((folder / "val" / "images" / file, names[wnid], "val"))
    return write_table(out, rows, ["val selects the model and is reported as dev; the test images have no labels and are left out"])


def cub(folder: str | Path, out: str | Path | None = None) -> Written:
    """CUB-200-2011 as it is unpacked (`images/`, and the lists `images.txt`, `image_class_labels.txt`, `train_test_split.txt`, `classes.txt`).

    Writes a CSV of path, label, split with the set's own train and test lists. Raises as `tiny_imagenet` does.
    """
    lists = ("images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt")
    folder = _folder(folder, *lists, "images", name="CUB_200_2011")
    out = new_file(out or folder / "cub.csv")
    images, labels, in_train, names = (dict(_pairs(folder / name, " ")) for name in lists)
    for name, known in (("image_class_labels.txt", labels), ("train_test_split.txt", in_train)):
        if known.keys() != images.keys():
            odd = sorted(known.keys() ^ images.keys())[0]
            raise DataError(f"{folder / name}: it and images.txt differ about the image '{odd}'; unpack the set again")
    unknown = sorted(set(labels.values()) - names.keys())
    if unknown:
        raise DataError(
            f"{folder / 'classes.txt'}: there is no class '{unknown[0]}', which image_class_labels.txt uses; unpack the set again"
        )
    rows = [
        (folder / "images" / file, names[labels[number]], "train" if in_train[number] == "1" else "test") for number, file in images.items()
    ]
    return write_table(out, rows, ["there is no val list: kd train holds out a share of train to select on (--dev-fraction)"])


def write_table(out: Path, rows: list[Row], notes: list[str]) -> Written:
    """Write path, label, split as CSV; paths are relative to it where they can be. Raises `DataError` for an image that is not there."""
    missing = next((path for path, _, _ in rows if not path.is_file()), None)
    if missing is not None:
        raise DataError(f"{missing}: the lists name this image and it is not there; unpack the set again")
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("path", "label", "split"))
    table.writerows((_relative(path, out.parent), label, split) for path, label, split in rows)
    write_text(out, text.getvalue())
    return Written(out, len({label for _, label, _ in rows}), dict(Counter(split for _, _, split in rows)), notes)


def new_file(out: str | Path) -> Path:
    """The path, where nothing is yet. Raises `FileError`: what exists is not overwritten."""
    out = Path(out).expanduser()
    if out.exists():
        raise FileError(f"{out} exists, and nothing is overwritten; name another or remove it")
    return out


def _relative(path: Path, start: Path) -> str:
    path, start = path.resolve(), start.resolve()
    try:
        return Path(os.path.relpath(path, start)).as_posix()
    except ValueError:  # another drive on Windows
        return path.as_posix()


def _folder(folder: str | Path, *inside: str, name: str) -> Path:
    folder = Path(folder).expanduser()
    missing = next((inner for inner in inside if not (folder / inner).exists()), None)
    if missing is not None:
        raise DataError(f"{folder}: {missing} is not in it; give the folder {name} as it was unpacked")
    return folder


def _pairs(path: Path, separator: str) -> Iterable[tuple[str, str]]:
    """The first word of each line, and the rest. Raises `DataError` that names the line where there is only one."""
    with file_errors(path, "read"):
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, 1):
        first, found, rest = line.strip().partition(separator)
        if found:
            yield first, rest.strip()
        elif first:
            raise DataError(f"{path}: line {number} is '{first[:40]}', where two columns are expected; unpack the set again")


def _unique(names: dict[str, str]) -> dict[str, str]:
    """`crane` twice becomes `crane (n02012849)` and `crane (n03126707)`."""
    often = Counter(names.values())
    return {key: f"{name} ({key})" if often[name] > 1 else name for key, name in names.items()}

"""Folders of photos: `train/<class>/*.jpg` with optional `val/` and `test/`, or `<class>/*.jpg` alone."""

import os
from collections import Counter
from pathlib import Path

import torch
from PIL import Image
from torchvision.datasets.folder import IMG_EXTENSIONS

from kdcore.data.splits import Data, Split
from kdcore.errors import DataError

_VAL = ("val", "valid", "validation", "dev")
_SIZES_LOOKED_AT = 64


def read_folder(root: Path) -> Data:
    """Read a tree of images; the classes are the names of the folders, sorted. Hidden files and other kinds of file are passed over.

    `train/` is a split when it holds folders; otherwise the folders of `root` are the classes and there is no test split.
    Raises `DataError` where a class is alone or has no training image, or where the splits' classes differ; `OSError` as it comes.
    """
    split_dirs = _split_dirs(root)
    passed_over: Counter[str] = Counter()
    found = {name: _classes(folder, passed_over) for name, folder in split_dirs.items()}
    names = sorted(found["train"])
    if not names:
        hint = "images lie in it directly; put them into one folder a class" if _images(root) else "give it one folder of images a class"
        raise DataError(f"{split_dirs['train']}: no class folders; {hint}")
    if len(names) == 1:
        raise DataError(f"{split_dirs['train']}: there is one class only ('{names[0]}'); classification needs at least two")
    for name in names:
        if not found["train"][name]:
            there = f" (passed over: {_kinds(passed_over)})" if passed_over else ""
            raise DataError(f"{split_dirs['train'] / name}: class '{name}' has no training image{there}; add some or remove the folder")
    for split, classes in found.items():
        odd = sorted(set(classes) ^ set(names))
        if odd:
            where, other = (split, "train") if odd[0] in classes else ("train", split)
            raise DataError(f"{root}: class folder '{odd[0]}' is in {where} but not in {other}; both need the same class folders")
    splits = {split: _split(classes, names) for split, classes in found.items()}
    splits = {split: labelled for split, labelled in splits.items() if len(labelled)}
    notes = [f"passed over {passed_over.total()} files that are not images: {_kinds(passed_over)}"] if passed_over else []
    aside = sorted({folder.name for folder in _folders(root)} - {folder.name for folder in split_dirs.values()})
    if aside and split_dirs["train"] != root:
        notes.append(f"folders beside train/ that are no split were left out: {', '.join(aside)}")
    if "test" not in splits:
        notes.append("no test split in the folder, and none is made up: results are on dev only")
    return Data(
        root.resolve().name,
        names,
        3,
        _common_size(splits["train"].paths),
        splits["train"],
        dev=splits.get("val"),
        test=splits.get("test"),
        notes=notes,
    )


def _split_dirs(root: Path) -> dict[str, Path]:
    folders = {folder.name: folder for folder in _folders(root)}
    val = [name for name in _VAL if name in folders]
    if "train" not in folders or not _folders(folders["train"]):
        if folders and set(folders) <= {*_VAL, "test"}:
            raise DataError(f"{root}: there is {', '.join(sorted(folders))}, but no train folder; name the training images' folder 'train'")
        return {"train": root}
    if len(val) > 1:
        raise DataError(f"{root}: there are both {' and '.join(val)}; keep one of them")
    return {
        split: folders[name] for split, name in {"train": "train", "val": val[0] if val else "", "test": "test"}.items() if name in folders
    }


def _folders(root: Path) -> list[Path]:
    hidden = (".", "__MACOSX")
    return [Path(entry.path) for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith(hidden)]


def _images(root: Path) -> bool:
    return any(name.lower().endswith(IMG_EXTENSIONS) for name in os.listdir(root))


def _classes(root: Path, passed_over: Counter[str]) -> dict[str, list[str]]:
    """Image files by class folder, at any depth below it, in an order that no file system decides."""
    return {folder.name: sorted(_walk(folder, passed_over), key=lambda path: Path(path).parts) for folder in _folders(root)}


def _walk(folder: Path, passed_over: Counter[str]) -> list[str]:
    def give_up(error: OSError) -> None:
        raise error

    files = []
    for parent, inner, names in os.walk(folder, onerror=give_up, followlinks=True):
        inner[:] = [name for name in inner if not name.startswith(".")]
        for name in names:
            if name.startswith("."):
                continue
            if name.lower().endswith(IMG_EXTENSIONS):
                files.append(os.path.join(parent, name))
            else:
                passed_over[os.path.splitext(name)[1].lower() or name] += 1
    return files


def _split(classes: dict[str, list[str]], names: list[str]) -> Split:
    paths = [path for name in names for path in classes[name]]
    labels = [k for k, name in enumerate(names) for _ in classes[name]]
    return Split(torch.tensor(labels, dtype=torch.int64), paths=paths)


def _kinds(passed_over: Counter[str]) -> str:
    return ", ".join(kind for kind, _ in passed_over.most_common(5))


def _common_size(paths: list[str] | None) -> tuple[int, int] | None:
    """(height, width) where 64 training images spread over the split agree, else None. Only headers are read; bad images are left to later."""
    paths = paths or []
    sizes = set()
    for path in paths[:: max(1, len(paths) // _SIZES_LOOKED_AT)]:
        try:
            with Image.open(path) as image:
                width, height = image.size
                turned = image.getexif().get(0x0112, 1) >= 5  # EXIF orientations 5 to 8 are turned by a quarter
        except Exception:  # Pillow raises whatever a broken header makes of it
            continue
        sizes.add((width, height) if turned else (height, width))
        if len(sizes) > 1:
            return None
    return sizes.pop() if sizes else None

"""Folders of photos: `train/<class>/*.jpg` with optional `val/` and `test/`, or `<class>/*.jpg` alone."""

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch

from kdcore.data.opening import image_endings, missing_endings, size_of
from kdcore.data.splits import Data, Split
from kdcore.errors import DataError

_SPLITS = {"train": ("train", "training"), "val": ("val", "valid", "validation", "dev"), "test": ("test", "testing")}
_SIZES_LOOKED_AT = 64
_JUNK = ("thumbs.db", "ehthumbs.db", "desktop.ini")  # what Windows leaves in folders; hidden files are passed over in any case


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
        raise DataError(f"{split_dirs['train']}: no class folders; {_how_to_have_classes(split_dirs['train'])}")
    if len(names) == 1:
        raise DataError(f"{split_dirs['train']}: there is one class only ('{names[0]}'); classification needs at least two")
    for name in names:
        if not found["train"][name]:
            there = f" (passed over: {_kinds(passed_over)})" if passed_over else ""
            if set(passed_over) & set(missing_endings()):
                there += "; to read these photos, pip install 'kdcore[heic]'"
            raise DataError(f"{split_dirs['train'] / name}: class '{name}' has no training image{there}; add some or remove the folder")
    for split, classes in found.items():
        odd = sorted(set(classes) ^ set(names))
        if odd:
            where, other = (split, "train") if odd[0] in classes else ("train", split)
            raise DataError(f"{root}: class folder '{odd[0]}' is in {where} but not in {other}; both need the same class folders")
    splits = {split: _split(classes, names) for split, classes in found.items()}
    splits = {split: labelled for split, labelled in splits.items() if len(labelled)}
    notes = _passed_over_notes(passed_over)
    aside = sorted({folder.name for folder in _folders(root)} - {folder.name for folder in split_dirs.values()})
    if aside and split_dirs["train"] != root:
        notes.append(f"folders beside train/ that are no split were left out: {', '.join(aside)}")
    if "test" not in splits:
        notes.append("no test split in the folder, and none is made up: results are on dev only")
    return Data(
        root.resolve().name,
        names,
        3,
        common_size(splits["train"].paths),
        splits["train"],
        dev=splits.get("val"),
        test=splits.get("test"),
        notes=notes,
    )


def _split_dirs(root: Path) -> dict[str, Path]:
    """The folders of the splits, known by their names in any case (Kaggle's Training/ and Testing/ too), or `root` as train alone."""
    folders = sorted(_folders(root))
    found = {split: [folder for folder in folders if folder.name.lower() in words] for split, words in _SPLITS.items()}
    if not any(_folders(folder) for folder in found["train"]):
        if folders and sum(map(len, found.values())) == len(folders):  # they are splits then, and no classes
            if found["train"]:
                raise DataError(f"{found['train'][0]}: no class folders; {_how_to_have_classes(found['train'][0])}")
            there = ", ".join(folder.name for folder in folders)
            raise DataError(f"{root}: there is {there}, but no train folder; name the training images' folder 'train'")
        return {"train": root}
    for those in found.values():
        if len(those) > 1:
            raise DataError(f"{root}: there are both {' and '.join(folder.name for folder in those)}; keep one of them")
    return {split: those[0] for split, those in found.items() if those}


def _folders(root: Path) -> list[Path]:
    return [Path(entry.path) for entry in os.scandir(root) if entry.is_dir() and not _hidden(entry.name)]


def _hidden(name: str) -> bool:
    return name.startswith((".", "__MACOSX")) or name.lower() in _JUNK


def _how_to_have_classes(folder: Path) -> str:
    endings = image_endings()
    if any(name.lower().endswith(endings) and not _hidden(name) for name in os.listdir(folder)):
        return "images lie in it directly; put them into one folder a class, or list them in a table of path and label"
    return "give it one folder of images a class"


def _classes(root: Path, passed_over: Counter[str]) -> dict[str, list[str]]:
    def give_up(error: OSError) -> None:
        raise error

    return {folder.name: image_files(folder, passed_over, give_up) for folder in _folders(root)}


def image_files(
    folder: str | Path, passed_over: Counter[str] | None = None, on_error: Callable[[OSError], None] | None = None
) -> list[str]:
    """Image files at any depth in a folder, in an order that no file system decides; hidden ones are passed over.

    Links are followed, but no folder is gone through twice: a link may lead in a circle. `passed_over` counts the other files by their
    ending; `on_error` is called with a folder that cannot be read, which is otherwise left out.
    """
    files: list[str] = []
    seen: set[str] = set()
    endings = image_endings()
    for parent, inner, names in os.walk(folder, onerror=on_error, followlinks=True):
        if (real := os.path.realpath(parent)) in seen:
            inner.clear()
            continue
        seen.add(real)
        inner[:] = sorted(name for name in inner if not _hidden(name))
        for name in names:
            if _hidden(name):
                continue
            if name.lower().endswith(endings):
                files.append(os.path.join(parent, name))
            elif passed_over is not None:
                passed_over[os.path.splitext(name)[1].lower() or name] += 1
    return sorted(files, key=lambda path: Path(path).parts)


def _split(classes: dict[str, list[str]], names: list[str]) -> Split:
    paths = [path for name in names for path in classes[name]]
    labels = [k for k, name in enumerate(names) for _ in classes[name]]
    return Split(torch.tensor(labels, dtype=torch.int64), paths=paths)


def _passed_over_notes(passed_over: Counter[str]) -> list[str]:
    lacking = {kind: count for kind, count in passed_over.items() if kind in missing_endings()}
    others = Counter({kind: count for kind, count in passed_over.items() if kind not in lacking})
    what = "1 file that is not an image" if others.total() == 1 else f"{others.total()} files that are not images"
    notes = [f"passed over {what}: {_kinds(others)}"] if others else []
    if lacking:
        count = sum(lacking.values())
        what = f"{count} photo{'' if count == 1 else 's'} ({', '.join(sorted(lacking))})"
        notes.append(f"passed over {what}: to read {'it' if count == 1 else 'them'}, pip install 'kdcore[heic]'")
    return notes


def _kinds(passed_over: Counter[str]) -> str:
    return ", ".join(kind for kind, _ in passed_over.most_common(5))


def common_size(paths: list[str] | None) -> tuple[int, int] | None:
    """(height, width) where 64 images spread over the split agree, else None. Only headers are read; bad images are left to later."""
    paths, sizes = paths or [], set()
    for path in paths[:: max(1, len(paths) // _SIZES_LOOKED_AT)]:
        if size := size_of(path):
            sizes.add(size)
        if len(sizes) > 1:
            return None
    return sizes.pop() if sizes else None

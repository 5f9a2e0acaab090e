"""Arrays and packs of images as one set: an .npz with MedMNIST's keys, or a tree of PNG files.

A pack is an .npz whose `meta` (JSON: `kind`, and `n, g, h, w, mode` by split) describes encoded pieces: `blob_<split>` (uint8), `off_<split>`
(where each begins and ends), `y_<split>`, and `classes`. A piece is one image, or a mosaic of g x g of them.
"""

import io
import json
import os
import shutil
import zipfile
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kdcore.data.prepared_sets import Written, new_file
from kdcore.errors import DataError, FileError
from kdcore.files import file_errors, remove_quietly

SPLITS = ("train", "val", "test")
_THREADS = 8
_BROKEN = (KeyError, ValueError, TypeError, IndexError, EOFError, OSError, NotImplementedError, SyntaxError, zipfile.BadZipFile, zlib.error)
Part = dict[str, tuple[list[np.ndarray], np.ndarray]]


def pack(parts: Sequence[str | Path], out: str | Path, *, began: Callable[[int], None] = lambda count: None) -> Written:
    """Several .npz files, each split one after the other, as `out`: one .npz, or else a tree `out/<split>/<class>/<number>.png`.

    `began(count)`: so many images have been read and will be written. Raises `DataError` where a part is no set of images or does not go with
    the others, `FileError` where `out` exists or the disk refuses; then nothing is left behind.
    """
    out = new_file(out)
    merged: Part = {}
    names: list[str] | None = None
    for place, path in enumerate(parts):
        part, classes = _read(Path(path).expanduser())
        if place and classes != names:
            raise DataError(f"{path}: its classes are not those of {parts[0]}; parts of one set have the same")
        names = classes
        for split, (images, labels) in part.items():
            before = merged.get(split, ([], np.empty(0, np.int64)))
            merged[split] = (before[0] + images, np.concatenate([before[1], labels]))
    labels = np.concatenate([labels for _, labels in merged.values()]) if merged else np.empty(0, np.int64)
    if not labels.size:
        raise DataError(f"{parts[0]}: there is no image in it")
    names = names or [str(k) for k in range(int(labels.max()) + 1)]
    if labels.min() < 0 or labels.max() >= len(names):
        odd = labels.min() if labels.min() < 0 else labels.max()
        raise DataError(f"{parts[0]}: a label is {odd}, and labels go from 0 to {len(names) - 1}")
    merged = {split: merged[split] for split in SPLITS if split in merged and len(merged[split][1])}
    began(len(labels))
    as_tree = out.suffix.lower() != ".npz"
    (_write_tree if as_tree else _write_npz)(out, merged, names)
    notes = []
    if as_tree and sorted(names) != names and not all(name.isdigit() for name in names):
        notes.append("classes of a tree are numbered by their names in alphabetical order, and not as in the arrays")
    return Written(out, len(names), {split: len(labels) for split, (_, labels) in merged.items()}, notes)


def _read(path: Path) -> tuple[Part, list[str] | None]:
    if not path.is_file():
        raise FileError(f"{path}: there is no such file; give one or several .npz files, then what to write")
    try:
        with np.load(path, allow_pickle=False) as stored:
            if "meta" in stored:
                return _mosaics(stored), [str(name) for name in stored["classes"]]
            part = {split: _plain(stored, split) for split in SPLITS if f"{split}_images" in stored}
            given = next((stored[key] for key in ("class_names", "classes") if key in stored), None)
    except PermissionError as error:
        raise FileError(f"cannot read {path}: {error.strerror}") from error
    except _BROKEN as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path}: neither a pack nor an .npz with MedMNIST's keys: {why}") from error
    if not part:
        raise DataError(
            f"{path}: neither a pack (meta, blob_train, ...) nor an .npz with MedMNIST's keys (train_images, train_labels, ...)"
        )
    return part, None if given is None else [str(name) for name in given]


def _plain(stored: Any, split: str) -> tuple[list[np.ndarray], np.ndarray]:
    images, labels = stored[f"{split}_images"], stored[f"{split}_labels"].reshape(-1)
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or images.shape[3:] not in ((), (1,), (3,)):
        raise ValueError(
            f"{split}_images is {images.dtype} {list(images.shape)}; it must be uint8 [N, H, W], or [N, H, W, C] with C 1 or 3"
        )
    if images.shape[3:] == (1,):
        images = images[..., 0]
    return list(images), _labels(labels, len(images), split)


def _labels(labels: np.ndarray, count: int, split: str) -> np.ndarray:
    if labels.dtype.kind not in "iu" or len(labels) != count:
        raise ValueError(f"the labels of {split} must be {count} integers, one for each image; they are {len(labels)} of {labels.dtype}")
    return labels.astype(np.int64)


def _mosaics(stored: Any) -> Part:
    meta, part = json.loads(str(stored["meta"])), {}
    for split, about in meta["splits"].items():
        if split not in SPLITS:
            raise ValueError(f"a split is called '{split}'; they are train, val, test")
        blob, ends = stored[f"blob_{split}"].tobytes(), stored[f"off_{split}"].tolist()
        pieces = [blob[start:end] for start, end in pairwise(ends)]

        def cut(piece: bytes, about: dict[str, Any] = about) -> list[np.ndarray]:
            image = Image.open(io.BytesIO(piece))
            return _tiles(image.convert(about["mode"]), about) if meta["kind"] == "mosaic" else [np.asarray(image)]

        with ThreadPoolExecutor(_THREADS) as pool:
            images = [image for found in pool.map(cut, pieces) for image in found][: about["n"]]
        part[split] = (images, _labels(stored[f"y_{split}"].reshape(-1), len(images), split))
    return part


def _tiles(image: Image.Image, about: dict[str, Any]) -> list[np.ndarray]:
    """One mosaic cut into g * g images [h, w] or [h, w, 3], row by row."""
    grid, height, width = about["g"], about["h"], about["w"]
    mosaic = np.asarray(image)
    rows = mosaic.reshape((grid, height, grid, width, *mosaic.shape[2:])).swapaxes(1, 2)
    return list(rows.reshape((grid * grid, height, width, *mosaic.shape[2:])))


def _write_npz(out: Path, splits: Part, names: list[str]) -> None:
    shapes = sorted({image.shape for images, _ in splits.values() for image in images})
    if len(shapes) > 1:
        raise DataError(
            f"{out}: the images differ in shape ({list(shapes[0])}, {list(shapes[1])}), which an .npz cannot hold; write a tree"
        )
    arrays: dict[str, Any] = {"class_names": np.array(names)}
    for split, (images, labels) in splits.items():
        arrays |= {f"{split}_images": np.stack(images), f"{split}_labels": labels}
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    with file_errors(out, "write"):
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                np.savez(file, **arrays)
            os.replace(temporary, out)
        finally:
            remove_quietly(temporary)


def _write_tree(out: Path, splits: Part, names: list[str]) -> None:
    folders = [_folder_name(name) for name in names]
    if len({folder.lower() for folder in folders}) < len(folders):
        raise DataError(f"{out}: two classes would have the same folder; write an .npz instead")
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    with file_errors(out, "write"):
        try:
            for split, (images, labels) in splits.items():
                for folder in folders:  # of every class, since a tree's splits have the same folders
                    (temporary / split / folder).mkdir(parents=True)
                digits = max(len(str(len(images) - 1)), 4)
                paths = [temporary / split / folders[k] / f"{number:0{digits}d}.png" for number, k in enumerate(labels.tolist())]
                with ThreadPoolExecutor(_THREADS) as pool:
                    for _ in pool.map(_save, images, paths):
                        pass
            os.rename(temporary, out)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _save(pixels: np.ndarray, path: Path) -> None:
    Image.fromarray(pixels).save(path, compress_level=1)


def _folder_name(name: str) -> str:
    """The class as a folder's name on every system, and one that `load_data` does not take for a hidden one."""
    safe = "".join("_" if letter in '<>:"/\\|?*' or ord(letter) < 32 else letter for letter in name).strip(" .")
    return safe or "_"

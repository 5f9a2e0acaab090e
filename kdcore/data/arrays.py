"""Images in arrays: scikit-learn's digits, and .npz files with MedMNIST's keys."""

import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch

from kdcore.data.splits import Data, Split, stratified
from kdcore.errors import DataError, FileError
from kdcore.seeds import seed_of

_DIGITS_TEST = 1000


def digits() -> Data:
    """1,797 grey images of 8x8, as uint8: 1,000 for the test, by a split that no run's seed moves."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.from_numpy(np.rint(digits.images * (255 / 16)).astype(np.uint8))[:, None]
    whole = Split(torch.from_numpy(digits.target.astype(np.int64)), images=images)
    test = stratified(whole.labels, _DIGITS_TEST, seed=seed_of("digits", "test"))
    rest = torch.ones(len(whole), dtype=torch.bool)
    rest[test] = False
    names = [str(name) for name in digits.target_names]
    return Data("digits", names, 1, (8, 8), train=whole.take(rest.nonzero()[:, 0]), test=whole.take(test))


def read_npz(path: Path) -> Data:
    """An .npz with MedMNIST's keys. Raises `DataError` that names the key at fault, `FileError` where the file cannot be read."""
    arrays, keys = _load(path)
    if "train_images" not in arrays or "train_labels" not in arrays:
        there = ", ".join(sorted(keys)[:12]) + (", ..." if len(keys) > 12 else "") if keys else "none"
        raise DataError(f"{path}: needs the keys train_images and train_labels (val_ and test_ are optional); it has: {there}")
    found = {name: _split(path, name, arrays) for name in ("train", "val", "test")}
    splits = {name: split for name, split in found.items() if split is not None and len(split)}
    if "train" not in splits:
        raise DataError(f"{path}: train_images holds no image")
    shapes = {name: (*arrays[f"{name}_images"].shape[1:], 1)[:3] for name in splits}
    if any(shape != shapes["train"] for shape in shapes.values()):
        raise DataError(f"{path}: the images of the splits differ in height, width, channels: {shapes}; make them equal")
    height, width, channels = shapes["train"]
    notes = [] if "test" in splits else ["no test split in the data: results are on dev only"]
    names = _class_names(path, splits, arrays.get("class_names", arrays.get("classes")))
    return Data(path.stem, names, channels, (height, width), splits["train"], dev=splits.get("val"), test=splits.get("test"), notes=notes)


def _load(path: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """The arrays of the file that matter here, and all of its keys; nothing is unpickled."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}") from error
    wanted = {"class_names", "classes", *(f"{split}_{kind}" for split in ("train", "val", "test") for kind in ("images", "labels"))}
    with file:
        try:
            if not zipfile.is_zipfile(file):
                raise DataError(f"{path}: not an .npz file, or cut short; write it with numpy.savez_compressed")
            file.seek(0)
            with np.load(file, allow_pickle=False) as stored:
                return {key: stored[key] for key in stored.files if key in wanted}, list(stored.files)
        except (ValueError, EOFError, OSError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
            why = (
                "an array of Python objects; save plain numbers and strings" if "allow_pickle" in str(error) else str(error).split("\n")[0]
            )
            raise DataError(f"{path}: cannot be read as an .npz file: {why}") from error


def _split(path: Path, name: str, arrays: dict[str, np.ndarray]) -> Split | None:
    """One split as uint8 [N, C, H, W] and int64 [N]; None where the file has neither array."""
    images, labels = arrays.get(f"{name}_images"), arrays.get(f"{name}_labels")
    if images is None and labels is None:
        return None
    if images is None or labels is None:
        there, missing = ("images", "labels") if labels is None else ("labels", "images")
        raise DataError(f"{path}: {name}_{missing} is missing beside {name}_{there}; add it or leave out both")
    if images.dtype != np.uint8:
        raise DataError(f"{path}: {name}_images must be uint8 from 0 to 255, not {images.dtype}")
    if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] not in (1, 3)) or 0 in images.shape[1:]:
        raise DataError(f"{path}: {name}_images must be [N, H, W], or [N, H, W, C] with 1 or 3 channels, not {list(images.shape)}")
    if labels.dtype.kind not in "iu":
        raise DataError(f"{path}: {name}_labels must be integers from 0 on, not {labels.dtype}")
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape != images.shape[:1]:
        raise DataError(f"{path}: {name}_labels must be one number for each of the {len(images)} images, not {list(labels.shape)}")
    if labels.size and labels.min() < 0:
        raise DataError(f"{path}: {name}_labels holds {labels.min()}; labels are integers from 0 on")
    planes = np.ascontiguousarray(images[:, None] if images.ndim == 3 else np.moveaxis(images, 3, 1))
    return Split(torch.from_numpy(labels.astype(np.int64)), images=torch.from_numpy(planes))


def _class_names(path: Path, splits: dict[str, Split], given: np.ndarray | None) -> list[str]:
    """The file's names, or the labels themselves; each class must have a training image."""
    top = max(int(split.labels.max()) for split in splits.values())
    seen = splits["train"].labels.unique().tolist()
    if given is not None:
        if given.ndim != 1 or given.dtype.kind not in "US":
            raise DataError(f"{path}: class_names must be a list of strings, not {given.dtype} of shape {list(given.shape)}")
        names = [name.decode(errors="replace") if isinstance(name, bytes) else str(name) for name in given.tolist()]
        if top >= len(names):
            raise DataError(f"{path}: a label is {top}, but there are only {len(names)} class_names (labels count from 0)")
    else:
        if len(seen) < top + 1:
            first = next((k for k, label in enumerate(seen) if k != label), len(seen))
            raise DataError(f"{path}: class {first} has no training image, though labels go up to {top}; number the classes from 0 on")
        names = [str(k) for k in range(top + 1)]
    if len(names) < 2:
        raise DataError(f"{path}: there is one class only; classification needs at least two")
    empty = [name for k, name in enumerate(names) if k not in set(seen)]
    if empty:
        raise DataError(f"{path}: class '{empty[0]}' has no training image; add some or take it out of class_names")
    return names

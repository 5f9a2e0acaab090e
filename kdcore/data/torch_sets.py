"""torchvision's classification sets by name (`torch/svhn`), each with its own splits."""

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdcore.data.parts import Part, Wanted
from kdcore.data.stores import TorchSet
from kdcore.errors import DataError, KdError, nearest

_FLAG = ("train", {"train": True, "test": False})
_TRAIN_TEST = ("split", {"train": "train", "test": "test"})
_TRAIN_VAL = ("split", {"train": "train", "dev": "val"})
_TRAIN_VAL_TEST = ("split", {"train": "train", "dev": "val", "test": "test"})
_WHOLE: tuple[None, dict[str, Any]] = (None, {"train": None})
# The class of torchvision; the argument that names a split; the splits to train on, to select on and to report on.
_SETS: dict[str, tuple[str | None, dict[str, Any]]] = {
    "CIFAR10": _FLAG,
    "CIFAR100": _FLAG,
    "MNIST": _FLAG,
    "KMNIST": _FLAG,
    "FashionMNIST": _FLAG,
    "QMNIST": _FLAG,
    "EMNIST": _FLAG,
    "USPS": _FLAG,
    "SVHN": _TRAIN_TEST,
    "STL10": _TRAIN_TEST,
    "Food101": _TRAIN_TEST,
    "GTSRB": _TRAIN_TEST,
    "StanfordCars": _TRAIN_TEST,
    "FER2013": _TRAIN_TEST,
    "OxfordIIITPet": ("split", {"train": "trainval", "test": "test"}),
    "Flowers102": _TRAIN_VAL_TEST,
    "DTD": _TRAIN_VAL_TEST,
    "FGVCAircraft": _TRAIN_VAL_TEST,
    "RenderedSST2": _TRAIN_VAL_TEST,
    "PCAM": _TRAIN_VAL_TEST,
    "CLEVRClassification": _TRAIN_VAL_TEST,
    "Country211": ("split", {"train": "train", "dev": "valid", "test": "test"}),
    "Imagenette": _TRAIN_VAL,
    "ImageNet": _TRAIN_VAL,
    "Places365": ("split", {"train": "train-standard", "dev": "val"}),
    "INaturalist": ("version", {"train": "2021_train", "dev": "2021_valid"}),
    "EuroSAT": _WHOLE,
    "Caltech101": _WHOLE,
    "Caltech256": _WHOLE,
    "SUN397": _WHOLE,
    "SEMEION": _WHOLE,
}
_FURTHER = {"EMNIST": {"split": "balanced"}}
_NO_DOWNLOAD = ("FER2013", "ImageNet")
_PATHS = ("_image_files", "_images", "samples", "_samples", "imgs")
_NAMES = ("classes", "categories", "all_categories")
_LABELS = ("targets", "_labels", "labels", "y")


def default_folder() -> Path:
    return Path.home() / ".cache" / "kdcore" / "data"


def read_torch(name: str, wanted: Wanted) -> dict[str, Part]:
    """The splits of a set of torchvision's. Raises `DataError`, `KdError` that say where it was looked for, and what to type."""
    known = {_plain(each): each for each in _SETS}
    found = known.get(_plain(name))
    if found is None:
        raise KdError(f"torchvision has no classification set '{name}'{nearest(_plain(name), known)}")
    keyword, own = _SETS[found]
    root = Path(wanted.data_dir).expanduser() if wanted.data_dir else default_folder()
    splits = wanted.splits(own, None if keyword == "split" else list(own))
    parts = {}
    for part, split in splits.items():
        options = dict(_FURTHER.get(found, {})) | ({keyword: split} if keyword else {})
        if wanted.download and found not in _NO_DOWNLOAD:
            options["download"] = True
        parts[part] = _part(_create(found, str(root), options, f"torch/{name}", wanted.download))
    return parts


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _create(name: str, root: str, options: dict[str, Any], spec: str, download: bool) -> Any:
    from torchvision import datasets

    if name == "SEMEION":
        options.setdefault("download", False)  # the only one that downloads unasked
    try:
        if download:
            Path(root).mkdir(parents=True, exist_ok=True)
        return getattr(datasets, name)(root, **options)
    except ImportError as error:
        raise KdError(f"{spec} needs {error.name or error}: pip install {error.name or ''}".rstrip()) from error
    except Exception as error:  # torchvision raises RuntimeError, FileNotFoundError, ValueError, URLError, ...
        why = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        if "Valid values are" in why:
            raise KdError(f"{spec}: {why}") from error
        what = f"split {options['split']}: " if options.get("split") else ""
        if name in _NO_DOWNLOAD:
            hint = "it has to be fetched by hand; name its folder with --data-dir"
        elif download:
            hint = "it could not be downloaded; try again, or fetch it by hand and name its folder with --data-dir"
        else:
            hint = "add --download to fetch it, or name its folder with --data-dir"
            why = why.replace(" You can use download=True to download it", "").rstrip(".")
        raise DataError(f"{spec}: {what}not found in {root} ({why}); {hint}") from error


def _part(dataset: Any) -> Part:
    labels = _labels(dataset)
    listed: list[Any] = next((found for name in _NAMES if (found := getattr(dataset, name, None))), [])
    names = [name[0] if isinstance(name, tuple) else str(name) for name in listed]  # ImageNet: the first of the synonyms
    if names and max((label for label in labels if label is not None), default=0) >= len(names):
        names = []
    images = _images(dataset)
    paths = None if images is not None else _paths(dataset)
    return Part(labels, names or None, images=images, paths=paths, items=None if paths or images is not None else TorchSet(dataset))


def _images(dataset: Any) -> torch.Tensor | None:
    """uint8 [N, C, H, W] of the sets that hold an array: [N, H, W], or with channels before or after."""
    pixels = getattr(dataset, "data", None)
    if pixels is None or not hasattr(pixels, "dtype") or pixels.ndim not in (3, 4):
        return None
    pixels = torch.as_tensor(np.ascontiguousarray(pixels))
    if pixels.dtype != torch.uint8:
        return None
    if pixels.ndim == 3:
        return pixels[:, None]
    return pixels if pixels.shape[1] in (1, 3) else pixels.permute(0, 3, 1, 2).contiguous()


def _paths(dataset: Any) -> list[str] | None:
    for name in _PATHS:
        entries = getattr(dataset, name, None)
        if entries:
            files = [entry[0] if isinstance(entry, tuple) else entry for entry in entries]
            return [str(file) for file in files] if isinstance(files[0], str | Path) else None
    if hasattr(dataset, "all_categories"):  # iNaturalist
        return [os.path.join(dataset.root, dataset.all_categories[label], file) for label, file in dataset.index]
    return None


def _labels(dataset: Any) -> list[int | None]:
    """Class numbers, without opening a picture where the set has them in a list; None for a picture without one (FER2013's test)."""
    for name in _LABELS:
        labels = getattr(dataset, name, None)
        if labels is not None:
            labels = np.asarray(labels)
            return (labels[:, 0] if labels.ndim == 2 else labels).astype(np.int64).tolist()  # QMNIST: the first column is the class
    for name in ("samples", "_samples", "imgs"):
        if entries := getattr(dataset, name, None):
            return [None if label is None else int(label) for _, label in entries]
    if hasattr(dataset, "all_categories"):
        return [label for label, _ in dataset.index]
    return [int(dataset[i][1]) for i in range(len(dataset))]

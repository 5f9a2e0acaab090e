"""Naming the classes of images with a finished run: its own preprocessing, class names and weights, at one exit or all of them together.

Probabilities are computed in float32, on whatever device: they are those of `kdcore.load` with timm's own evaluation transform.
"""

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from kdcore.comparing import best_exit
from kdcore.data import Preprocessing, open_image
from kdcore.data.folders import image_files
from kdcore.data.opening import ADVICE, as_rgb, image_endings, reading
from kdcore.data.photos import photo_transform
from kdcore.data.transforms import grey
from kdcore.errors import DataError, FileError, KdError
from kdcore.evaluation import mixture
from kdcore.loading import load_student
from kdcore.precision import pick_device
from kdcore.runs import Run

Picture = str | Path | Image.Image
ENSEMBLE = "ensemble"


@dataclass(frozen=True)
class Prediction:
    """One image: `name` is the class, `confidence` its probability, 0 to 1; `probabilities` by class name. `path`: None for a PIL image."""

    path: str | None
    name: str
    confidence: float
    probabilities: dict[str, float]

    def top(self, count: int) -> list[tuple[str, float]]:
        """The `count` most probable classes, the first being `name`."""
        return sorted(self.probabilities.items(), key=lambda item: -item[1])[:count]


@dataclass(frozen=True)
class Bad:
    """What could not be read, and why, in one line."""

    path: str | None
    error: KdError


def predict(
    run: str | Path,
    images: Picture | Iterable[Picture],
    exit: int | str | None = None,
    *,
    which: str = "delivered",
    device: str = "auto",
    batch_size: int = 64,
    workers: int = 0,
    skip_bad_images: bool = False,
) -> list[Prediction]:
    """The classes of images, in their order: `predict("runs/x", ["a.jpg", "folder", "new/*.jpg", pil_image])`.

    exit: from 1, -1 the deepest, or "ensemble", the mean of the probabilities of all (default: the best on dev). which: delivered, last or
    best; an unfinished run has the last two. workers: processes that open files. Raises DataError that names the first bad image, unless
    `skip_bad_images` leaves it out; KdError for an exit that is not there.
    """
    predictor = Predictor(run, exit, which=which, device=device)
    several = [images] if isinstance(images, str | Path | Image.Image) else list(images)
    found: list[Picture] = []
    answers: list[Prediction] = []
    for image in several:
        if isinstance(image, Image.Image):
            found.append(image)
            continue
        paths, bad = find_images([image])
        if bad and not skip_bad_images:
            raise bad[0].error
        found += paths
    for answer in predictor(found, batch_size=batch_size, workers=workers):
        if isinstance(answer, Prediction):
            answers.append(answer)
        elif not skip_bad_images:
            raise answer.error
    return answers


class Predictor:
    """A run's model, loaded once. `exit` is the exit that answers (or "ensemble"), `why` says how it was chosen."""

    def __init__(self, run: str | Path, exit: int | str | None = None, *, which: str = "delivered", device: str = "auto") -> None:
        self.run = Run.open(run)
        results = self.run.results()
        if results is None and which == "delivered":
            again = f"kd train --run {self.run.path} --resume"
            raise FileError(f"{self.run.path} is not finished; go on with {again}, or predict with its best epoch so far: --which best")
        self.device = pick_device(device)
        student, about = load_student(self.run.path, which=which, device=self.device)
        self.class_names: list[str] = about["class_names"]
        self.preprocessing = Preprocessing.from_json(about["preprocessing"])
        self.exits: list[int] = [cost["exit"] for cost in about["exits"]]
        self.exit, self.why = choose_exit(exit, self.exits, results)
        self._model = student if isinstance(self.exit, str) else student.strip(self.exit).eval()

    def __call__(self, images: Sequence[Picture], *, batch_size: int = 64, workers: int = 0) -> Iterator[Prediction | Bad]:
        """An answer for each image, in order, as soon as its batch is done. PIL images are never sent to workers."""
        if any(isinstance(image, Image.Image) for image in images):
            workers = 0
        loader = DataLoader(
            _Opened(images, self.preprocessing),
            batch_size=batch_size,
            num_workers=min(workers, -(-len(images) // batch_size)),
            collate_fn=_together,
            generator=torch.Generator(),  # its own: the default would draw from torch's global one
        )
        for pixels, errors in loader:
            probabilities = iter(self._probabilities(pixels).tolist()) if len(pixels) else iter(())
            for path, error in errors:
                yield Bad(path, error) if error is not None else self._named(path, next(probabilities))

    def _named(self, path: str | None, probabilities: list[float]) -> Prediction:
        by_name = dict(zip(self.class_names, probabilities, strict=True))
        name = max(by_name, key=by_name.__getitem__)
        return Prediction(path, name, by_name[name], by_name)

    def _probabilities(self, pixels: Tensor) -> Tensor:
        """uint8 [B, C, H, W] to float32 [B, K] on the CPU."""
        mean, std = (torch.tensor(value)[:, None, None] for value in (self.preprocessing.mean, self.preprocessing.std))
        images = pixels.to(torch.float32).div(255).sub(mean).div(std).to(self.device)
        with torch.inference_mode():
            outputs = self._model(images)
            logits = torch.stack([outputs.logits[k - 1] for k in self.exits]) if isinstance(self.exit, str) else outputs[None]
            return mixture(logits.float().cpu()).exp()


def choose_exit(exit: int | str | None, exits: Sequence[int], results: Any) -> tuple[int | str, str]:
    """The exit that answers, and in words how it was chosen. Raises KdError for one that is not there."""
    if exit == ENSEMBLE and len(exits) > 1:
        return ENSEMBLE, "the mean probabilities of all exits"
    if exit is None:
        if results is None:
            return exits[-1], "the deepest: an unfinished run has no results to choose by"
        chosen = best_exit(results)
        if chosen not in exits:
            return exits[-1], "the deepest: there are no results to choose by"
        if "dev" not in results["best"]:
            return chosen, "the deepest: there is no dev split to choose by"
        if len(exits) == 1:
            return chosen, "the only one"
        top1 = next(entry["top1"] for entry in results["best"]["dev"]["exits"] if entry["exit"] == chosen)
        return chosen, f"the best on dev, {top1:.1f} %"
    number = exits[-1] if exit == -1 else exit
    if number not in exits:
        known = ", ".join(map(str, exits)) + (", ensemble" if len(exits) > 1 else "")
        which = "" if exits == list(range(1, len(exits) + 1)) else " with these classes"  # some exits may have others
        raise KdError(f"there is no exit {exit}{which}; there is: {known}")
    return number, "as asked"


def find_images(names: Iterable[str | Path]) -> tuple[list[str], list[Bad]]:
    """The image files that names mean, in order, and the names that mean none.

    A file is taken as it is, whatever its ending; a folder gives the images at any depth in it, hidden ones passed over; a pattern (`*`,
    `?`, `[a-z]`, `**`) that no shell has expanded is expanded here.
    """
    found: list[str] = []
    bad: list[Bad] = []
    for name in map(str, names):
        place = os.path.expanduser(name)
        if os.path.isdir(place):
            files, nothing = image_files(place), "there is no image in this folder"
        elif not os.path.exists(place) and any(sign in place for sign in "*?["):
            files, nothing = _matching(place), "no image is named like this"
        elif not os.path.exists(place):
            files, nothing = [], "there is no such file or folder"
        else:
            files, nothing = [place], ""
        found += files
        if not files:
            bad.append(Bad(name, DataError(f"{name}: {nothing}")))
    return found, bad


def _matching(pattern: str) -> list[str]:
    matches = sorted(glob.glob(pattern, recursive=True), key=lambda path: Path(path).parts)
    folders = [] if "**" in pattern else [path for path in matches if os.path.isdir(path)]
    files = [path for path in matches if os.path.isfile(path)]
    images = [path for path in files if path.lower().endswith(image_endings())]
    if not folders:
        return images or files
    there = set(images)
    return [file for path in matches for file in ([path] if path in there else image_files(path) if os.path.isdir(path) else [])]


class _Opened(Dataset):
    """An image by its number as uint8 [C, H, W], or the error that it is: a worker would wrap an exception in its traceback."""

    def __init__(self, images: Sequence[Picture], preprocessing: Preprocessing) -> None:
        self.images = [image if isinstance(image, Image.Image) else str(image) for image in images]
        self.transform, self.grey = photo_transform(preprocessing), preprocessing.in_chans == 1

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: int) -> tuple[str | None, Tensor | KdError]:
        image = self.images[number]
        path = image if isinstance(image, str) else None
        try:
            if isinstance(image, str):
                opened = open_image(image)
            else:
                with reading(f"image {number + 1}"):
                    opened = as_rgb(image)
        except KdError as error:
            return path, type(error)(str(error).removesuffix(ADVICE))  # which is of training
        pixels = self.transform(opened)
        return path, grey(pixels) if self.grey else pixels


def _together(samples: list[tuple[str | None, Tensor | KdError]]) -> tuple[Tensor, list[tuple[str | None, KdError | None]]]:
    """The good images as one batch; for each of all its path, and the error of a bad one."""
    good = [pixels for _, pixels in samples if isinstance(pixels, Tensor)]
    errors = [(path, pixels if isinstance(pixels, KdError) else None) for path, pixels in samples]
    return (torch.stack(good) if good else torch.empty(0)), errors

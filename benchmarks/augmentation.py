"""Images a second of augmentation: a batch together on its device, as kdcore does it, against torchvision's transforms, one image at a time.

    python benchmarks/augmentation.py [--quick] [--json augmentation.json] [--device cuda] [--size 32]

Both read decoded images of CIFAR's shape, crop and flip them, turn, cut out and erase them where the row says so, normalise, and end with a batch of
float32 and its labels on the device. They take turns in one process, each in one thread, without workers: twice the workers are about twice the
images of either. Theirs is the usual pipeline: an image becomes a PIL image, then a tensor; Cutout is that of its authors' code.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from common import arguments, rank_interval, ratio_of, row, seconds, write
from PIL import Image
from torch import Tensor
from torchvision import transforms

from kdcore.data import Augmentation, Batches, Preprocessing, Split

MEAN, STD = (0.507, 0.487, 0.441), (0.267, 0.256, 0.276)
CASES: dict[str, dict[str, Any]] = {
    "normalise": {},
    "crop, flip": {"crop_pad": 4, "hflip": 0.5},
    "crop, flip, rotation": {"crop_pad": 4, "hflip": 0.5, "rotation": 15.0},
    "crop, flip, cutout": {"crop_pad": 4, "hflip": 0.5, "cutout": 16},
    "crop, flip, erasing": {"crop_pad": 4, "hflip": 0.5, "reprob": 0.25},
    "all": {"crop_pad": 4, "hflip": 0.5, "rotation": 15.0, "cutout": 16, "reprob": 0.25},
}


class Cutout:
    """github.com/uoguelph-mlrg/Cutout, util/cutout.py: a square of zeros in a normalised image."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __call__(self, image: Tensor) -> Tensor:
        height, width = image.shape[1:]
        y, x = int(torch.randint(height, ())), int(torch.randint(width, ()))
        half = self.length // 2
        mask = torch.ones(height, width)
        mask[max(y - half, 0) : y + half, max(x - half, 0) : x + half] = 0.0
        return image * mask


def theirs(images: Tensor, labels: Tensor, case: dict[str, Any], batch: int, device: str) -> Callable[[], None]:
    """All of the images through torchvision's transforms, stacked into batches."""
    size, steps = images.shape[2], list[Any]()
    if "crop_pad" in case:
        steps += [transforms.RandomCrop(size, padding=case["crop_pad"]), transforms.RandomHorizontalFlip(case["hflip"])]
    if "rotation" in case:
        fill = [round(255 * mean) for mean in MEAN]
        steps.append(transforms.RandomRotation(case["rotation"], transforms.InterpolationMode.BILINEAR, fill=fill))
    steps += [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    if "cutout" in case:
        steps.append(Cutout(case["cutout"]))
    if "reprob" in case:
        steps.append(transforms.RandomErasing(case["reprob"]))
    transform, arrays = transforms.Compose(steps), images.permute(0, 2, 3, 1).numpy()

    def turn() -> None:
        for first in range(0, len(arrays), batch):
            made = torch.stack([transform(Image.fromarray(array)) for array in arrays[first : first + batch]])
            made.to(device), labels[first : first + batch].to(device)

    return turn


def ours(images: Tensor, labels: Tensor, case: dict[str, Any], batch: int, device: str) -> Callable[[], None]:
    """All of the images in kdcore's batches, shuffled, an epoch a turn."""
    size = (images.shape[2], images.shape[3])
    batches = Batches(
        Split(labels, images=images),
        Preprocessing(size, MEAN, STD),
        batch_size=batch,
        augmentation=Augmentation(**case),
        shuffle=True,
        device=device,
    )
    epochs = iter(range(10**9))

    def turn() -> None:
        for _ in batches.epoch(next(epochs)):
            pass

    return turn


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--size", type=int, default=32, help="pixels of a side")
    parser.add_argument("--batch-size", type=int, default=128)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    generator = torch.Generator().manual_seed(0)
    many, few = (args.batch_size * 32, args.batch_size) if args.quick else (args.batch_size * 64, args.batch_size * 4)
    images = torch.randint(0, 256, (many, 3, args.size, args.size), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 100, (many,), generator=generator)
    alone = args.device == "cpu" and args.threads == 1
    clock = time.process_time if alone else time.perf_counter  # one thread's own work, whatever else the machine does
    rows, begin = [], time.perf_counter()
    for name, case in CASES.items():
        one = ours(images, labels, case, args.batch_size, args.device)
        other = theirs(images[:few], labels[:few], case, args.batch_size, args.device)
        seconds(one, args.device), seconds(other, args.device)
        took: tuple[list[float], list[float]] = ([], [])  # for an image, since their turns are shorter
        for pair in range(args.pairs):
            for which in (0, 1) if pair % 2 == 0 else (1, 0):
                took[which].append(seconds((one, other)[which], args.device, clock) / (many, few)[which])
        about = {"size": args.size, "batch_size": args.batch_size, "threads": args.threads}
        for label, each in zip(("kdcore", "torchvision, PIL"), took, strict=True):
            rates = [1 / value for value in each]
            rows.append(
                row(f"augmentation/{name}/{label}", "images/s", statistics.median(rates), *rank_interval(rates), len(rates), **about)
            )
        found = ratio_of(*took)
        told = {**about, "against": "torchvision, PIL"}
        rows.append(row(f"augmentation/{name}/speed-up", "ratio", found.median, found.low, found.high, found.pairs, **told))
        print(f"{name:22} {1 / found.a:9,.0f} images/s, torchvision {1 / found.b:7,.0f}: {found} times as many", flush=True)
    print(f"{time.perf_counter() - begin:.0f} seconds")
    write(args.json, rows, args.device)


if __name__ == "__main__":
    main()

"""Pictures that lie neither in an array nor in files of their own: a hub's table, a set of torchvision's, encoded bytes in memory.

Each survives pickling, since workers open pictures too.
"""

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from kdcore.data.opening import as_rgb, reading
from kdcore.data.splits import Pictures
from kdcore.errors import KdError

_LOOKED_AT = 64
_SMALL = 64
_MOST_BYTES = 2**30


class Encoded:
    """Encoded pictures (PNG, JPEG, ...) in memory, in one tensor: workers that are spawned share it."""

    def __init__(self, pictures: Iterable[bytes], names: list[str]) -> None:
        pictures = list(pictures)
        self.names = np.array(names, dtype=np.str_)
        self.ends = torch.tensor([0, *map(len, pictures)]).cumsum(0)
        self.content = torch.from_numpy(np.frombuffer(b"".join(pictures), dtype=np.uint8).copy())

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, number: int) -> Image.Image:
        start, end = self.ends[number : number + 2].tolist()
        return Image.open(io.BytesIO(self.content[start:end].numpy().tobytes()))

    def name_of(self, number: int) -> str:
        return str(self.names[number])


class HubTable:
    """A column of a Hugging Face data set, read row by row from its memory-mapped files."""

    def __init__(self, dataset: Any, column: str) -> None:
        self.dataset, self.column = dataset.select_columns([column]), column  # a row is read with all of its columns, decoded

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, number: int) -> Image.Image:
        return Image.open(io.BytesIO(hub_bytes(self.dataset[number][self.column])))

    def name_of(self, number: int) -> str:
        cell = self.dataset[number][self.column]
        return (cell or {}).get("path") or f"item {number}"


def hub_bytes(cell: dict[str, Any] | None) -> bytes:
    """The encoded picture of a cell: in the table, or in a file beside it."""
    if cell is None:
        raise ValueError("the cell is empty")
    return cell["bytes"] if cell.get("bytes") else Path(cell["path"]).read_bytes()


class TorchSet:
    """One of torchvision's data sets that keeps its pictures in its own way."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, number: int) -> Image.Image:
        image = self.dataset[number][0]
        image.load()  # some sets give a file that is still open
        return image


def as_arrays(stores: list[Pictures]) -> list[torch.Tensor] | None:
    """Each store as uint8 [N, C, H, W] if all pictures have one size, of at most 64 pixels a side, else None. C is 1 if all are grey.

    More than 1 GiB of pixels stay where they are, too. Raises what a picture raises that cannot be read.
    """
    looked_at = [store[i] for store in stores for i in range(0, len(store), max(1, len(store) // _LOOKED_AT))]
    size, grey = looked_at[0].size, all(image.mode in ("1", "L") for image in looked_at)
    total = sum(map(len, stores)) * size[0] * size[1] * (1 if grey else 3)
    if max(size) > _SMALL or total > _MOST_BYTES or any(image.size != size for image in looked_at):
        return None
    arrays = []
    for store in stores:
        pixels = np.empty((len(store), size[1], size[0], *(() if grey else (3,))), dtype=np.uint8)
        for number in range(len(store)):
            with reading(f"item {number}"):
                image = store[number]
                if image.size != size or (grey and image.mode not in ("1", "L")):
                    return None
                pixels[number] = np.asarray(as_rgb(image).convert("L" if grey else "RGB"))
        arrays.append(torch.from_numpy(pixels[:, None] if grey else np.ascontiguousarray(np.moveaxis(pixels, 3, 1))))
    return arrays


def arrays_or_none(stores: list[Pictures]) -> list[torch.Tensor] | None:
    """`as_arrays`, or None where a picture cannot be read: whoever needs it says so, by its name."""
    try:
        return as_arrays(stores)
    except (KdError, OSError, ValueError):
        return None

"""Images that are in a data set twice: the same pixels, or nearly the same (saved again as JPEG, resized a little, one of a burst).

Two images are near-duplicates when their difference hashes (256 bits: is a pixel of a 16 x 17 grey thumbnail brighter than its left neighbour?)
differ in at most `NEAR_BITS` bits *and* their 16 x 16 colour thumbnails differ by at most `NEAR_LEVELS` of 255 levels on average. The hash alone
takes any two clothes on black for one; the thumbnail alone any two fogs. Photos saved again at JPEG quality 50, halved or doubled are found;
crops, mirror images and other shots of one scene are not, and of images below about 64 pixels only those that are hardly changed.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

BITS = 256
NEAR_BITS = 20
NEAR_LEVELS = 4.0
_SIDE = 16
_ROWS = 256
_Bytes = NDArray[np.uint8]


def pixel_digest(image: Image.Image) -> bytes:
    """16 bytes that two images share when mode, size and every pixel are the same."""
    digest = hashlib.blake2b(f"{image.mode} {image.size}".encode(), digest_size=16)
    digest.update(np.asarray(image).tobytes())
    return digest.digest()


def difference_hash(image: Image.Image) -> _Bytes:
    """256 bits as uint8 [32], row by row: 1 where the grey thumbnail grows brighter from a pixel to the one on its right."""
    grey = np.asarray(_small(image.convert("L"), _SIDE + 1, _SIDE))
    return np.packbits(grey[:, 1:] > grey[:, :-1])


def thumbnail(image: Image.Image) -> _Bytes:
    """An RGB image as 16 x 16 pixels: uint8 [768]."""
    return np.asarray(_small(image, _SIDE, _SIDE)).reshape(-1)


def _small(image: Image.Image, width: int, height: int) -> Image.Image:
    """Means of boxes where the image is large enough for boxes; each side of a thumbnail lies at the same place of the image."""
    large = image.width >= width and image.height >= height
    return image.resize((width, height), Image.Resampling.BOX if large else Image.Resampling.BILINEAR)


def identical(digests: Sequence[Any]) -> list[list[int]]:
    """Numbers of the images that share a digest: groups of two and more, each ascending."""
    groups = defaultdict(list)
    for number, digest in enumerate(digests):
        groups[digest].append(number)
    return [group for group in groups.values() if len(group) > 1]


def near_pairs(hashes: _Bytes, thumbnails: _Bytes) -> Iterator[tuple[int, int, int]]:
    """All pairs of near-duplicates (i, j, bits that differ) with i below j, of hashes [N, 32] and thumbnails [N, 768], both uint8.

    Every pair is compared, by matrix products of ±1: N * N * 256 multiplications, about ten seconds for N = 50,000 on one core.
    """
    signs = np.unpackbits(hashes, axis=1).astype(np.float32) * 2 - 1
    least = BITS - 2 * NEAR_BITS  # the product of two rows is 256 less twice the bits that differ
    for start in range(0, len(signs), _ROWS):
        alike = signs[start : start + _ROWS] @ signs[start:].T
        rows, columns = np.nonzero(alike >= least)
        later = columns > rows
        rows, columns = rows[later], columns[later]
        for part in range(0, len(rows), 8 * _ROWS):
            i, j = rows[part : part + 8 * _ROWS], columns[part : part + 8 * _ROWS]
            bits = (BITS - alike[i, j]) / 2
            apart = np.abs(thumbnails[start + i].astype(np.int16) - thumbnails[start + j]).mean(axis=1)
            near = apart <= NEAR_LEVELS
            yield from zip((start + i[near]).tolist(), (start + j[near]).tolist(), bits[near].astype(int).tolist(), strict=True)

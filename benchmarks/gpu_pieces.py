"""A data set in pieces that are small enough to be carried, and joined again where they are needed.

    python benchmarks/gpu_pieces.py split cifar100.npz build/pieces [--mib 40]
    python benchmarks/gpu_pieces.py join build/pieces cifar100.npz

The set is an .npz of uint8 images {train,val,test}_{images,labels}. Images travel as mosaics in lossless WebP, of up to 2,500 images each; a piece is an
.npz of some of them. Joining checks that all pieces are there, and that every byte is what it was.
"""

import argparse
import io
import math
import sys
from hashlib import blake2b
from pathlib import Path

import numpy as np
from PIL import Image

IN_A_MOSAIC = 2500


def mosaic(images: np.ndarray) -> bytes:
    """Images uint8 [N, H, W] or [N, H, W, 3] as one picture of rows of them, the last row filled with black."""
    across = math.ceil(math.sqrt(len(images)))
    down = math.ceil(len(images) / across)
    filled = np.zeros((across * down, *images.shape[1:]), np.uint8)
    filled[: len(images)] = images
    height, width = images.shape[1:3]
    tiles = filled.reshape(down, across, height, width, *images.shape[3:]).swapaxes(1, 2)
    stored = io.BytesIO()
    Image.fromarray(tiles.reshape(down * height, across * width, *images.shape[3:])).save(
        stored, "webp", lossless=True, method=2, exact=True
    )
    return stored.getvalue()


def tiles(blob: bytes, count: int, shape: tuple[int, ...]) -> np.ndarray:
    """`count` images of a shape, from their mosaic."""
    picture = np.asarray(Image.open(io.BytesIO(blob)).convert("RGB" if len(shape) == 3 else "L"))
    height, width = shape[:2]
    down, across = picture.shape[0] // height, picture.shape[1] // width
    return picture.reshape(down, height, across, width, *shape[2:]).swapaxes(1, 2).reshape(down * across, *shape)[:count]


def split(source: Path, folder: Path, mib: float) -> list[Path]:
    """Writes the pieces; each is at most `mib` MiB, or one mosaic."""
    with np.load(source) as arrays:
        splits = [name for name in ("train", "val", "test") if f"{name}_images" in arrays]
        labels = {f"{name}_labels": arrays[f"{name}_labels"] for name in splits}
        pieces: list[dict[str, np.ndarray]] = [{}]
        size = 0
        for name in splits:
            images = arrays[f"{name}_images"]
            labels[f"{name}_shape"] = np.array(images.shape)
            labels[f"{name}_digest"] = np.array(digest(images))
            for start in range(0, len(images), IN_A_MOSAIC):
                blob = np.frombuffer(mosaic(images[start : start + IN_A_MOSAIC]), np.uint8)
                if size and size + len(blob) > mib * 2**20:
                    pieces.append({})
                    size = 0
                pieces[-1][f"{name}_{start:07d}"] = blob
                size += len(blob)
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("piece-*.npz"):
        old.unlink()
    paths = [folder / f"piece-{number + 1}-of-{len(pieces)}.npz" for number in range(len(pieces))]
    for path, piece in zip(paths, pieces, strict=True):
        np.savez(path, **piece, **(labels if path == paths[0] else {}))
    return paths


def join(folder: Path, target: Path) -> None:
    """The set from its pieces. Raises SystemExit in one line where one is missing or another than it was."""
    paths = sorted(folder.glob("piece-*-of-*.npz"))
    if not paths:
        raise SystemExit(f"{folder} holds no pieces: make them with gpu_pieces.py split SET.npz {folder}")
    count = int(paths[0].stem.rpartition("-")[2])
    if missing := [f"piece-{k}-of-{count}.npz" for k in range(1, count + 1) if not (folder / f"piece-{k}-of-{count}.npz").exists()]:
        raise SystemExit(f"{folder} lacks {', '.join(missing)}: bring them there too")
    stored: dict[str, np.ndarray] = {}
    for path in paths:
        with np.load(path) as arrays:
            stored |= dict(arrays)
    whole: dict[str, np.ndarray] = {}
    for name in (key.removesuffix("_shape") for key in list(stored) if key.endswith("_shape")):
        shape = tuple(int(side) for side in stored[f"{name}_shape"])
        images = np.empty(shape, np.uint8)
        for start in range(0, shape[0], IN_A_MOSAIC):
            part = images[start : start + IN_A_MOSAIC]
            part[:] = tiles(stored[f"{name}_{start:07d}"].tobytes(), len(part), shape[1:])
        if digest(images) != str(stored[f"{name}_digest"]):
            raise SystemExit(f"the {name} images of {folder} are not what they were: make the pieces anew")
        whole |= {f"{name}_images": images, f"{name}_labels": stored[f"{name}_labels"]}
    target.parent.mkdir(parents=True, exist_ok=True)
    np.savez(target, **whole)


def digest(images: np.ndarray) -> str:
    return blake2b(np.ascontiguousarray(images), digest_size=16).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=["split", "join"])
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--mib", type=float, default=40, help="size of a piece; the working tree and the wheels travel with it")
    args = parser.parse_args()
    if args.verb == "join":
        join(args.source, args.target)
        print(f"written to {args.target}")
    elif not args.source.exists():
        sys.exit(f"{args.source} is not there")
    else:
        for path in split(args.source, args.target, args.mib):
            print(f"{path} {path.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()

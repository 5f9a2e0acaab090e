"""`python -m kdcore_cifar NETWORK CHECKPOINT.pth OUT.safetensors`: a checkpoint of RepDistiller's for kd's --init and --teacher."""

import argparse
import sys
from pathlib import Path

from kdcore.errors import KdError
from kdcore.files import file_errors
from kdcore_cifar.convert import convert, read_checkpoint, write


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m kdcore_cifar", description="Converts a checkpoint of RepDistiller's for kd.")
    parser.add_argument("network", help="resnet32x4, or RepDistiller's own name, such as ResNet50")
    parser.add_argument("checkpoint", help="its .pth file, such as ckpt_epoch_240.pth")
    parser.add_argument("out", help="a .safetensors file in a folder of its own; model.json is written beside it")
    parser.add_argument(
        "--classes", help="a text file with the classes' names, one a line, in the order of their numbers (default: CIFAR-100's)"
    )
    given = parser.parse_args(arguments)
    try:
        tensors = convert(given.network, read_checkpoint(given.checkpoint))
        classes = class_names(given.classes, len(tensors["fc.weight"]))
        written = write(given.network, tensors, given.out, classes)
    except KdError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    print(f"wrote {' and '.join(map(str, written))}: --init {given.out}" + (f", --teacher {given.out}" if classes else ""))
    if classes is None:
        print("its classes have no names, which --teacher needs: give them with --classes FILE", file=sys.stderr)
    return 0


def class_names(path: str | None, count: int) -> list[str] | None:
    """Those of a file; CIFAR-100's where there are 100 and no file; None else."""
    if path is None:
        return Path(__file__).with_name("cifar100.txt").read_text(encoding="utf-8").split() if count == 100 else None
    with file_errors(path, "read"):
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip()]


if __name__ == "__main__":
    sys.exit(main())

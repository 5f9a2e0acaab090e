"""MSKD and OtO on a subset of CIFAR-100, beside KD, BYOT, deep supervision and plain training, three paired seeds; and four of BYOT's studies on them.

    python benchmarks/mskd.py cifar100.npz [--dir runs/mskd] [flags of kd compare]

1. DIR/teacher: ResNet-20 on 200 images of each class, 20 epochs.
2. DIR/table: ResNet-8 on the same images, 10 epochs by each method. OtO trains exits for the frozen teacher before, for 5 epochs.
3. DIR/studies: noise, separability, cost and shallow-gain, on these runs.

Goes on where it was stopped; what is finished is never run again. About 100 minutes of one core.
In seconds, to try it out: add --epochs 1 --labels-per-class 4 --seeds 2.
"""

import argparse
import shlex
import sys
from pathlib import Path

from comparisons import kd, of_training, train

# Learning rate and batch are RepDistiller's (0.05, 64), whose baselines the paper has; none other was tried.
TRAINING = """--labels-per-class 200 --dev-fraction 0.02 --batch-size 64 --lr 0.05 --weight-decay 5e-4 --crop-pad 4 --hflip 0.5
    --amp bfloat16 --channels-last"""
COMPARED = "--seeds 3 --jobs 2 --epochs 10 -o mskd.joint.teacher_epochs=5 --no-test-every-epoch"
REPLICAS = "deep-supervision:--exits=mskd.replica"
ROWS = f"plain,{REPLICAS},kd,byot,mskd,mskd.oto"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("data", help="CIFAR-100 as an .npz with the MedMNIST keys")
    parser.add_argument("--dir", type=Path, default=Path("runs/mskd"))
    own, more = parser.parse_known_args()
    teacher, table, studies = own.dir / "teacher", own.dir / "table", own.dir / "studies"
    train(teacher, "cifar/resnet20", "--method", "plain", "--data", own.data, *shlex.split(TRAINING), "--epochs", "20", *of_training(more))
    words = ["--model", "cifar/resnet8", "--data", own.data, "--teacher", str(teacher), *shlex.split(f"{TRAINING} {COMPARED}")]
    return kd("compare", *words, "--method", ROWS, *more, "--dir", str(table)) or analyses(table / "cells", studies)


def analyses(cells: Path, out: Path) -> int:
    """The first seed of a method where a study shows one run, all of them where it counts."""

    def runs(*methods: str, seeds: str = "*") -> list[str]:
        return [str(run) for method in methods for run in sorted(cells.glob(f"{method}-s{seeds}")) if run.is_dir()]

    studied = {
        "byot.noise": runs("plain", "byot", "mskd", "mskd.oto", seeds="0"),
        "byot.separability": runs("byot", seeds="0"),
        "byot.cost": runs("plain", "kd", "byot", "mskd", "mskd.oto", seeds="0"),
        "byot.shallow-gain": runs("byot", "deep-supervision"),
    }
    return max(kd("analyze", name, *given, "--out", str(out / name)) for name, given in studied.items())


if __name__ == "__main__":
    sys.exit(main())

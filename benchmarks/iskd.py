"""ISKD for four generations, beside as many epochs of plain training and of Tf-KD_self: alpha tuned on the first set and carried to the others.

    python benchmarks/iskd.py cifar100.npz road-damage.npz pneumonia.npz [--dir runs/iskd] [flags of kd compare]

1. DIR/pretrained: ResNet-20 on CIFAR-100, the "pretrained weights" of a machine that downloads nothing.
2. DIR/tuning: on the first set, a second generation with each of five alphas for three seeds; the best on dev is taken (the paper's figure 3).
3. DIR/NAME for each set: plain (one generation's epochs), deep supervision, ISKD, and its two baselines of as many epochs in all; paired seeds.

8 epochs a generation, 64 pixels at most. Goes on where it was stopped; what is finished is never run again.
In seconds, to try it out: add --epochs 1 --train-limit 60 --seeds 2.
"""

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
from comparisons import kd, of_training, train

PIXELS = 64
GENERATIONS = 4
ALPHAS = [0.1, 0.3, 0.5, 0.7, 0.9]
TUNING_SEEDS = (100, 101, 102)  # none of the table's
NETWORK = "cifar/resnet20"
FAST = "--amp bfloat16 --channels-last"
PRETRAINED = f"--method plain --epochs 6 --batch-size 128 --lr 0.1 --crop-pad 4 --hflip 0.5 --dev-fraction 0.02 {FAST}"
# The settings of the recipe iskd-small but for the batch: 1,000 images are few steps in batches of 128.
TRAINING = f"--epochs 8 --batch-size 32 --opt momentum --lr 0.02 --weight-decay 5e-4 --sched cosine --crop-pad 4 --hflip 0.5 --dev-fraction 0.2 {FAST}"
ROWS = (
    "plain,deep-supervision,iskd:alpha={alpha}:iskd.generations.max_generations={n}:iskd.generations.patience=none,"
    "iskd.large-epoch:iskd.large-epoch.generations={n},iskd.tfkd-self:alpha={alpha}:iskd.tfkd-self.generations={n}"
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("pretraining", help="CIFAR-100 as an .npz with the MedMNIST keys")
    parser.add_argument("sets", nargs="+", help="an .npz each; alpha is tuned on the first")
    parser.add_argument("--dir", type=Path, default=Path("runs/iskd"))
    own, more = parser.parse_known_args()
    pretrained = own.dir / "pretrained"
    train(pretrained, NETWORK, "--data", own.pretraining, *shlex.split(PRETRAINED), *of_training(more))
    alpha = tuned(own.sets[0], pretrained, own.dir / "tuning", more)
    for data in own.sets:
        rows = ROWS.format(alpha=alpha, n=GENERATIONS)
        folder = own.dir / Path(data).stem
        words = ["--model", NETWORK, *given(data, pretrained), "--method", rows, "--seeds", "3", "--jobs", "2", *more, "--dir", str(folder)]
        if failed := kd("compare", *words):
            return failed
    return 0


def given(data: str, pretrained: Path) -> list[str]:
    """What every run on a set is given."""
    with np.load(data) as arrays:
        size = arrays["train_images"].shape[1]
    small = ["--img-size", str(PIXELS)] if size > PIXELS else []
    return ["--data", data, *small, "--init", str(pretrained), *shlex.split(TRAINING)]


def tuned(data: str, pretrained: Path, folder: Path, more: list[str]) -> float:
    """The alpha with the best dev top-1 of a second generation, over seeds that are not the table's."""
    runs = [folder / f"seed-{seed}" for seed in TUNING_SEEDS]
    one = ["--method", "iskd", "-o", "iskd.generations.max_generations=1", "-o", "iskd.generations.patience=none"]
    for seed, run in zip(TUNING_SEEDS, runs, strict=True):
        train(run, NETWORK, *given(data, pretrained), *one, *of_training(more), "--seed", str(seed))
    words = ["analyze", "iskd.alpha-sweep", *map(str, runs), "-o", f"alphas={ALPHAS}", "--json"]
    print("kd " + shlex.join(words), flush=True)
    found = json.loads(subprocess.check_output([sys.executable, "-m", "kdcli", *words]))
    print(found["text"], flush=True)
    return max(found["tables"]["means"], key=lambda row: row["dev"])["alpha"]


if __name__ == "__main__":
    sys.exit(main())

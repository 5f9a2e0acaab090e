"""The mango losses on five grades of knee radiographs: plain, deep supervision, BYOT, and the mango framework without and with its two losses.

    python benchmarks/mango.py knee-grade.npz [--dir runs/mango] [flags of kd compare]

ResNet-8 at 48 pixels, 12 epochs, three paired seeds. The row `mango` without triplet and ordinal losses is the table's BYOT: same exits, same other
terms. Goes on where it was stopped; finished cells are never run again. In seconds, to try it out: add --epochs 1 --train-limit 100.
"""

import sys

from comparisons import compare

# The authors' optimiser, rate and cosine (SGD at .01, momentum .9, weight decay 1e-4), batches of 64 in place of 256, and knees are not turned upside down.
ARGUMENTS = """--model cifar/resnet8 --method plain,deep-supervision,byot,mango:triplet_weight=0:ordinal_weight=0,mango --seeds 3 --jobs 2
    --img-size 48 --epochs 12 --batch-size 64 --opt momentum --lr 0.01 --weight-decay 1e-4 --sched cosine --scale 0 --hflip 0.5 --rotation 15
    --amp bfloat16 --channels-last --no-test-every-epoch"""

if __name__ == "__main__":
    sys.exit(compare(ARGUMENTS, description=__doc__ or "", folder="runs/mango"))

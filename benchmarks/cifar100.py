"""Plain, deep supervision and BYOT (conference and final) on CIFAR-100: ResNet-20, 100 images a class, 8 epochs, five paired seeds.

    python benchmarks/cifar100.py cifar100.npz [--dir runs/cifar100] [flags of kd compare]

Goes on where it was stopped; finished cells are never run again. 20 cells, sized for an hour on two cores
(kd compare says its own estimate).
In seconds, to try it out: add --epochs 1 --labels-per-class 2 --seeds 2.
"""

import sys

from comparisons import compare

# Learning rate and batch are RepDistiller's (0.05, 64); none other was tried. The test split, as large as the training set here, is evaluated at
# the end alone: after every epoch it would add a third to the time.
ARGUMENTS = """--model cifar/resnet20 --method plain,deep-supervision,byot,byot:preset=final --seeds 5 --jobs 2
    --labels-per-class 100 --dev-fraction 0.02 --epochs 8 --batch-size 64 --lr 0.05 --crop-pad 4 --hflip 0.5
    --amp bfloat16 --channels-last --no-test-every-epoch"""

if __name__ == "__main__":
    sys.exit(compare(ARGUMENTS, description=__doc__ or "", folder="runs/cifar100"))

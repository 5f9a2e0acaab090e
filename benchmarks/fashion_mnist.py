"""Plain, deep supervision and BYOT on Fashion-MNIST: three paired seeds, 20,000 images, 6 epochs.

    python benchmarks/fashion_mnist.py fashion-mnist.npz [--dir runs/fashion-mnist] [flags of kd compare]

Goes on where it was stopped; finished cells are never run again. About 20 minutes on two cores.
"""

import sys

from comparisons import compare

ARGUMENTS = """--model test_resnet_32px --method plain,deep-supervision,byot --seeds 3
    --train-limit 20000 --epochs 6 --batch-size 64 --lr 0.05 --crop-pad 0 --hflip 0.5 --amp bfloat16 --channels-last
    --no-test-every-epoch"""

if __name__ == "__main__":
    sys.exit(compare(ARGUMENTS, description=__doc__ or "", folder="runs/fashion-mnist"))

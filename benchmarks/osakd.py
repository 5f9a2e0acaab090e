"""OSAKD's table 1, the Fashion-MNIST column, at 20 of its 100 epochs: plain training, 8 and 16 neighbours, three paired seeds; then other readings.

    python benchmarks/osakd.py fashion-mnist.npz [--dir runs/osakd] [flags of kd compare]

Two comparisons: DIR/table (three seeds), and DIR/readings (plain training at the other rate and the other readings of the paper's equation 5,
seed 0). Goes on where it was stopped; finished cells are never run again. About 25 minutes on two cores; in seconds, to try it out: add
--epochs 1 --train-limit 256.
"""

import sys

from comparisons import compare

# .001 is the rate that the paper's plain numbers fit, .01 that of OSAKD, whose cross entropy weighs a tenth; plain training at .01 is among the readings.
# bfloat16 with channels_last takes 0.4 of the time that kd's own choice for 28 pixels, float32, takes here.
TABLE = """--recipe osakd --model osakd/lenet --method plain:--lr=0.001,osakd:k=8,osakd:k=16 --no-baselines
    --baseline plain:--lr=0.001 --seeds 3 --jobs 2 --epochs 20 --dev-fraction 0.02 --amp bfloat16 --channels-last"""
READINGS = """--recipe osakd --model osakd/lenet --no-baselines --seeds 0, --jobs 2 --epochs 20 --dev-fraction 0.02 --amp bfloat16 --channels-last --method
    plain:--lr=0.01,osakd:balance=additive:--lr=0.001,osakd:balance=additive,osakd:balance=convex_ce:--lr=0.001,osakd:reduction=batchmean"""

if __name__ == "__main__":
    about = __doc__ or ""
    sys.exit(
        compare(TABLE, description=about, folder="runs/osakd", part="table")
        or compare(READINGS, description=about, folder="runs/osakd", part="readings")
    )

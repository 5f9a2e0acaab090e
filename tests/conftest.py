import os

# No test asks the network for weights: a forgotten `pretrained` fails at once, and the same everywhere.
os.environ["HF_HUB_OFFLINE"] = "1"

# Networks this small are slower on two threads than on one, and ten times slower where the cores are busy with something else.
os.environ.setdefault("OMP_NUM_THREADS", "1")

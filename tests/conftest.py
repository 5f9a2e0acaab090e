import os

# No test asks the network for weights: a forgotten `pretrained` fails at once, and the same everywhere.
os.environ["HF_HUB_OFFLINE"] = "1"

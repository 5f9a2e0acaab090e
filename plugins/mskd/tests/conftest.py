"""What the tests of this plugin share: a step made of given tensors, a small set of data, and a teacher that learnt it."""

import pytest
import torch

from kdcore import Batch, Outputs, Step


@pytest.fixture
def step_of():
    """`step_of(logits, embeddings, labels)`: a step whose exits gave these lists; labels are all 0 where none are given."""

    def build(logits, embeddings=(), labels=None, teacher=None) -> Step:
        rows = (list(logits) + list(embeddings))[0].shape[0]
        labels = torch.zeros(rows, dtype=torch.long) if labels is None else labels
        clock = torch.zeros((), dtype=torch.float64)
        return Step(Batch(torch.zeros(rows, 1, 1, 1), labels), Outputs(list(logits), list(embeddings)), clock, clock, teacher)

    return build


@pytest.fixture(scope="session")
def few(tmp_path_factory):
    """Settings of a run on 96 digits of 8 x 8 pixels, which takes a second for a generation of two epochs."""
    import numpy as np
    from sklearn.datasets import load_digits

    read, folder = load_digits(), tmp_path_factory.mktemp("data")
    pixels, arrays = (read.images * 15).astype(np.uint8), {}
    for name, part in {"train": slice(0, 96), "val": slice(100, 180), "test": slice(200, 280)}.items():
        arrays |= {f"{name}_images": pixels[part], f"{name}_labels": read.target[part][:, None]}
    np.savez(folder / "few.npz", **arrays)
    settings = {"model": "test_resnet_32px", "data": str(folder / "few.npz"), "epochs": 2, "batch_size": 32, "device": "cpu"}
    return {**settings, "amp": "none", "channels_last": False, "lr": 0.02}


@pytest.fixture(scope="session")
def taught(few, tmp_path_factory):
    """A run of the same network that knows the digits better than by guessing."""
    import kdcore

    run = tmp_path_factory.mktemp("teacher") / "run"
    return str(kdcore.train(**{**few, "epochs": 12, "lr": 0.1, "seed": 3}, method="plain", run=run).run.path)

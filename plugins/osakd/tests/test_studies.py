"""The studies of finished runs, on a run of two epochs."""

import pytest
import torch

import kdcore
from kdcore import KdError
from kdcore.plugins import Plugins
from kdcore_osakd.studies import curves, quality, soft_labels, spread, training_cost


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "one"
    kdcore.train(
        "test_resnet_32px", data="digits", method="osakd", exits="linear", options={"k": 4}, train_limit=128, epochs=2, device="cpu",
        run=str(folder),
    )  # fmt: skip
    return folder


def test_they_are_found_by_their_names():
    parts = Plugins().parts_of("osakd", "analyses")
    assert set(parts) == {"osakd.soft-labels", "osakd.curves", "osakd.training-cost"}


def test_certain_answers_have_certain_soft_labels():
    labels = torch.arange(120) % 3
    logits = 30 * torch.nn.functional.one_hot(labels, 3).float()
    assert quality(logits, labels) == pytest.approx((1, 0))
    mass, entropy = quality(torch.zeros(6000, 3), torch.randint(3, (6000,)), k=8)
    assert 0.35 < mass < 0.5 and entropy > 0.5  # its own vote, and seven of anybody's


def test_soft_labels_by_epoch(run):
    table = soft_labels(run, limit=100)
    assert table["title"] == "soft labels of 4 neighbours" and table["rows"]
    for phase, epoch, mass, entropy in table["rows"]:
        assert phase == "main" and epoch in (1, 2) and 0.25 <= mass <= 1 and 0 <= entropy < 2.31


def test_curves(run):
    table = curves(run, others=[str(run)], split="dev")
    assert [row[0] for row in table["rows"]] == ["1", "2", "best over epochs"] and table["rows"][0][2] == 0
    assert table["rows"][2][1] == max(row[1] for row in table["rows"][:2])
    with pytest.raises(KdError, match="--test-every-epoch"):
        curves(run)
    assert spread([1.0, 3.0]) == (2, pytest.approx(2**0.5)) and spread([1.0]) == (1, None)


def test_training_cost(run):
    rows = dict(training_cost(run)["rows"])
    assert rows["student alone"] > rows["exits and branches"] > 0 and rows["neighbours"] == 64 * 10
    assert rows["together"] == rows["student alone"] + rows["exits and branches"] + rows["neighbours"]

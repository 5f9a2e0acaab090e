"""What the report says of graded classes."""

import json
import math

import pytest
import torch
from sklearn.metrics import cohen_kappa_score

from kdcore import KdError
from kdcore.errors import DataError
from kdcore_mango import confusion, grades


def answers(rows, classes):
    return torch.nn.functional.one_hot(torch.tensor(rows), classes).float()


def test_worked_out_by_hand():
    """Off by 0, 1, 2 and 3 grades."""
    found = grades(answers([0, 2, 3, 0], 4), torch.tensor([0, 1, 1, 3]))
    assert found["mean_error"] == 1.5 and found["far_errors"] == 50
    assert found["quadratic_kappa"] == pytest.approx(cohen_kappa_score([0, 1, 1, 3], [0, 2, 3, 0], weights="quadratic"), abs=1e-6)


def test_all_right_is_a_kappa_of_1():
    assert grades(answers([0, 1, 2], 3), torch.tensor([0, 1, 2])) == {"mean_error": 0, "far_errors": 0, "quadratic_kappa": 1}


def test_the_order_counts():
    logits, labels = answers([0, 0], 3), torch.tensor([1, 2])
    assert grades(logits, labels)["far_errors"] == 50
    assert grades(logits, labels, order=[1, 0, 2])["far_errors"] == 0
    with pytest.raises(KdError, match="no order of the 3 classes"):
        grades(logits, labels, order=[0, 1])


def test_one_grade_alone_has_no_kappa():
    assert math.isnan(grades(answers([1, 1], 3), torch.tensor([1, 1]))["quadratic_kappa"])


@pytest.fixture
def run(tmp_path):
    """A run's folder with nothing but its configuration and results: A, B, C, of which C is empty."""

    def build(name="one", classes="ABC", confusion=((3, 1, 0), (2, 2, 0), (0, 0, 0))):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.toml").write_text('model = "resnet18"\ndata = "x"\n')
        table = {"confusion": confusion, "recall": dict.fromkeys(classes, 0.0)}
        results = {"checkpoints": {"delivered": "a", "best": "a", "last": "b"}, "best": {"test": {"exits": [{}, table]}}}
        (folder / "results.json").write_text(json.dumps(results))
        return str(folder)

    return build


def test_confusion_beside_another_run_s(run):
    table = confusion(run(), other=run("two", confusion=((4, 0, 0), (0, 4, 0), (0, 0, 1))))
    assert table["columns"][:5] == ["true class", "recall", "as A", "as B", "as C"] and len(table["columns"]) == 9
    assert table["rows"][0] == ["A", 75, 75, 25, 0, 100, 100, 0, 0]
    assert table["rows"][2] == ["C", None, None, None, None, 100, 0, 0, 100]


def test_confusions_that_cannot_be_had(run):
    with pytest.raises(DataError, match="other classes"):
        confusion(run(), other=run("two", classes="CBA"))
    with pytest.raises(DataError, match="has no dev split: add -o split=test"):
        confusion(run("three"), split="dev")

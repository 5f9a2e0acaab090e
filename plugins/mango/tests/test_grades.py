"""What the report says of graded classes."""

import math

import pytest
import torch
from sklearn.metrics import cohen_kappa_score

from kdcore import KdError
from kdcore_mango import grades


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

"""The sums of squares within and between classes."""

import pytest
import torch

from kdcore_byot import sums_of_squares


def test_the_vector_worked_out_by_hand():
    points, labels = torch.tensor([[0.0], [2.0], [4.0], [6.0]], dtype=torch.float64), torch.tensor([0, 0, 1, 1])
    assert sums_of_squares(points, labels) == pytest.approx((4.0, 16.0), abs=1e-5)


def test_they_add_up_to_the_total_whatever_the_labels_are_called():
    points, labels = torch.randn(30, 5), torch.randint(0, 4, (30,)) * 7
    within, between = sums_of_squares(points, labels)
    total = (points.double() - points.double().mean(dim=0)).square().sum().item()
    assert within + between == pytest.approx(total)
    order = torch.randperm(30)
    assert sums_of_squares(points[order], labels[order]) == pytest.approx((within, between))

"""Whether a teacher knows more than guessing would, by what it said and what was right."""

import pytest
import torch

from kdcore.able_teachers import skill


def test_one_that_is_right_beats_guessing():
    labels = torch.arange(60) % 3
    right, guessing, able = skill(torch.where(torch.arange(60) < 40, labels, (labels + 1) % 3), labels)
    assert (right, guessing) == pytest.approx((2 / 3, 1 / 3), abs=0.01) and able
    assert skill(labels, labels) == pytest.approx((1.0, 1 / 3, True))


def test_one_that_says_the_commonest_class_guesses():
    """Though it is right on nine of ten; one that finds some of the rare class is not taken for it."""
    labels = torch.cat([torch.zeros(90), torch.ones(10)]).long()
    assert skill(torch.zeros(100, dtype=torch.long), labels) == pytest.approx((0.9, 0.9, False))
    some = torch.zeros(100, dtype=torch.long)
    some[92:] = 1
    assert skill(some, labels)[2]


def test_random_answers_guess():
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randint(10, (256,), generator=generator) for _ in range(41)]
    assert sum(skill(guesses, drawn[0])[2] for guesses in drawn[1:]) <= 3  # two standard deviations: one of 44

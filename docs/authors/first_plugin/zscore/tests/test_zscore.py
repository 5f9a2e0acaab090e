"""kdcore's conformance kit, and two properties of the paper."""

import torch

from kdcore import Batch, Outputs, SoftTargets, Step
from kdcore.testing import LossTests, PluginTests
from kdcore_zscore import zscore


class TestPlugin(PluginTests):
    plugin = "zscore"


class TestZscore(LossTests):
    component = "zscore"


def loss(student, teacher):
    """Of logits [B, K] against logits [B, K]."""
    nowhere, clock = torch.zeros(len(student), 3, 8, 8), torch.zeros(())
    step = Step(Batch(nowhere, torch.zeros(len(student), dtype=torch.long)), Outputs([student]), clock, clock)
    return zscore(step, SoftTargets(logits=[teacher]))


def test_zero_where_the_student_ranks_as_the_teacher_does():
    logits = torch.randn(4, 10)
    assert loss(3 * logits + 2, logits).abs() < 1e-4 < loss(torch.randn(4, 10), logits)


def test_the_size_of_the_logits_does_not_matter():
    student, teacher = torch.randn(4, 10), torch.randn(4, 10)
    torch.testing.assert_close(loss(5 * student, teacher - 7), loss(student, teacher), rtol=1e-3, atol=1e-4)

"""kdcore's conformance kit, and three epochs by hand."""

import pytest
import torch

from kdcore import Batch, Context, KdError, Outputs, Step, Where
from kdcore.testing import MethodTests, PluginTests, SoftTargetsTests
from kdcore_pskd import Past, pskd

INDEX, LABELS = torch.tensor([3, 1]), torch.tensor([0, 2])
PREDICTED = [
    torch.tensor([[0.7, 0.2, 0.1], [0.3, 0.3, 0.4]]),  # in epoch 1, of the samples 3 and 1
    torch.tensor([[0.5, 0.4, 0.1], [0.1, 0.1, 0.8]]),
    torch.tensor([[0.9, 0.05, 0.05], [0.0, 0.1, 0.9]]),
]
REFINED = [  # (1 - alpha_t) y + alpha_t p, alpha_t = .8 t / 3
    torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]),
    torch.tensor([[0.84, 0.32 / 3, 0.16 / 3], [0.16, 0.16, 0.68]]),
    torch.tensor([[0.6, 0.32, 0.08], [0.08, 0.08, 0.84]]),
]


class TestPlugin(PluginTests):
    plugin = "pskd"


class TestPast(SoftTargetsTests):
    component = "pskd.past"


class TestMethod(MethodTests):
    component = "pskd"


def past():
    made = Past()
    made.setup(Context(num_classes=3, num_samples=5))
    return made


def refined(source, epoch):
    """The target of both samples in an epoch, from 0, of three; then the step is over."""
    clock = torch.zeros(())
    step = Step(Batch(torch.zeros(2, 3, 8, 8), LABELS, INDEX), Outputs([PREDICTED[epoch].log()]), clock, clock)
    soft = source(step).probs[0]
    source.after_step()
    where = Where(epoch=epoch + 0.5, progress=(epoch + 0.5) / 3)
    ce, imitate = (term.weight(where) for term in pskd().terms.values())
    return ce * torch.nn.functional.one_hot(LABELS, 3) + imitate * soft


def test_three_epochs_by_hand():
    source = past()
    for epoch in range(3):
        torch.testing.assert_close(refined(source, epoch), REFINED[epoch])


def test_the_memory_is_saved_and_restored():
    before, after = past(), past()
    for epoch in range(2):
        refined(before, epoch)
    after.load_state_dict(before.state_dict())
    torch.testing.assert_close(refined(after, 2), REFINED[2])


def test_alpha_is_a_stair_of_epochs_that_ends_at_alpha_T():
    weights = pskd(alpha_T=0.6).terms
    for epoch, alpha in ((0.0, 0.0), (0.5, 0.2), (1.0, 0.4), (1.9, 0.4), (2.0, 0.6), (2.99, 0.6), (3.0, 0.6)):
        where = Where(epoch=epoch, progress=epoch / 3)
        assert weights["past"].weight(where) == pytest.approx(alpha)
        assert weights["ce"].weight(where) == pytest.approx(1 - alpha)


def test_the_number_of_samples_is_asked_for():
    with pytest.raises(KdError, match="num_samples=N"):
        Past().setup(Context(num_classes=3))

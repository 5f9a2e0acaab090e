"""kdcore's conformance kit, and what the paper says."""

import pytest
import torch
import torch.nn.functional as F

from kdcore.testing import LossTests, MethodTests, PluginTests
from kdcore_dkd import dkd, dkd_loss, warmed_up


class TestPlugin(PluginTests):
    plugin = "dkd"


class TestLoss(LossTests):
    component = "dkd"


class TestMethod(MethodTests):
    component = "dkd"
    teacher = True


def logits(classes=6, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(5, classes, generator=draw, dtype=torch.float64), torch.arange(5) % classes


def reference(student, teacher, labels, alpha, beta, temperature):
    """Equations 1, 2 and 7 as they are printed, sample by sample, in float64."""
    total = 0.0
    for s, t, label in zip((student / temperature).softmax(1), (teacher / temperature).softmax(1), labels.tolist(), strict=True):
        others = [c for c in range(len(s)) if c != label]
        rest_s, rest_t = 1 - s[label], 1 - t[label]
        tckd = t[label] * (t[label] / s[label]).log() + rest_t * (rest_t / rest_s).log()
        nckd = sum(t[c] / rest_t * ((t[c] / rest_t) / (s[c] / rest_s)).log() for c in others)
        total += alpha * tckd + beta * nckd
    return total * temperature**2 / len(labels)


@pytest.mark.parametrize(("alpha", "beta", "temperature"), [(1.0, 8.0, 4.0), (0.0, 1.0, 1.0), (2.0, 0.0, 3.0)])
def test_the_printed_formula(alpha, beta, temperature):
    (student, labels), (teacher, _) = logits(), logits(seed=1)
    ours = dkd_loss(student, teacher, labels, alpha, beta, temperature)
    torch.testing.assert_close(ours, reference(student, teacher, labels, alpha, beta, temperature))


def test_kd_is_tckd_and_the_coupled_nckd():
    """Equation 6, of one sample: KL = TCKD + (1 - p_t) NCKD."""
    (student, labels), (teacher, _) = logits(), logits(seed=1)
    student, teacher, labels = student[:1], teacher[:1], labels[:1]
    kd = F.kl_div(student.log_softmax(1), teacher.log_softmax(1), reduction="batchmean", log_target=True)
    rest = 1 - teacher.softmax(1)[0, labels[0]]
    torch.testing.assert_close(dkd_loss(student, teacher, labels, 1.0, rest.item(), 1.0), kd)


def test_zero_for_the_teacher_itself():
    teacher, labels = logits()
    assert dkd_loss(teacher, teacher, labels).abs() < 1e-12


@pytest.mark.parametrize("classes", [2, 10])
def test_a_certain_student_has_a_finite_loss_and_gradient(classes):
    labels = torch.arange(4) % classes
    student = (120.0 * F.one_hot(labels, classes) - 60).requires_grad_()
    for teacher in (torch.randn(4, classes), -student.detach()):
        value = dkd_loss(student, teacher, labels, temperature=1.0)
        assert value.isfinite() and torch.autograd.grad(value, student)[0].isfinite().all()


def test_the_warm_up_is_a_stair_of_epochs():
    from kdcore import Where

    assert [warmed_up(Where(epoch=epoch), epochs=4) for epoch in (0.0, 0.9, 1.0, 2.5, 3.0, 9.0)] == [0.25, 0.25, 0.5, 0.75, 1.0, 1.0]
    assert dkd(warmup=4).terms["dkd"].weight(Where(epoch=1.5)) == 0.5

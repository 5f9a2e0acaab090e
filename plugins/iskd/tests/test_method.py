"""The loss: its hand-computed vector, its invariants, plain cross entropy without a teacher, and what is refused."""

import copy
from dataclasses import replace
from functools import partial

import pytest
import timm
import torch

from kdcore import KdError, Outputs, Where, compose
from kdcore.options import validate
from kdcore_iskd import iskd, large, large_epoch, self_taught

S = torch.zeros(1, 2, dtype=torch.float64)
T = torch.tensor([[0.75, 0.25]], dtype=torch.float64).log()
TAUGHT = Where(generation=2, has_teacher=True)


def total(method, step, where=TAUGHT):
    """The weighted sum of a method's terms; those that need a teacher are left out where there is none."""
    values = []
    for term in method.terms.values():
        if term.source and not where.has_teacher:
            continue
        weight = term.weight(where) if callable(term.weight) else term.weight
        values.append(weight * term.loss(step, method.sources[term.source](step) if term.source else None))
    return torch.stack(values).sum()


@pytest.fixture
def taught(step_of):
    """`taught(student, teacher)`: a step in which the teacher gave these logits."""
    return lambda student, teacher, labels=None: replace(step_of([student], labels=labels), teacher=Outputs([teacher]))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 0.411980),
        ({"alpha": 0.5, "temperature": 1, "reduction": "batchmean"}, 0.411980),
        ({"reduction": "mean"}, 0.5 * 0.693147 + 0.5 * 0.130812 / 2),
        ({"alpha": 0}, 0.693147),
        ({"alpha": 1}, 0.130812),
    ],
)
def test_the_vector(taught, options, expected):
    assert total(iskd(**options), taught(S, T)).item() == pytest.approx(expected, abs=1e-5)


def test_softened_on_both_sides_with_t_squared(taught):
    assert total(iskd(alpha=1, temperature=2), taught(S, 2 * T)).item() == pytest.approx(0.523248, abs=1e-5)
    assert self_taught().terms["kd"].loss.temperature == 20


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_the_first_generation_is_cross_entropy_with_weight_1(taught, alpha):
    assert total(iskd(alpha=alpha), taught(S, T), Where(has_teacher=False)).item() == pytest.approx(0.693147, abs=1e-5)


def test_nothing_is_left_to_learn_from_a_teacher_that_one_equals(taught):
    logits = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    value = total(iskd(alpha=1), taught(logits, logits.detach().clone()))
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-9) and logits.grad.abs().max() < 1e-9


@pytest.mark.parametrize("method", [iskd, self_taught])
def test_a_permuted_batch_changes_nothing(taught, method):
    student, teacher, labels = torch.randn(8, 5).double(), torch.randn(8, 5).double(), torch.randint(5, (8,))
    order = torch.randperm(8)
    permuted = total(method(), taught(student[order], teacher[order], labels[order]))
    torch.testing.assert_close(permuted, total(method(), taught(student, teacher, labels)))


@pytest.mark.parametrize("method", [iskd, self_taught])
def test_confident_and_half_precise_logits_stay_finite(taught, method):
    student = (60 * torch.randn(16, 2)).bfloat16().requires_grad_()
    value = total(method(), taught(student, -student.detach()))
    value.backward()
    assert value.dtype == torch.float32 and value.isfinite() and student.grad.isfinite().all()


def test_the_first_generation_and_alpha_0_are_plain_training_to_the_bit():
    images, labels = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 0])

    def gradients(method, number=0, teacher=False, **options):
        composed = compose("test_resnet", method, num_classes=3, options=options, image_size=32)
        network = copy.deepcopy(composed.student) if teacher else None
        task = composed.task(composed.phases[number], teacher=network)
        task.at(epoch=0, progress=0)
        answer = task(images, labels)
        assert "kd" not in answer
        return torch.autograd.grad(answer["loss"], [p for p in composed.student.parameters() if p.requires_grad])

    plain = gradients("plain")
    assert all(torch.equal(a, b) for a, b in zip(gradients("iskd"), plain, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(gradients("iskd", 1, True, alpha=0), plain, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(gradients("iskd.large-epoch"), plain, strict=True))


@pytest.mark.parametrize(
    ("target", "options"),
    [
        (iskd, {"alpha": 1.01}),
        (iskd, {"alpha": -0.1}),
        (iskd, {"temperature": 0}),
        (iskd, {"reduction": "sum"}),
        (self_taught, {"alpha": 2}),
        (large_epoch, {"generations": 0}),
    ],
)
def test_options_out_of_range_are_refused(target, options):
    with pytest.raises(KdError, match=next(iter(options))):
        validate(target, options, "it")


def test_a_teacher_that_is_given_teaches_one_student_only():
    given = partial(compose, "test_resnet", "iskd", num_classes=3, image_size=32)
    with pytest.raises(KdError, match="leave out --teacher, or add --schedule single"):
        given(teacher=timm.create_model("test_resnet", num_classes=3))
    composed = given(teacher=timm.create_model("test_resnet", num_classes=3), schedule="single")
    assert "kd" in composed.task()(torch.randn(2, 3, 32, 32), torch.tensor([0, 1]))
    with pytest.raises(KdError, match=r"'teacher' have 4 classes .* has 3"):
        given(teacher=timm.create_model("test_resnet", num_classes=4), schedule="single")


def test_every_exit_is_taught():
    composed = compose("test_resnet", "iskd", num_classes=3, image_size=32, exits="linear")
    task = composed.task(composed.phases[1], teacher=composed.student)
    assert task(torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 0]))["kd"].isfinite()
    assert len(composed.student(torch.randn(2, 3, 32, 32)).logits) == 4


def test_the_long_baseline_has_nothing_but_labels():
    assert list(large().terms) == ["ce"] and large().schedule is large_epoch

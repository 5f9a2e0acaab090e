"""Both methods evaluated term by term as the core would: the hand-computed vectors, the invariants, and what is refused."""

from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from kdcore import KdError, Outputs, SoftTargets, Where, compose
from kdcore.options import validate
from kdcore_tfkd import itself, reg, self_training, virtual
from kdcore_tfkd.method import REG, SELF

S = torch.zeros(1, 2, dtype=torch.float64)
T = torch.tensor([[0.75, 0.25]], dtype=torch.float64).log()
TAUGHT = Where(has_teacher=True)


def total(method, step, where=TAUGHT):
    """The weighted sum of a method's terms."""
    targets = {name: source(step) for name, source in method.sources.items()}
    values = []
    for term in method.terms.values():
        weight = term.weight(where) if callable(term.weight) else term.weight
        values.append(weight * term.loss(step, targets.get(term.source)))
    return torch.stack(values).sum()


@pytest.fixture
def taught(step_of):
    """`taught(student, teacher)`: a step in which the teacher gave these logits."""
    return lambda student, teacher, labels=None: replace(step_of([student], labels=labels), teacher=Outputs([teacher]))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 111.878948),
        ({"preset": "resnet18"}, 111.878948),
        ({"alpha": 0.95, "temperature": 6, "multiplier": 25, "reduction": "batchmean"}, 111.878948),
        ({"preset": "resnet50"}, 0.05 * 0.693147 + 0.95 * 36 * 0.130812 / 2),
    ],
    ids=["default", "named", "as batchmean", "no multiplier"],
)
def test_the_vector_of_self_training(taught, options, expected):
    assert total(self_training(**options), taught(S, 6 * T)).item() == pytest.approx(expected, abs=1e-5)


def test_the_vector_of_the_virtual_teacher(step_of):
    step = step_of([torch.tensor([[1.0, 0, -1]], dtype=torch.float64)])
    probs = virtual(step).probs[0]
    assert probs[0].tolist() == pytest.approx([0.344366, 0.327817, 0.327817], abs=1e-6)
    assert total(reg(), step).item() == pytest.approx(1.342568, abs=1e-5)
    assert total(reg(multiplier=100 / 3, reduction="batchmean"), step).item() == pytest.approx(1.342568, abs=1e-5)


def test_softened_on_both_sides_is_equation_9(step_of):
    logits, labels = torch.randn(5, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 3])
    step = step_of([logits], labels=labels)
    values = torch.full((5, 4), 0.01 / 3, dtype=torch.float64).scatter(1, labels[:, None], 0.99)
    expected = 16 * F.kl_div((logits / 4).log_softmax(1), (values / 4).softmax(1), reduction="batchmean")
    method = reg(alpha=1, temperature=4, multiplier=1, reduction="batchmean", soften="both")
    torch.testing.assert_close(total(method, step), expected)


def test_mixed_labels_get_mixed_teachers(step_of):
    step = step_of([torch.zeros(1, 3, dtype=torch.float64)])
    step.batch.soft_labels = torch.tensor([[0.5, 0.5, 0]])
    mixed = virtual(step, soften="both").logits[0]
    assert mixed[0].tolist() == pytest.approx([0.4975, 0.4975, 0.005])
    step.batch.soft_labels = torch.tensor([[1.0, 0, 0]])
    hard = virtual(step_of([torch.zeros(1, 3, dtype=torch.float64)]), soften="both").logits[0]
    torch.testing.assert_close(virtual(step, soften="both").logits[0], hard)


@pytest.mark.parametrize("name", sorted(REG))
def test_every_preset_of_reg_is_a_method(step_of, name):
    assert total(reg(preset=name), step_of([torch.randn(3, 5)], labels=torch.tensor([0, 1, 4]))).isfinite()


@pytest.mark.parametrize("name", sorted(SELF))
def test_every_preset_of_self_is_a_method(taught, name):
    """Nothing is left to learn where the student equals its teacher and alpha is 1."""
    logits = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    value = total(self_training(preset=name, alpha=1), taught(logits, logits.detach().clone()))
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-9) and logits.grad.abs().max() < 1e-9


@pytest.mark.parametrize("method", [partial(reg), partial(reg, soften="both"), partial(self_training)], ids=["reg", "both", "self"])
def test_a_permuted_batch_changes_nothing(taught, method):
    student, teacher, labels = torch.randn(8, 5).double(), torch.randn(8, 5).double(), torch.randint(5, (8,))
    order = torch.randperm(8)
    permuted = total(method(), taught(student[order], teacher[order], labels[order]))
    torch.testing.assert_close(permuted, total(method(), taught(student, teacher, labels)))


@pytest.mark.parametrize("method", [partial(reg), partial(self_training)], ids=["reg", "self"])
def test_confident_and_half_precise_logits_stay_finite(taught, method):
    student = (60 * torch.randn(16, 2)).bfloat16().requires_grad_()
    value = total(method(), taught(student, -student.detach()))
    value.backward()
    assert value.dtype == torch.float32 and value.isfinite() and student.grad.isfinite().all()


def test_without_a_teacher_the_labels_have_all_the_weight():
    weight = self_training(preset="resnet18").terms["ce"].weight
    assert weight(Where(has_teacher=False)) == 1 and weight(TAUGHT) == pytest.approx(0.05)


def test_alpha_0_is_plain_training_to_the_bit():
    images, labels = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 0])

    def gradients(method, **options):
        composed = compose("test_resnet", method, num_classes=3, options=options, image_size=32)
        answer = composed.task()(images, labels)
        assert "kd" not in answer
        return torch.autograd.grad(answer["loss"], [p for p in composed.student.parameters() if p.requires_grad])

    assert all(torch.equal(a, b) for a, b in zip(gradients("tfkd.reg", alpha=0), gradients("plain"), strict=True))


@pytest.mark.parametrize(
    ("method", "options"),
    [
        (reg, {"alpha": 1.5}),
        (reg, {"temperature": 0}),
        (reg, {"correct": 0}),
        (reg, {"preset": "resnet50"}),
        (self_training, {"alpha": -0.1}),
        (self_training, {"multiplier": -1}),
        (self_training, {"reduction": "sum"}),
        (itself, {"start": "teacher"}),
        (itself, {"teacher_epochs": 0}),
    ],
)
def test_options_out_of_range_are_refused(method, options):
    with pytest.raises(KdError, match=next(iter(options))):
        validate(method, options, "it")


def test_a_teacher_with_other_classes_is_refused():
    import timm

    with pytest.raises(KdError, match=r"'teacher' have 4 classes .* has 3"):
        compose("test_resnet", "tfkd.self", num_classes=3, teacher=timm.create_model("test_resnet", num_classes=4), image_size=32).task()


def test_the_virtual_teacher_on_every_exit_in_one_graph():
    composed = compose("test_resnet", num_classes=3, losses=["kl@tfkd.virtual=10"], image_size=32)
    images, labels = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 0])
    task = composed.task()
    answer = task(images, labels)
    answer["loss"].backward()
    assert len(composed.student(images).logits) == 4 and answer["kl"].isfinite()


def test_one_graph(step_of):
    step = step_of([torch.randn(4, 3)], labels=torch.tensor([0, 1, 2, 0]))
    found = torch.compile(virtual, fullgraph=True, backend="aot_eager")(step)
    assert isinstance(found, SoftTargets)
    torch.testing.assert_close(found.probs, virtual(step).probs)

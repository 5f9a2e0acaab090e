"""The feature loss: its published forms by hand, and the properties that hold for all of them."""

import pytest
import torch

from kdcore import KdError, SoftTargets
from kdcore_byot import HintLoss

REDUCTIONS = ("sum", "batchmean", "mean", "frobenius")


@pytest.fixture
def hint(step_of):
    """`hint(students, target, **options)`: the loss of embeddings against one target."""

    def value(students, target, **options):
        return HintLoss(**options)(step_of([], students), SoftTargets(embeddings=[target]))

    return value


def double(rows):
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize(
    ("student", "target", "options", "expected"),
    [
        ([[1, 0, 2]], [[1, 2, 0]], {"reduction": "sum"}, 8.0),
        ([[1, 0, 2]], [[1, 2, 0]], {"reduction": "frobenius"}, 2.828427),
        ([[1, 0], [0, 0]], [[0, 0], [0, 2]], {"reduction": "frobenius"}, 2.236068),
        ([[1, 0], [0, 0]], [[0, 0], [0, 2]], {"reduction": "sum"}, 5.0),
        ([[1, 0], [0, 0]], [[0, 0], [0, 2]], {"reduction": "batchmean"}, 2.5),
        ([[1, 0], [0, 0]], [[0, 0], [0, 2]], {"reduction": "mean"}, 1.25),
        ([[1, -1]], [[-1, -2]], {"reduction": "sum", "mask": True}, 4.0),
        ([[1, -1]], [[-1, -2]], {"reduction": "sum"}, 5.0),
    ],
)
def test_vectors(hint, student, target, options, expected):
    assert hint([double(student)], double(target), **options).item() == pytest.approx(expected, abs=1e-5)


def test_sum_and_batchmean_differ_by_the_batch(hint):
    """The remark that gives lambda its meaning: sum x 5e-7 at B = 128 equals batchmean x 6.4e-5."""
    student, target = torch.randn(128, 512, dtype=torch.float64), torch.randn(128, 512, dtype=torch.float64)
    assert (hint([student], target) * 5e-7).item() == pytest.approx((hint([student], target, reduction="batchmean") * 6.4e-5).item())


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_zero_where_equal_with_a_finite_gradient(hint, reduction, mask):
    student = torch.randn(4, 6, requires_grad=True)
    value = hint([student], student.detach().clone(), reduction=reduction, mask=mask)
    value.backward()
    assert value.item() == 0
    assert student.grad.eq(0).all()


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_permuted_batch_changes_nothing(hint, reduction):
    student, target, order = torch.randn(8, 5).double(), torch.randn(8, 5).double(), torch.randperm(8)
    torch.testing.assert_close(hint([student[order]], target[order], reduction=reduction), hint([student], target, reduction=reduction))


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_exits_add_up(hint, reduction):
    first, second, target = (torch.randn(3, 4).double() for _ in range(3))
    both = hint([first, second], target, reduction=reduction)
    torch.testing.assert_close(both, hint([first], target, reduction=reduction) + hint([second], target, reduction=reduction))


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_half_precision_is_computed_in_single(hint, reduction):
    student = (60 * torch.randn(64, 512)).bfloat16().requires_grad_()
    value = hint([student], -student.detach(), reduction=reduction)
    value.backward()
    assert value.dtype == torch.float32
    assert value.isfinite() and student.grad.isfinite().all()


def test_the_exit_nearest_the_teacher_can_be_skipped(hint):
    far, near, target = torch.zeros(2, 3), torch.ones(2, 3), torch.full((2, 3), 2.0)
    assert hint([far, near], target, skip_nearest=True).item() == 24
    assert hint([far], target, skip_nearest=True).item() == 24


def test_widths_that_differ_are_refused_with_the_line_to_type(hint):
    with pytest.raises(KdError, match=r"4 wide .* 6 wide.*-o byot\.hint\.adapter=true"):
        hint([torch.randn(2, 4)], torch.randn(2, 6))


def test_adapters_take_shape_in_the_first_call_and_train(step_of):
    loss = HintLoss(adapter=True, skip_nearest=True, reduction="frobenius")
    assert not list(loss.parameters())
    step = step_of([], [torch.randn(2, width) for width in (3, 4, 5)])
    targets = SoftTargets(embeddings=[torch.randn(2, 6)])
    loss(step, targets).backward()
    assert [tuple(layer.weight.shape) for layer in loss.adapters] == [(6, 3), (6, 4)]
    assert all(parameter.grad.abs().sum() > 0 for parameter in loss.parameters())
    before = list(loss.parameters())
    loss(step, targets)
    assert all(a is b for a, b in zip(before, loss.parameters(), strict=True))


def test_adapters_accept_autocast(step_of):
    loss = HintLoss(adapter=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(step_of([], [torch.randn(2, 3).bfloat16()]), SoftTargets(embeddings=[torch.randn(2, 6).bfloat16()]))
    value.backward()
    assert value.dtype == torch.float32
    assert all(parameter.dtype == torch.float32 and parameter.grad.isfinite().all() for parameter in loss.parameters())


@pytest.mark.parametrize("options", [{"mask": True}, {"reduction": "frobenius", "adapter": True, "skip_nearest": True}])
def test_one_graph_after_the_first_call(step_of, options):
    torch.manual_seed(0)
    loss = HintLoss(**options)
    step, targets = step_of([], [torch.randn(4, 6) for _ in range(3)]), SoftTargets(embeddings=[torch.randn(4, 6)])
    expected = loss(step, targets)
    torch.testing.assert_close(torch.compile(loss, fullgraph=True, backend="aot_eager")(step, targets), expected)


def test_frobenius_at_zero_has_a_zero_gradient_when_compiled(step_of):
    compiled = torch.compile(HintLoss(reduction="frobenius"), fullgraph=True, backend="aot_eager")
    student = torch.ones(2, 3, requires_grad=True)
    compiled(step_of([], [student]), SoftTargets(embeddings=[torch.ones(2, 3)])).backward()
    assert student.grad.eq(0).all()

"""The triplet and ordinal losses: the hand-computed vectors, the plain cube of all triplets as the reference, and batches that lack some."""

from functools import partial

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from kdcore import Context, KdError
from kdcore.options import validate
from kdcore_mango import OrdinalLoss, TripletLoss, ordinal_loss, triplet_loss
from kdcore_mango.hinge import pairwise_distances


def double(rows):
    return torch.tensor(rows, dtype=torch.float64)


ABC = torch.tensor([0, 1, 2])


@pytest.mark.parametrize(
    ("options", "expected"),
    [({}, 1.0), ({"squared": True}, 0.75), ({"squared": True, "average": "valid"}, 0.375)],
)
def test_triplet_vectors(options, expected):
    found = triplet_loss(double([[0], [1], [2.5]]), torch.tensor([0, 0, 2]), **options)
    assert found.item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("options", "expected"),
    [({}, 1.0), ({"anchors": "lower"}, 1.5), ({"anchors": "lower", "squared": True}, 0.25), ({"average": "valid"}, 1.0)],
)
def test_ordinal_vectors(options, expected):
    assert ordinal_loss(double([[0], [1.5], [2]]), ABC, 3, **options).item() == pytest.approx(expected, abs=1e-5)


# -- the definition, in a cube ----------------------------------------------------------------------------------------------------


def cube(points, valid, margin, squared, average):
    """The loss from the B^3 triplets, as it is defined."""
    away = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    away = away.square() if squared else away
    hinge = (away[:, :, None] - away[:, None, :] + margin).clamp_min(0) * valid
    return hinge.sum() / ((hinge > 0) if average == "positive" else valid).sum().clamp_min(1)


def triplets_of(labels):
    alike = labels[:, None] == labels
    return (alike & ~torch.eye(len(labels), dtype=torch.bool))[:, :, None] & ~alike[:, None, :]


def ordinals_of(grades, anchors):
    a, b, c = grades[:, None, None], grades[None, :, None], grades[None, None, :]
    valid = (a < b) & (b < c)
    return valid if anchors == "lower" else valid | ((a > b) & (b > c))


@pytest.mark.parametrize("average", ["positive", "valid"])
@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_values_and_gradients_are_those_of_the_cube(classes, squared, average):
    points = (0.6 * torch.randn(24, 4, dtype=torch.float64)).requires_grad_()
    labels = torch.randint(classes, (24,))
    both = partial(ordinal_loss, num_grades=classes, squared=squared, average=average, margin=0.7)
    pairs = [
        (
            triplet_loss(points, labels, squared=squared, average=average, margin=0.7),
            cube(points, triplets_of(labels), 0.7, squared, average),
        )
    ]
    for anchors in ("both", "lower"):
        pairs.append((both(points, labels, anchors=anchors), cube(points, ordinals_of(labels, anchors), 0.7, squared, average)))
    for found, expected in pairs:
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(torch.autograd.grad(found, points)[0], torch.autograd.grad(expected, points)[0])


# -- invariants -------------------------------------------------------------------------------------------------------------------

LOSSES = [
    partial(triplet_loss),
    partial(triplet_loss, squared=True),
    partial(ordinal_loss, num_grades=3),
    partial(ordinal_loss, num_grades=3, squared=True, anchors="lower"),
]


@pytest.mark.parametrize("loss", LOSSES)
def test_a_permuted_batch_changes_nothing(loss):
    points, labels, order = torch.randn(20, 5).double(), torch.randint(3, (20,)), torch.randperm(20)
    torch.testing.assert_close(loss(points[order], labels[order]), loss(points, labels))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("where", [0.0, 3.0, -1e4])
def test_points_that_coincide_have_finite_gradients(loss, where):
    points = torch.full((9, 4), where, requires_grad=True)
    value = loss(points, torch.arange(9) % 3)
    value.backward()
    assert value.item() == pytest.approx(2.0) and points.grad.eq(0).all()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("labels", [[1] * 6, [0], [0, 1], [2, 2]], ids=["one class", "one sample", "no pair", "one pair"])
def test_without_triplets_it_is_0_with_gradients_of_0(loss, labels):
    points = torch.randn(len(labels), 4, requires_grad=True)
    value = loss(points, torch.tensor(labels))
    value.backward()
    assert value.item() == 0 and points.grad.eq(0).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_it_is_0_with_gradients_of_0_where_all_is_in_order(loss):
    points = (torch.tensor([[0.0], [100], [300]]).repeat(2, 1) + 0.01 * torch.rand(6, 1)).requires_grad_()
    value = loss(points, torch.arange(6) % 3)
    value.backward()
    assert value.item() == 0 and points.grad.eq(0).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_half_precision_is_computed_in_single(loss):
    points = (60 * torch.randn(32, 64)).bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(points, torch.randint(3, (32,)))
    value.backward()
    assert value.dtype == torch.float32 and value.isfinite() and points.grad.isfinite().all()


def test_distances_far_from_the_origin():
    points = torch.randn(40, 16)
    expected = torch.cdist(points.double(), points.double()).float()
    torch.testing.assert_close(pairwise_distances(points + 100, squared=False), expected, rtol=1e-3, atol=1e-3)


def test_ordered_and_disordered_embeddings_differ():
    """The loss knows the order: the same points with two grades exchanged are worse."""
    points = torch.tensor([[0.0], [5], [10], [15]])
    right, wrong = torch.tensor([0, 1, 2, 3]), torch.tensor([0, 2, 1, 3])
    assert ordinal_loss(points, right, 4).item() == 0 < ordinal_loss(points, wrong, 4).item()


# -- the components ---------------------------------------------------------------------------------------------------------------


def test_exits_add_up(step_of):
    first, second, labels = torch.randn(12, 3).double(), torch.randn(12, 5).double(), torch.arange(12) % 3
    step = step_of([torch.zeros(12, 3)] * 2, [first, second], labels)
    torch.testing.assert_close(TripletLoss()(step), triplet_loss(first, labels) + triplet_loss(second, labels))
    torch.testing.assert_close(OrdinalLoss()(step), ordinal_loss(first, labels, 3) + ordinal_loss(second, labels, 3))


def test_the_order_names_classes_from_the_lowest_grade(step_of):
    points = torch.randn(12, 3)
    labels = torch.arange(12) % 4
    grade = torch.tensor([2, 0, 3, 1])  # of classes 0 to 3
    found = OrdinalLoss(order=[1, 3, 0, 2])(step_of([torch.zeros(12, 4)], [points], labels))
    torch.testing.assert_close(found, ordinal_loss(points, grade[labels], 4))
    torch.testing.assert_close(OrdinalLoss(order=[2, 0, 3, 1])(step_of([torch.zeros(12, 4)], [points], labels)), found)  # upside down


@pytest.mark.parametrize("order", [[0, 1], [0, 1, 1], [1, 2, 3], [0, 1, 2, 3]])
def test_an_order_of_other_classes_is_refused(order):
    with pytest.raises(KdError, match=r"is no order of the 3 classes: name each of 0 to 2 once"):
        OrdinalLoss(order=order).setup(Context(3, student=torch.nn.Linear(1, 1)))


@pytest.mark.parametrize(
    ("loss", "options"), [(TripletLoss, {"margin": 0}), (TripletLoss, {"average": "all"}), (OrdinalLoss, {"anchors": "upper"})]
)
def test_options_out_of_range_are_refused(loss, options):
    with pytest.raises(KdError, match=next(iter(options))):
        validate(loss, options, "it")


class Largest(TorchDispatchMode):
    """The most numbers that any one tensor of an operation holds."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        answer = function(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(answer):
            self.numbers = max(self.numbers, tensor.numel() if isinstance(tensor, torch.Tensor) else 0)
        return answer


@pytest.mark.parametrize("loss", LOSSES)
def test_memory_is_far_below_the_cube(loss):
    points, labels = torch.randn(256, 512, requires_grad=True), torch.arange(256) % 3
    with Largest() as seen:
        loss(points, labels).backward()
    assert seen.numbers <= 256 * 512  # the cube would be 128 times more


@pytest.mark.parametrize("loss", [TripletLoss(), OrdinalLoss()])
def test_one_graph(step_of, loss):
    step = step_of([torch.zeros(9, 3)], [torch.randn(9, 4)], torch.arange(9) % 3)
    torch.testing.assert_close(torch.compile(loss, fullgraph=True, backend="aot_eager")(step), loss(step))

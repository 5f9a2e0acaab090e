"""The neighbours' posterior: vectors worked out by hand, ties, small batches, the memory, and what it costs."""

import warnings

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from kdcore import Context, KdError, Outputs, compose
from kdcore.context import Shapes
from kdcore.options import validate
from kdcore_osakd import KNN, knn_posterior

P = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.2, 0.8]], dtype=torch.float64)
Y = torch.tensor([0, 0, 1, 0])


class Operations(TorchDispatchMode):
    """Counts the operations by name."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("k", "include_self", "expected"),
    [
        (2, True, [[1, 0], [1, 0], [0.5, 0.5], [0.5, 0.5]]),
        (2, False, [[0.5, 0.5], [0.5, 0.5], [1, 0], [0.5, 0.5]]),
        (3, True, [[2 / 3, 1 / 3]] * 4),
        (1, True, [[1, 0], [1, 0], [0, 1], [1, 0]]),
        (4, True, [[0.75, 0.25]] * 4),
    ],
)
def test_vectors(k, include_self, expected):
    found = knn_posterior(P, Y, 2, k=k, include_self=include_self)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("space", ["probabilities", "logits", "embeddings"])
def test_every_space_and_metric_has_a_distribution_for_each_sample(step_of, space):
    for metric in ("euclidean", "cosine"):
        step = step_of([torch.randn(20, 5)], [torch.randn(20, 7)], torch.randint(5, (20,)))
        (probs,) = KNN(space=space, metric=metric, k=6)(step).probs
        torch.testing.assert_close(probs.sum(dim=1), torch.ones(20))
        votes = probs * 6
        torch.testing.assert_close(votes, votes.round())
        assert (probs.gather(1, step.batch.labels[:, None]) >= 1 / 6 - 1e-6).all()  # its own vote


def test_the_space_is_the_one_asked_for(step_of):
    logits, embeddings = torch.randn(12, 4), torch.randn(12, 6)
    step = step_of([logits], [embeddings], torch.randint(4, (12,)))
    labels = step.batch.labels
    spaces = {"probabilities": logits.softmax(1), "logits": logits, "embeddings": embeddings}
    for space, points in spaces.items():
        away = torch.cdist(points, points)
        nearest = away.argsort(dim=1)[:, :3]
        expected = torch.nn.functional.one_hot(labels[nearest], 4).float().mean(dim=1)
        torch.testing.assert_close(KNN(space=space, k=3)(step).probs[0], expected)
    unit = torch.nn.functional.normalize(embeddings)
    nearest = (unit @ unit.T).argsort(dim=1, descending=True)[:, :3]
    expected = torch.nn.functional.one_hot(labels[nearest], 4).float().mean(dim=1)
    torch.testing.assert_close(KNN(space="embeddings", metric="cosine", k=3)(step).probs[0], expected)


def test_a_permuted_batch_changes_nothing():
    points, labels, order = torch.randn(30, 6), torch.randint(4, (30,)), torch.randperm(30)
    torch.testing.assert_close(knn_posterior(points[order], labels[order], 4), knn_posterior(points, labels, 4)[order])


def test_ties_go_by_position_and_oneself_comes_first():
    points, labels = torch.zeros(6, 3), torch.arange(6)
    found = knn_posterior(points, labels, 6, k=3)
    for k, row in enumerate(found):
        first = [j for j in range(6) if j != k][:2]
        assert sorted(row.nonzero().flatten().tolist()) == sorted([k, *first])
    others = knn_posterior(points, labels, 6, k=2, include_self=False)
    assert others[0].nonzero().flatten().tolist() == [1, 2] and others[5].nonzero().flatten().tolist() == [0, 1]


def test_far_from_the_origin_neighbours_are_the_same():
    points, labels = torch.randn(64, 10), torch.randint(5, (64,))
    torch.testing.assert_close(knn_posterior(points + 1000, labels, 5), knn_posterior(points, labels, 5))


def test_no_gradient_flows_into_the_soft_labels(step_of):
    logits = torch.randn(8, 3, requires_grad=True)
    assert not KNN(k=3)(step_of([logits], labels=torch.randint(3, (8,)))).probs[0].requires_grad


def test_confident_and_half_precise_logits_stay_finite(step_of):
    step = step_of([(60 * torch.randn(16, 2)).bfloat16()], labels=torch.randint(2, (16,)))
    for space in ("probabilities", "logits"):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            (probs,) = KNN(space=space)(step).probs
        assert probs.dtype == torch.float32 and probs.isfinite().all()


def test_exits_have_their_own_neighbours_or_the_deepest_s(step_of):
    logits, labels = [torch.randn(10, 3) for _ in range(3)], torch.randint(3, (10,))
    step = step_of(logits, labels=labels)
    own = KNN(k=4)(step).probs
    assert len(own) == 3
    for entry, probs in zip(logits, own, strict=True):
        torch.testing.assert_close(probs, knn_posterior(entry.softmax(1), labels, 3, k=4))
    (deepest,) = KNN(k=4, exits="deepest")(step).probs
    torch.testing.assert_close(deepest, own[2])


def test_a_small_batch_has_all_its_samples_vote_with_one_warning(step_of):
    source, step = KNN(k=8), step_of([torch.randn(4, 2)], labels=Y)
    with pytest.warns(UserWarning, match=r"a batch of 4 has fewer than 8 neighbours"):
        (probs,) = source(step).probs
    torch.testing.assert_close(probs, torch.tensor([[0.75, 0.25]] * 4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        source(step)


def test_one_alone_keeps_its_label():
    found = knn_posterior(torch.randn(1, 3), torch.tensor([2]), 3, include_self=False)
    assert found.tolist() == [[0, 0, 1]]


# -- the memory -------------------------------------------------------------------------------------------------------------------


def context(**facts):
    shapes = Shapes([(2,)], [(3,)])
    return Context(2, student=torch.nn.Linear(1, 1), student_shapes=shapes, **{"batch_size": 4, "num_samples": 1000, **facts})


def test_the_memory_is_first_in_first_out(step_of):
    source = KNN(k=2, memory=6, space="logits")
    source.setup(context())
    for begin in (0, 10, 20):
        source(step_of([torch.arange(begin, begin + 8).view(4, 2).float()], labels=torch.tensor([0, 1, 0, 1])))
    assert source.memory0[:, 0].tolist() == [20, 22, 24, 26, 10, 12]
    assert source.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert set(source.state_dict()) == {"memory0", "labels"}


def test_neighbours_are_found_in_the_memory_and_empty_places_do_not_vote(step_of):
    source = KNN(k=3, memory=8, space="logits")
    source.setup(context())
    points = torch.tensor([[0.0, 0], [10, 0], [20, 0], [30, 0]])
    first = source(step_of([points], labels=torch.zeros(4, dtype=torch.long))).probs[0]
    assert first.tolist() == [[1, 0]] * 4
    later = source(step_of([points + 1], labels=torch.ones(4, dtype=torch.long))).probs[0]
    # Each has itself, its former self (1 away in both places), and the next nearest: another's former self.
    assert later[0].tolist() == pytest.approx([1 / 3, 2 / 3]) or later[0].tolist() == pytest.approx([2 / 3, 1 / 3])
    joined, labels = torch.cat([points + 1, points]), torch.tensor([1] * 4 + [0] * 4)
    nearest = torch.cdist(points + 1, joined).argsort(dim=1, stable=True)[:, :3]
    torch.testing.assert_close(later, torch.nn.functional.one_hot(labels[nearest], 2).float().mean(dim=1))


def test_rehearsal_leaves_the_memory_empty():
    composed = compose(
        "test_resnet", "osakd", num_classes=3, options={"osakd.knn.memory": 32}, image_size=32, batch_size=16, num_samples=100
    )
    source = composed.sources["knn"].run
    task = composed.task()
    assert source.labels.eq(-1).all()
    task(torch.randn(16, 3, 32, 32), torch.randint(3, (16,)))["loss"].backward()
    assert source.labels.ge(0).sum() == 16
    assert any(name.endswith("memory0") for name in composed.modules().state_dict())


# -- what is refused --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "facts", "says"),
    [
        ({"k": 5}, {}, r"5 neighbours are asked for and a batch of 4 can give 4: add -o osakd\.knn\.k=4"),
        ({"k": 4, "include_self": False}, {}, r"can give 3, and a sample does not count as its own"),
        ({"k": 5}, {"batch_size": 64, "num_samples": 4}, r"a batch of 4 can give 4"),
        ({"k": 13, "memory": 8}, {}, r"a batch of 4 and a memory of 8 can give 12"),
        ({"k": 2, "memory": 98}, {"num_samples": 100}, r"at most -o osakd\.knn\.memory=96"),
    ],
)
def test_more_neighbours_than_there_are_is_refused_at_composition(options, facts, says):
    with pytest.raises(KdError, match=says):
        KNN(**options).setup(context(**facts))


def test_k_is_refused_by_compose():
    with pytest.raises(KdError, match=r"20 neighbours are asked for and a batch of 16 can give 16"):
        compose("test_resnet", "osakd", num_classes=3, options={"k": 20}, image_size=32, batch_size=16)


@pytest.mark.parametrize("options", [{"k": 0}, {"space": "maps"}, {"metric": "l1"}, {"memory": -1}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(KdError, match=next(iter(options))):
        validate(KNN, options, "osakd.knn")


# -- what it costs ----------------------------------------------------------------------------------------------------------------


def test_one_matrix_product_one_top_k_and_nothing_comes_to_the_host(step_of):
    step = step_of([torch.randn(64, 10)], labels=torch.randint(10, (64,)))
    with Operations() as seen:
        KNN(k=8)(step)
    assert sum(name in ("mm", "addmm", "bmm") for name in seen.names) == 1
    assert seen.names.count("topk") == 1
    assert not {"_local_scalar_dense", "nonzero", "item", "equal", "sort"} & set(seen.names)
    assert len(seen.names) < 45


def test_one_graph(step_of):
    source, step = KNN(k=4), step_of([torch.randn(8, 3), torch.randn(8, 3)], labels=torch.randint(3, (8,)))
    compiled = torch.compile(source, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(step).probs, source(step).probs)


def test_one_graph_with_a_memory(step_of):
    plain, other = KNN(k=4, memory=12), KNN(k=4, memory=12)
    plain.setup(context(batch_size=8))
    other.setup(context(batch_size=8))
    compiled = torch.compile(other, fullgraph=True, backend="aot_eager")
    for _ in range(3):
        step = step_of([torch.randn(8, 2)], labels=torch.randint(2, (8,)))
        torch.testing.assert_close(compiled(step).probs, plain(step).probs)
    torch.testing.assert_close(plain.memory0, other.memory0)


def test_a_teacher_s_outputs_are_left_alone(step_of):
    step = step_of([torch.randn(8, 3)], labels=torch.randint(3, (8,)))
    step.teacher = Outputs([torch.randn(8, 3)])
    torch.testing.assert_close(KNN(k=2)(step).probs[0], knn_posterior(step.outputs.logits[0].softmax(1), step.batch.labels, 3, k=2))

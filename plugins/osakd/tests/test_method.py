"""The method's three readings of equation 5, evaluated term by term as the core would; what is refused; what it combines with."""

import pytest
import torch

from kdcore import KdError, compose
from kdcore.options import validate
from kdcore_osakd import osakd

LOGITS = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.2, 0.8]], dtype=torch.float64).log()
LABELS = torch.tensor([0, 0, 1, 0])


def total(method, step, **knn):
    """The weighted sum of a method's terms, for exits that all terms see."""
    source = method.sources["knn"](**knn)
    targets = source(step)
    assert not targets.probs[0].requires_grad
    values = [term.weight * term.loss(step, targets if term.source else None) for term in method.terms.values()]
    return torch.stack(values).sum()


@pytest.mark.parametrize(("balance", "expected"), [("convex_sd", 0.0978654), ("additive", 0.614154), ("convex_ce", 0.520789)])
def test_vectors(step_of, balance, expected):
    assert total(osakd(k=2, balance=balance), step_of([LOGITS], labels=LABELS)).item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"k": 2, "lam": 0}, 0.573654),
        ({"k": 2, "lam": 1}, 0.045),
        ({"k": 3, "lam": 1}, 0.106111),
        ({"k": 2, "lam": 1, "reduction": "batchmean"}, 0.09),
        ({"k": 2, "lam": 1, "balance": "convex_ce"}, 0.573654),
    ],
)
def test_the_parts_of_the_vectors(step_of, options, expected):
    assert total(osakd(**options), step_of([LOGITS], labels=LABELS)).item() == pytest.approx(expected, abs=1e-5)


def test_the_vector_without_oneself(step_of):
    assert total(osakd(k=2, lam=1), step_of([LOGITS], labels=LABELS), include_self=False).item() == pytest.approx(0.2075, abs=1e-5)


def test_the_divergence_in_place_of_the_square(step_of):
    # The posterior of the first two is certain, of the others even.
    rows = [-LOGITS[0, 0], -LOGITS[1, 0], (0.5 * (0.5 / LOGITS[2].exp()).log()).sum(), (0.5 * (0.5 / LOGITS[3].exp()).log()).sum()]
    expected = torch.stack(rows).mean().item()
    assert total(osakd(k=2, lam=1, loss="kl", reduction="batchmean"), step_of([LOGITS], labels=LABELS)).item() == pytest.approx(expected)
    assert total(osakd(k=2, lam=1, loss="kl"), step_of([LOGITS], labels=LABELS)).item() == pytest.approx(expected / 2)


@pytest.mark.parametrize("options", [{}, {"loss": "kl"}, {"balance": "additive", "reduction": "batchmean"}])
def test_a_permuted_batch_changes_nothing(step_of, options):
    logits, labels, order = torch.randn(20, 5).double(), torch.randint(5, (20,)), torch.randperm(20)
    permuted = total(osakd(**options), step_of([logits[order]], labels=labels[order]))
    torch.testing.assert_close(permuted, total(osakd(**options), step_of([logits], labels=labels)))


@pytest.mark.parametrize("loss", ["mse", "kl"])
def test_nothing_to_learn_where_answers_are_the_posterior(step_of, loss):
    """One class, answered with certainty: the distance and its gradient are zero, and finite for confident logits."""
    logits = torch.tensor([[60.0, -60]] * 6, requires_grad=True)
    value = total(osakd(k=3, lam=1, loss=loss), step_of([logits]))
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-6) and logits.grad.abs().max() < 1e-6


def test_lambda_0_is_plain_training_to_the_bit():
    images, labels = torch.randn(8, 3, 32, 32), torch.arange(8) % 3

    def gradients(method, **options):
        composed = compose("test_resnet", method, num_classes=3, options=options, image_size=32)
        answer = composed.task()(images, labels)
        assert "sd" not in answer
        return torch.autograd.grad(answer["loss"], [p for p in composed.student.parameters() if p.requires_grad])

    assert all(torch.equal(a, b) for a, b in zip(gradients("osakd", lam=0.0), gradients("plain"), strict=True))


@pytest.mark.parametrize("options", [{"k": 0}, {"lam": 1.5}, {"balance": "none"}, {"loss": "l1"}, {"exits": []}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(KdError, match=next(iter(options))):
        validate(osakd, options, "method 'osakd'")


def test_mixed_labels_are_refused():
    with pytest.raises(KdError, match=r"osakd\.knn.* needs hard labels"):
        compose("test_resnet", "osakd", num_classes=3, image_size=32, soft_labels=True)


@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("osakd", {"exits": "linear"}),
        ("osakd", {"exits": "linear", "options": {"exits": "shallow"}}),
        ("osakd", {"exits": "linear", "options": {"exits": [1, -1], "osakd.knn.exits": "deepest"}}),
        ("deep-supervision", {"losses": ["mse@osakd.knn:shallow=0.5"]}),
        ("osakd", {"losses": ["kl@deepest:shallow"], "exits": "linear"}),
    ],
)
def test_composes_with_exits_and_other_terms(method, more):
    task = compose("test_resnet", method, num_classes=3, image_size=32, **more).task()
    answer = task(torch.randn(16, 3, 32, 32), torch.arange(16) % 3)
    answer["loss"].backward()
    assert answer["loss"].isfinite()


def test_with_a_teacher_there_are_two_sources():
    import timm

    more = {"losses": ["kl@teacher=0.5"], "teacher": timm.create_model("test_resnet", num_classes=3)}
    answer = compose("test_resnet", "osakd", num_classes=3, image_size=32, **more).task()(torch.randn(16, 3, 32, 32), torch.arange(16) % 3)
    assert {"ce", "sd", "kl"} <= set(answer)

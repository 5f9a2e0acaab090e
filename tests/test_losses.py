"""The core's losses, against vectors worked out by hand and against what the papers say of them."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from kdcore import CE, KL, MSE, KdError, Where, deepest, mean_of_exits, teacher
from kdcore.builtin import deep_supervision, kd, plain
from kdcore.losses import kl
from kdcore.options import validate
from kdcore.vocabulary import Batch, Outputs, SoftTargets, Step

S = torch.zeros(1, 2, dtype=torch.float64)
T = torch.tensor([[0.75, 0.25]], dtype=torch.float64).log()
KL_TS, KL_ST, CE_S, CE_T = 0.130812, 0.143841, 0.693147, 0.287682
OPTIONS = [
    {"form": form, "direction": direction, "reduction": reduction}
    for form, direction, reduction in itertools.product(["kl", "soft_ce"], ["forward", "reverse", "jeffreys"], ["batchmean", "mean"])
    if form == "kl" or direction == "forward"
]


def step_of(logits, labels=None, teacher=None, embeddings=(), soft_labels=None) -> Step:
    rows = logits[0].shape[0] if logits else embeddings[0].shape[0]
    labels = torch.zeros(rows, dtype=torch.long) if labels is None else labels
    batch = Batch(torch.zeros(rows, 1, 1, 1), labels, soft_labels=soft_labels)
    return Step(batch, Outputs(list(logits), list(embeddings)), torch.zeros(()), torch.zeros(()), teacher)


def against(student, target, **options) -> float:
    return KL(**options)(step_of([student]), SoftTargets(logits=[target])).item()


def noise(*shape, seed=0, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, KL_TS),
        ({"direction": "reverse"}, KL_ST),
        ({"direction": "jeffreys"}, 0.137327),
        ({"form": "soft_ce"}, CE_S),
        ({"reduction": "mean"}, KL_TS / 2),
        ({"form": "soft_ce", "reduction": "mean"}, CE_S / 2),
    ],
)
def test_vectors_of_the_divergence(options, expected):
    assert against(S, T, temperature=1, **options) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("options", "expected"),
    [({}, 0.523248), ({"reduction": "mean"}, 0.261624), ({"scale_t2": False}, KL_TS), ({"form": "soft_ce"}, 4 * CE_S)],
)
def test_vectors_of_the_temperature(options, expected):
    assert against(S, 2 * T, temperature=2, **options) == pytest.approx(expected, abs=1e-5)


def test_the_default_temperature_is_hintons():
    assert KL().temperature == 4
    assert against(S, 4 * T) == pytest.approx(16 * KL_TS, abs=1e-4)


def total(method, step) -> float:
    """The weighted sum of a method whose terms all see every exit, in a phase with a teacher."""
    where = Where(has_teacher=True)
    targets = {name: source(step) for name, source in method.sources.items()}
    weights = [term.weight(where) if callable(term.weight) else term.weight for term in method.terms.values()]
    losses = [term.loss(step, targets.get(term.source)).item() for term in method.terms.values()]
    return sum(weight * loss for weight, loss in zip(weights, losses, strict=True))


def test_vector_of_knowledge_distillation():
    """.1 CE(s) + .9 T^2 KL at T = 2, with the teacher's logits twice t."""
    step = step_of([S], teacher=Outputs([2 * T], [noise(1, 3)], [noise(1, 3, 1, 1)]))
    assert total(kd(alpha=0.9, temperature=2), step) == pytest.approx(0.540238, abs=1e-5)


def test_vector_of_deep_supervision():
    assert total(deep_supervision(), step_of([S, T])) == pytest.approx(0.980829, abs=1e-5)
    assert total(plain(), step_of([T])) == pytest.approx(CE_T, abs=1e-5)


def test_every_exit_counts_once_and_imitates_its_own_entry_where_there_are_several():
    step = step_of([S, T])
    assert KL(temperature=1)(step, SoftTargets(logits=[T])).item() == pytest.approx(KL_TS, abs=1e-5)
    assert KL(temperature=1)(step, SoftTargets(logits=[T, T])).item() == pytest.approx(KL_TS, abs=1e-5)
    assert KL(temperature=1)(step, SoftTargets(logits=[S, T])).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("temperature", [1, 4, 7.5])
def test_probabilities_are_never_softened(temperature):
    probs = SoftTargets(probs=[T.exp()])
    for scale in (True, False):
        assert KL(temperature=temperature, scale_t2=scale)(step_of([S]), probs).item() == pytest.approx(KL_TS, abs=1e-5)
    assert KL(temperature=temperature, form="soft_ce")(step_of([S]), probs).item() == pytest.approx(CE_S, abs=1e-5)


def test_soft_cross_entropy_has_one_direction():
    with pytest.raises(KdError, match="form=soft_ce has no direction but forward, and reverse was asked for"):
        KL(form="soft_ce", direction="reverse")


def test_a_one_hot_target_is_the_cross_entropy():
    logits, labels = noise(5, 4), torch.tensor([0, 1, 2, 3, 0])
    hot = SoftTargets(probs=[F.one_hot(labels, 4).double()])
    for form in ("kl", "soft_ce"):
        assert KL(form=form)(step_of([logits]), hot).item() == pytest.approx(F.cross_entropy(logits, labels).item(), abs=1e-5)
    assert math.isfinite(KL(direction="reverse")(step_of([logits]), hot).item())


@pytest.mark.parametrize("options", OPTIONS)
def test_nothing_to_learn_where_student_and_target_are_equal(options):
    logits = noise(6, 5).requires_grad_()
    value = KL(temperature=3, **options)(step_of([logits]), SoftTargets(logits=[logits.detach()]))
    value.backward()
    assert logits.grad.abs().max() < 1e-12
    if options["form"] == "kl":
        assert value.item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("options", OPTIONS)
def test_a_permuted_batch_or_permuted_classes_change_nothing(options):
    student, target = noise(6, 5), noise(6, 5, seed=1)
    order, classes = torch.randperm(6), torch.randperm(5)
    wanted = against(student, target, **options)
    assert against(student[order], target[order], **options) == pytest.approx(wanted, rel=1e-12)
    assert against(student[:, classes], target[:, classes], **options) == pytest.approx(wanted, rel=1e-12)


def test_a_shifted_logit_changes_nothing():
    student, target = noise(6, 5), noise(6, 5, seed=1)
    assert against(student + 7, target - 3) == pytest.approx(against(student, target), rel=1e-10)


def gradient(temperature: float, **options) -> torch.Tensor:
    student = noise(8, 10).requires_grad_()
    KL(temperature=temperature, **options)(step_of([student]), SoftTargets(logits=[noise(8, 10, seed=1)])).backward()
    return student.grad


def test_t_squared_keeps_the_scale_of_the_gradient():
    """Without it the gradient falls with T squared; with it, it goes to (z_s - z_t) / K of centred logits (Hinton et al., section 2.1)."""
    warm, hot = gradient(20), gradient(200)
    assert (hot.norm() / warm.norm()).item() == pytest.approx(1, abs=0.1)
    assert (gradient(200, scale_t2=False).norm() / hot.norm()).item() == pytest.approx(1 / 200**2, rel=1e-6)
    difference = noise(8, 10) - noise(8, 10, seed=1)
    difference = difference - difference.mean(dim=1, keepdim=True)
    torch.testing.assert_close(gradient(2000), difference / 10 / 8, rtol=1e-2, atol=1e-4)


def test_kl_and_soft_cross_entropy_have_one_gradient():
    torch.testing.assert_close(gradient(3, form="kl"), gradient(3, form="soft_ce"))


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("temperature", [0.5, 1, 4])
@pytest.mark.parametrize("classes", [2, 10])
def test_finite_for_confident_logits(options, temperature, classes):
    student = torch.full((3, classes), -60.0)
    student[:, 0] = 60
    target = student.flip(1)
    for probs in (False, True):
        leaf = student.clone().requires_grad_()
        targets = SoftTargets(probs=[target.softmax(1)]) if probs else SoftTargets(logits=[target])
        value = KL(temperature=temperature, **options)(step_of([leaf]), targets)
        value.backward()
        assert value.isfinite() and leaf.grad.isfinite().all()
        assert value > 1


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_precision_becomes_float32(half):
    student, target = noise(4, 3, dtype=torch.float32).to(half), noise(4, 3, seed=1, dtype=torch.float32).to(half)
    step = step_of([student], embeddings=[student])
    values = [
        (CE()(step), CE()(step_of([student.float()]))),
        (KL()(step, SoftTargets(logits=[target])), KL()(step_of([student.float()]), SoftTargets(logits=[target.float()]))),
        (KL()(step, SoftTargets(probs=[target.softmax(1)])), None),
        *(
            (MSE(space=space)(step, SoftTargets(logits=[target], embeddings=[target])), None)
            for space in ("probabilities", "logits", "embeddings")
        ),
    ]
    for value, wanted in values:
        assert value.dtype == torch.float32
        assert wanted is None or torch.equal(value, wanted)
    assert KL()(step_of([S]), SoftTargets(logits=[T])).dtype == torch.float64


def test_losses_stay_float32_under_autocast():
    student = noise(4, 3, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = kl(student.bfloat16(), student.flip(0).bfloat16(), 4.0)
    assert torch.equal(inside, kl(student.bfloat16(), student.flip(0).bfloat16(), 4.0))


@pytest.mark.parametrize("smoothing", [0, 0.1, 0.5])
def test_cross_entropy_is_torchs(smoothing):
    logits, labels = [noise(6, 4), noise(6, 4, seed=1)], torch.tensor([0, 1, 2, 3, 0, 1])
    soft = noise(6, 4, seed=2).softmax(1)
    hard = sum(F.cross_entropy(entry, labels, label_smoothing=smoothing).item() for entry in logits)
    mixed = sum(F.cross_entropy(entry, soft, label_smoothing=smoothing).item() for entry in logits)
    assert CE(label_smoothing=smoothing)(step_of(logits, labels)).item() == pytest.approx(hard, rel=1e-12)
    assert CE(label_smoothing=smoothing)(step_of(logits, labels, soft_labels=soft)).item() == pytest.approx(mixed, rel=1e-12)


def test_vectors_of_the_squared_difference():
    """Probabilities (.5, .5) and (.75, .25) differ by a quarter twice."""
    targets = SoftTargets(logits=[T], embeddings=[torch.tensor([[1.0, 2.0, 0.0]])])
    step = step_of([S], embeddings=[torch.tensor([[1.0, 0.0, 2.0]])])
    assert MSE()(step, targets).item() == pytest.approx(0.0625, abs=1e-7)
    assert MSE(reduction="batchmean")(step, targets).item() == pytest.approx(0.125, abs=1e-7)
    assert MSE()(step, SoftTargets(probs=[T.exp()])).item() == pytest.approx(0.0625, abs=1e-7)
    assert MSE(space="logits")(step, targets).item() == pytest.approx(((T**2).sum() / 2).item(), abs=1e-7)
    assert MSE(space="embeddings")(step, targets).item() == pytest.approx(8 / 3, abs=1e-6)
    assert MSE(space="embeddings", reduction="batchmean")(step, targets).item() == pytest.approx(8, abs=1e-6)


def test_embeddings_of_other_widths_are_refused_and_not_broadcast():
    step = step_of([], embeddings=[noise(4, 6)])
    with pytest.raises(KdError, match="6 wide with a target 1 wide"):
        MSE(space="embeddings")(step, SoftTargets(embeddings=[noise(4, 1)]))


@pytest.mark.parametrize(("loss", "field"), [(KL, "logits"), (MSE, "logits")])
def test_what_a_loss_reads_is_declared(loss, field):
    assert field in loss().reads
    assert MSE(space="embeddings").reads == ("embeddings",)
    assert loss().needs == () and loss(all_views=True).needs == ("views",) and CE(all_views=True).needs == ("views",)


@pytest.mark.parametrize(
    ("loss", "options"),
    [
        (KL, {"temperature": 0}),
        (KL, {"direction": "backward"}),
        (KL, {"form": "js"}),
        (KL, {"reduction": "sum"}),
        (MSE, {"space": "maps"}),
        (CE, {"label_smoothing": 1}),
        (CE, {"label_smoothing": -0.1}),
        (kd, {"alpha": 1.1}),
        (kd, {"temperature": 0}),
    ],
)
def test_options_out_of_range_are_refused(loss, options):
    with pytest.raises(KdError, match=next(iter(options))):
        validate(loss, options, "it")


# -- sources ------------------------------------------------------------------------------------------------------------------


def test_the_deepest_exit_and_the_teacher_give_one_entry():
    own = Outputs([S, T], [noise(1, 2), noise(1, 3)], [noise(1, 2, 2, 2)], {"gate": T})
    step = Step(Batch(noise(1, 1, 1, 1), torch.tensor([0])), own, torch.zeros(()), torch.zeros(()), teacher=own)
    for found in (deepest(step), teacher(step)):
        assert found.logits == [T] and found.embeddings == [own.embeddings[1]] and found.maps == own.maps and found.extras == own.extras
    matched = teacher(step, exits="match")
    assert matched.logits == own.logits and matched.embeddings == own.embeddings


def test_the_mean_of_exits_leaves_out_exits_with_other_classes():
    step = step_of([noise(1, 8), S, T], embeddings=[noise(1, 3), noise(1, 3, seed=1), noise(1, 3, seed=2)])
    torch.testing.assert_close(mean_of_exits(step).logits[0], (S + T) / 2)
    torch.testing.assert_close(mean_of_exits(step, space="probabilities").probs[0], (S.softmax(1) + T.softmax(1)) / 2)
    torch.testing.assert_close(mean_of_exits(step).embeddings[0], torch.stack(step.outputs.embeddings).mean(0))
    assert mean_of_exits(step_of([S, T], embeddings=[noise(1, 2), noise(1, 3)])).embeddings is None


@pytest.mark.parametrize(  # exits of other classes have no target in common
    ("widths", "targets"),
    [*itertools.product([(4, 4, 4), (4,)], ["one", "own", "probs", "own probs"]), ((4, 4, 6), "own"), ((4, 4, 6), "own probs")],
)
@pytest.mark.parametrize("options", [{}, {"reduction": "mean", "temperature": 2.0}, {"direction": "jeffreys"}, {"form": "soft_ce"}])
def test_exits_together_come_to_the_sum_of_each_alone(widths, targets, options):
    """Forward and backward: batched where all exits have the same classes, one by one where they have not."""
    torch.manual_seed(0)
    logits = [torch.randn(5, width, dtype=torch.float64, requires_grad=True) for width in widths]
    entries = [torch.randn(5, width, dtype=torch.float64) for width in (widths if targets.startswith("own") else widths[:1])]
    if targets.endswith("probs"):
        given = SoftTargets(probs=[entry.softmax(dim=-1) for entry in entries])
    else:
        given = SoftTargets(logits=entries)
    t = 1.0 if targets.endswith("probs") else options.get("temperature", 4.0)
    expected = 0.0
    for k, entry in enumerate(logits):
        p = (entries[k % len(entries)] / t).softmax(dim=-1)
        q = (entry / t).softmax(dim=-1)
        forward, reverse = (p * (p / q).log()).sum(dim=-1), (q * (q / p).log()).sum(dim=-1)
        rows = {"jeffreys": (forward + reverse) / 2}.get(options.get("direction", ""), forward)
        rows = -(p * q.log()).sum(dim=-1) if "form" in options else rows
        expected = expected + rows.mean() / (entry.shape[-1] if "reduction" in options else 1) * t**2
    found = KL(**options)(step_of(logits), given)
    torch.testing.assert_close(found, expected)
    for one, other in zip(torch.autograd.grad(found, logits), torch.autograd.grad(expected, logits), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(("widths", "soft"), [*itertools.product([(4, 4, 4, 4), (4, 4)], [False, True]), ((4, 6, 4), False)])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropies_together_come_to_the_sum_of_each_alone(widths, soft, smoothing):
    torch.manual_seed(0)
    logits = [torch.randn(5, width, requires_grad=True) for width in widths]
    labels, mixed = torch.tensor([0, 1, 2, 3, 3]), torch.rand(5, 4).softmax(dim=-1) if soft else None
    expected = sum(F.cross_entropy(entry, labels if mixed is None else mixed, label_smoothing=smoothing) for entry in logits)
    found = CE(label_smoothing=smoothing)(step_of(logits, labels, soft_labels=mixed))
    torch.testing.assert_close(found, expected)
    for one, other in zip(torch.autograd.grad(found, logits), torch.autograd.grad(expected, logits), strict=True):
        torch.testing.assert_close(one, other)
        assert smoothing or torch.equal(one, other)

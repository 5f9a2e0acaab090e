"""The method's presets, evaluated term by term as the core would: the hand-computed vectors of the four published forms."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch

from kdcore import CE, KdError, Method, Outputs, SoftTargets, Step, Term, compose, deepest, mean_of_exits
from kdcore.methods import exit_indices
from kdcore.options import validate
from kdcore.vocabulary import map_tensors
from kdcore_byot import HintLoss, byot

CE_S, CE_T, KL_TS, SOFT_CE_TS = 0.693147, 0.287682, 0.130812, 0.693147
"""Of the shallow logits s, the deep logits t, KL(t || s) and the soft cross entropy of s against t."""
CE_3T = math.log(1 + 3**-3)
S = torch.zeros(1, 2, dtype=torch.float64)
T = torch.tensor([[0.75, 0.25]], dtype=torch.float64).log()
F_SHALLOW = torch.tensor([[1.0, 0.0, 2.0]], dtype=torch.float64)
F_DEEP = torch.tensor([[1.0, 2.0, 0.0]], dtype=torch.float64)


def total(method: Method, step: Step) -> torch.Tensor:
    """The weighted sum of a method's terms: sources run, targets detached, exits cut."""
    outputs = step.outputs
    targets = {name: map_tensors(source(step), torch.Tensor.detach) for name, source in method.sources.items()}
    summed = torch.zeros((), dtype=torch.float64)
    for term in method.terms.values():
        chosen = exit_indices(term.exits, len(outputs.logits))
        seen = replace(step, outputs=Outputs([outputs.logits[k] for k in chosen], [outputs.embeddings[k] for k in chosen]))
        loss = identity_adapted(term.loss, seen, targets) if isinstance(term.loss, partial) else term.loss
        summed = summed + term.weight * loss(seen, targets.get(term.source))
    return summed


def identity_adapted(build, step: Step, targets: dict[str, SoftTargets]) -> HintLoss:
    """The loss that a method asks for, its adapters (shaped by a first call) set to the identity."""
    loss = build()
    loss(step, targets["deepest"])
    for layer in loss.adapters:
        torch.nn.init.eye_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    return loss


@pytest.fixture
def two_exits(step_of):
    """`two_exits(scale)`: a shallow exit with logits s, a deep one with t, both times `scale`; label 0."""
    return lambda scale=1: step_of([scale * S, scale * T], [F_SHALLOW, F_DEEP])


def slide_form() -> Method:
    """The paper's slide as it stands: KL at T = 1 and the squared norm."""
    method = byot(alpha=0.3, temperature=1, hint_weight=0.03)
    method.terms["kd"] = replace(method.terms["kd"], loss=replace(method.terms["kd"].loss, form="kl"))
    return method


@pytest.mark.parametrize(
    ("method", "scale", "expected"),
    [
        (slide_form(), 1, 1.052129),
        (byot(preset="final"), 3, 0.814368),
        (byot(preset="conference"), 3, 3.502108),
        (byot(), 3, 3.502108),
        (byot(preset="luan"), 3, 0.9 * CE_3T + 0.9 * CE_S + 0.1 * 9 * SOFT_CE_TS + 1e-6 * 8),
        (byot(preset="mmrazor"), 3, CE_3T + 0.7 * CE_S + 0.3 * 9 * KL_TS + 0.03 * math.sqrt(8)),
        (Method(terms={"ce": Term(CE())}), 1, 0.980829),
    ],
    ids=["slide", "final", "conference", "default", "luan", "mmrazor", "deep supervision"],
)
def test_vectors(two_exits, method, scale, expected):
    assert total(method, two_exits(scale)).item() == pytest.approx(expected, abs=1e-5)


def test_the_masked_feature_term_of_luan(step_of):
    term = byot(preset="luan").terms["hint"]
    step = step_of([], [torch.tensor([[1.0, -1.0]], dtype=torch.float64)])
    assert term.loss()(step, SoftTargets(embeddings=[torch.tensor([[-1.0, -2.0]], dtype=torch.float64)])).item() == pytest.approx(4.0)


def test_the_deepest_exit_learns_from_labels_alone(two_exits):
    """Its gradient is that of its own cross entropy: neither answers nor features flow back into the teacher."""
    step = two_exits()
    step = replace(step, outputs=map_tensors(step.outputs, lambda tensor: tensor.clone().requires_grad_()))
    total(byot(hint_weight=1.0), step).backward()
    shallow, deep = step.outputs.logits
    torch.testing.assert_close(deep.grad, torch.softmax(deep.detach(), 1) - torch.tensor([[1.0, 0.0]], dtype=torch.float64))
    assert step.outputs.embeddings[1].grad is None
    assert shallow.grad.abs().sum() > 0 and step.outputs.embeddings[0].grad.abs().sum() > 0


def test_nothing_to_learn_from_a_teacher_that_one_equals(step_of):
    """kd and hint are flat where every exit answers as the deepest does."""
    logits = [torch.randn(4, 3, dtype=torch.float64).requires_grad_() for _ in range(2)]
    features = [torch.randn(4, 5, dtype=torch.float64).requires_grad_() for _ in range(2)]
    logits[0].data, features[0].data = logits[1].data.clone(), features[1].data.clone()
    total(byot(preset="mmrazor", alpha=1.0), step_of(logits, features)).backward()
    assert logits[0].grad.abs().max() < 1e-12 and features[0].grad.abs().max() == 0


@pytest.mark.parametrize("preset", ["conference", "final", "luan", "mmrazor"])
def test_a_permuted_batch_changes_nothing(step_of, preset):
    torch.manual_seed(0)
    logits, features = ([torch.randn(6, 4, dtype=torch.float64) for _ in range(4)] for _ in range(2))
    labels, order = torch.randint(4, (6,)), torch.randperm(6)
    permuted = step_of([entry[order] for entry in logits], [entry[order] for entry in features], labels[order])
    torch.testing.assert_close(total(byot(preset=preset), permuted), total(byot(preset=preset), step_of(logits, features, labels)))


def test_feature_exits_replace_those_of_the_preset(step_of):
    """With four exits, `final` compares 1 and 2; a list, or "shallow", is taken as it is."""
    features = [torch.full((1, 1), float(value), dtype=torch.float64) for value in (1, 10, 100, 0)]
    step = step_of([torch.zeros(1, 2, dtype=torch.float64)] * 4, features)

    def feature_term(**options) -> float:
        plain, with_hint = (byot(preset="final", hint_weight=weight, **options) for weight in (0, 1))
        return (total(with_hint, step) - total(plain, step)).item()

    assert feature_term() == pytest.approx(11)
    assert feature_term(feature_exits="shallow") == pytest.approx(111)
    assert feature_term(feature_exits=[2, 3]) == pytest.approx(110)


@pytest.mark.parametrize("options", [{"alpha": 1.5}, {"temperature": 0}, {"hint_weight": -1}, {"feature_exits": [0]}, {"preset": "best"}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(KdError, match=next(iter(options))):
        validate(byot, options, "method 'byot'")


@pytest.mark.parametrize("preset", ["conference", "final", "luan"])
def test_composes_and_learns(preset):
    """One task for each preset; mmrazor's plain feature term fits only exits as wide as the deepest."""
    task = compose("test_resnet", "byot", num_classes=3, options={"preset": preset}, image_size=32).task()
    images, labels = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 0])
    answer = task(images, labels)
    answer["loss"].backward()
    assert {"ce_deepest", "ce_shallow", "kd", "hint"} <= set(answer)
    assert answer["loss"].isfinite()


def test_mmrazor_is_refused_where_widths_differ():
    with pytest.raises(KdError, match=r"byot\.hint\.adapter=true"):
        compose("test_resnet", "byot", num_classes=3, options={"preset": "mmrazor"}, image_size=32)
    compose("test_resnet", "byot", num_classes=3, options={"preset": "mmrazor", "byot.hint.adapter": True}, image_size=32)


def test_the_ensemble_is_the_mean_of_logits_or_of_probabilities(step_of):
    step = step_of([torch.tensor([row], dtype=torch.float64) for row in ([2.0, 0, 0], [0, 1.5, 0], [0, 1.0, 0])])
    logits, probs = mean_of_exits(step).logits[0], mean_of_exits(step, space="probabilities").probs[0]
    assert logits[0].tolist() == pytest.approx([0.6667, 0.8333, 0], abs=1e-4) and logits.argmax() == 1
    assert probs[0].tolist() == pytest.approx([0.3844, 0.4580, 0.1576], abs=1e-4) and probs.argmax() == 1
    assert deepest(step).logits[0][0].tolist() == [0, 1.0, 0]

"""The methods, evaluated term by term as the core would: the vectors worked out by hand, the invariants, and what is refused."""

import copy
from dataclasses import replace

import pytest
import torch

from kdcore import KdError, Outputs, SoftTargets, Where, compose
from kdcore.backbones import create_backbone
from kdcore.methods import exit_indices
from kdcore.options import validate
from kdcore.vocabulary import map_tensors, pick
from kdcore_mskd import Resistor, mskd, oto, resistor_average, tskd

S, T, U = (torch.tensor([row], dtype=torch.float64).log() for row in ([0.5, 0.5], [0.75, 0.25], [0.6, 0.4]))
METHODS = pytest.mark.parametrize("method", [mskd, oto, tskd])
IMAGES, LABELS = torch.randn(4, 3, 16, 16), torch.tensor([0, 1, 2, 0])


def total(method, step):
    """The weighted sum of a method's terms: sources run, targets detached, exits cut."""
    count, values = len(step.outputs.logits), []
    targets = {name: map_tensors(source(step), torch.Tensor.detach) for name, source in method.sources.items()}
    for term in method.terms.values():
        chosen = exit_indices(term.exits, count)
        outputs = Outputs([step.outputs.logits[k] for k in chosen], [step.outputs.embeddings[k] for k in chosen])
        target = targets.get(term.source)
        if target is not None:
            target = SoftTargets(*(pick(entries, chosen, count) for entries in (target.logits, target.probs, target.embeddings)))
        weight = term.weight(Where(has_teacher=True)) if callable(term.weight) else term.weight
        values.append(weight * term.loss(replace(step, outputs=outputs), target))
    return torch.stack(values).sum()


@pytest.fixture
def two_exits(step_of):
    """`two_exits(*teacher)`: the student's exits gave s and log (.6, .4), the teacher's these; label 0."""
    features = [torch.ones(1, 3, dtype=torch.float64)] * 2
    return lambda *teacher: step_of([S, U], features, teacher=Outputs(list(teacher), [features[0]] * len(teacher)))


@pytest.mark.parametrize(
    ("method", "teacher", "expected"),
    [
        (mskd(temperature=1), [T], 1.384642),
        (mskd(temperature=1), [U, T], 1.384642),
        (oto(temperature=1), [U, T], 1.273965),
        (tskd(temperature=1), [T], 1.384642 + 0.020136),
        (mskd(temperature=1, gamma=2, alpha=3), [T], 2 * (0.693147 + 0.510826) + 3 * (0.130812 + 0.049857)),
        (mskd(temperature=1, gamma=0, divergence="jeffreys"), [T], 0.137327 + 0.051986),
    ],
    ids=["mskd", "the head teaches", "oto", "tskd", "weights", "jeffreys"],
)
def test_the_vectors(two_exits, method, teacher, expected):
    assert total(method, two_exits(*teacher)).item() == pytest.approx(expected, abs=1e-5)


def test_the_divergences_of_s_and_t(step_of):
    """1 / (1 / .130812 + 1 / .143841); the .033822 of Jensen and Shannon is neither of the two options."""
    p, q = T.log_softmax(1), S.log_softmax(1)
    assert resistor_average(q, p).item() == pytest.approx(0.068509, abs=1e-5) == resistor_average(p, q).item()
    mean = (p.exp() + q.exp()) / 2
    jensen_shannon = sum(0.5 * (one.exp() * (one - mean.log())).sum() for one in (p, q))
    assert jensen_shannon.item() == pytest.approx(0.033822, abs=1e-5)
    step = step_of([2 * S])
    assert Resistor(temperature=2)(step, SoftTargets(logits=[2 * T])).item() == pytest.approx(4 * 0.068509, abs=1e-5)
    assert Resistor(temperature=2, scale_t2=False)(step, SoftTargets(logits=[2 * T])).item() == pytest.approx(0.068509, abs=1e-5)
    assert Resistor(temperature=2)(step, SoftTargets(probs=[T.exp()])).item() == pytest.approx(0.068509, abs=1e-5)


def test_the_resistor_average_at_its_ends():
    logits = torch.randn(5, 4, requires_grad=True)
    value = resistor_average(logits.log_softmax(1), logits.detach().log_softmax(1))
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-7) and logits.grad.abs().max() < 1e-6
    far = (60 * torch.randn(16, 2)).requires_grad_()
    value = resistor_average(far.log_softmax(1), (-far.detach()).log_softmax(1))
    value.backward()
    assert value.isfinite() and far.grad.isfinite().all()


@METHODS
@pytest.mark.parametrize("divergence", ["forward", "jeffreys", "resistor"])
def test_invariants(step_of, method, divergence):
    """Nothing is left to learn where all exits are the teacher; a permuted batch changes nothing; bfloat16 is computed in full."""
    logits = torch.randn(6, 4, dtype=torch.float64)
    features = [torch.randn(6, 3, dtype=torch.float64)] * 3
    exits = [logits.clone().requires_grad_() for _ in range(3)]
    built = method(gamma=0, divergence=divergence)
    value = total(built, step_of(exits, features, teacher=Outputs([logits] * 3, features)))
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-9) and max(entry.grad.abs().max() for entry in exits) < 1e-9

    order, labels = torch.randperm(6), torch.randint(4, (6,))
    rows = [[torch.randn(6, 4).double() for _ in range(3)] for _ in range(2)]
    whole = total(method(divergence=divergence), step_of(rows[0], features, labels, Outputs(rows[1], features)))
    moved = [[entry[order] for entry in entries] for entries in (*rows, features)]
    permuted = total(method(divergence=divergence), step_of(moved[0], moved[2], labels[order], Outputs(moved[1], moved[2])))
    torch.testing.assert_close(permuted, whole)

    short = [(60 * torch.randn(8, 2)).bfloat16().requires_grad_() for _ in range(2)]
    other = [-entry.detach() for entry in short]
    value = total(method(divergence=divergence), step_of(short, [torch.zeros(8, 2)] * 2, teacher=Outputs(other, [torch.zeros(8, 2)] * 2)))
    value.backward()
    assert value.dtype == torch.float32 and value.isfinite() and all(entry.grad.isfinite().all() for entry in short)


def test_neither_the_teacher_nor_the_deepest_exit_is_pulled(step_of):
    """TSKD's second teacher, the student's deepest exit, gets no gradient from those that it teaches."""
    shallow, deep, teacher = (torch.randn(4, 3, dtype=torch.float64, requires_grad=True) for _ in range(3))
    features = [torch.randn(4, 5, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    built = tskd(gamma=0, alpha=0, hint_weight=1)
    total(built, step_of([shallow, deep], features, teacher=Outputs([teacher], [features[1]]))).backward()
    assert shallow.grad.abs().sum() > 0 and features[0].grad.abs().sum() > 0
    assert all(tensor.grad is None or not tensor.grad.any() for tensor in (deep, teacher, features[1]))


def network(name="test_resnet_32px", seed=0, **options):
    torch.manual_seed(seed)
    return create_backbone(name, num_classes=3, **options)


def composed(method="mskd.oto", **more):
    return compose("test_resnet_32px", method, **{"num_classes": 3, "image_size": 16, "teacher": network(), **more})


def test_alpha_0_is_deep_supervision_to_the_bit():
    def gradients(method, **more):
        composition = composed(method, **more)
        answer = composition.task()(IMAGES, LABELS)
        return answer, torch.autograd.grad(answer["loss"], [p for p in composition.student.parameters() if p.requires_grad])

    plain, expected = gradients("deep-supervision", exits="mskd.replica")
    answer, found = gradients("mskd", options={"alpha": 0})
    assert "kd" not in answer and torch.equal(answer["loss"], plain["loss"])
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_equal_teacher_and_student_exits_have_nothing_to_teach():
    """OtO's terms are 0 exit by exit where the teacher is a copy of the student, exits and all; the head teaching all is not."""
    student = composed("mskd").student.eval()
    own, head = (composed(method, teacher=copy.deepcopy(student)) for method in ("mskd.oto", "mskd"))
    assert [phase.name for phase in own.phases] == ["main"]  # its exits are its own: they are not trained again
    answers = []
    for composition in (own, head):
        composition.student.load_state_dict(student.state_dict())
        task = composition.task().eval()
        answers.append(task(IMAGES, LABELS)["kd"].item())
    assert abs(answers[0]) < 1e-5 < 1e-3 < answers[1]


@pytest.mark.parametrize(("options", "trains"), [({}, {"branches"}), ({"mskd.joint.teacher_exits": "joint"}, {"branches", "backbone"})])
def test_the_teacher_s_exits_train_first(options, trains):
    composition = composed(options={"mskd.joint.teacher_epochs": 7, "mskd.joint.teacher_milestones": [3, 5], "gamma": 0, **options})
    first, second = composition.phases
    assert (first.model, first.epochs, first.optim, second.model, second.epochs) == (
        "teacher",
        7,
        {"decay_milestones": [3, 5]},
        "student",
        None,
    )
    before = composition.given_teacher.model.backbone.net.conv1.weight.clone()
    task = composition.task(first).train()
    free = {name.split(".")[2] for name, parameter in task.objective.named_parameters() if parameter.requires_grad}
    assert free == trains and task.objective.model.model.backbone.training == ("backbone" in trains)
    answer = task(IMAGES, LABELS)
    assert set(answer) == {"loss", "output", "ce"} and torch.equal(answer["loss"].detach(), answer["ce"])  # gamma is the student's
    answer["loss"].backward()
    torch.optim.SGD([p for p in task.parameters() if p.requires_grad], 0.1).step()
    assert torch.equal(before, composition.given_teacher.model.backbone.net.conv1.weight) == ("backbone" not in trains)
    assert set(composition.task(second)(IMAGES, LABELS)) == {"loss", "output", "kd"}


def test_exits_of_another_kind_are_for_both():
    composition = composed(exits="linear")
    assert composition.recipe.labels["teacher exits"] == composition.recipe.labels["exits"]
    kinds = [type(network.branches["0"].body).__name__ for network in (composition.student, composition.given_teacher.model)]
    assert kinds == ["Pooled", "Pooled"]


def test_a_teacher_of_fewer_exits_is_refused():
    with pytest.raises(KdError, match=r"gives 3 logits for 4 exits of the student.*-o teacher\.exits=deepest"):
        composed(teacher=network("cifar/resnet20"))
    with pytest.raises(KdError, match="gives 1 logits for 4 exits"):
        composed("mskd", teacher=network(), options={"teacher.exits": "match"})
    composed(teacher=network("cifar/resnet20"), options={"teacher.exits": "deepest"})


def test_without_a_teacher_the_line_says_what_to_type():
    for method in ("mskd", "mskd.oto", "mskd.tskd"):
        with pytest.raises(KdError, match="needs a teacher: add --teacher"):
            composed(method, teacher=None)


@pytest.mark.parametrize("options", [{"alpha": -1}, {"gamma": -0.1}, {"temperature": 0}, {"divergence": "reverse"}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(KdError, match=next(iter(options))):
        validate(mskd, options, "it")


def test_one_graph():
    average = torch.compile(resistor_average, fullgraph=True, backend="aot_eager")
    student, target = (torch.randn(4, 3).log_softmax(1) for _ in range(2))
    torch.testing.assert_close(average(student, target), resistor_average(student, target))

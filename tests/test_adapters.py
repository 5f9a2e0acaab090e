"""Losses written for others: plain functions of logits and torchdistill's, as kdcore losses."""

import pickle
import sys

import pytest
import torch
import torch.nn.functional as F

import kdcore
from kdcore.errors import KdError
from kdcore.options import options_of
from kdcore.plugins import Plugins
from kdcore.recipes import resolve
from kdcore.vocabulary import Batch, Outputs, SoftTargets, Step


def softened(student_logits, teacher_logits, labels, temperature=4.0, *, weight: float = 1.0):
    """KL as somebody else writes it, on the samples that the teacher gets right."""
    right = (teacher_logits.argmax(1) == labels).float()
    rows = F.kl_div(
        F.log_softmax(student_logits / temperature, 1), F.log_softmax(teacher_logits / temperature, 1), reduction="none", log_target=True
    )
    return weight * (rows.sum(1) * right).mean()


@kdcore.from_function
def decorated(student_logits, teacher_logits):
    return (student_logits - teacher_logits).square().mean()


def step_of(exits=2, batch=6, classes=5):
    torch.manual_seed(0)
    logits = [torch.randn(batch, classes, requires_grad=True) for _ in range(exits)]
    teacher = torch.randn(batch, classes)
    labels = torch.arange(batch) % classes
    return Step(Batch(torch.zeros(batch, 1), labels), Outputs(logits), torch.zeros(()), torch.zeros(())), SoftTargets(logits=[teacher])


def refusal(call, *args, **kwargs):
    with pytest.raises(KdError) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_function_is_called_for_every_exit_and_summed():
    step, targets = step_of()
    loss = kdcore.from_function(softened, weight=0.5)
    expected = sum(softened(logits, targets.logits[0], step.batch.labels, weight=0.5) for logits in step.outputs.logits)
    torch.testing.assert_close(loss(step, targets), expected)
    each = SoftTargets(logits=[torch.randn(6, 5), torch.randn(6, 5)])
    expected = sum(softened(s, t, step.batch.labels, 2.0) for s, t in zip(step.outputs.logits, each.logits, strict=True))
    torch.testing.assert_close(loss(step, each, temperature=2.0, weight=1.0), expected)


def test_its_parameters_are_options():
    options = options_of(kdcore.from_function(softened, weight=0.5))
    assert options["temperature"].describe() == "temperature: int or float, default 4.0"
    assert options["weight"].describe() == "weight: float, default 0.5"
    assert list(options_of(decorated)) == []
    assert "did you mean 'temperature'" in refusal(kdcore.from_function, softened, temprature=3)


def test_labels_are_asked_for_only_where_the_function_takes_them():
    assert kdcore.from_function(softened).needs == ("hard_labels",)
    assert decorated.needs == ()
    step, targets = step_of(1)
    torch.testing.assert_close(decorated(step, targets), (step.outputs.logits[0] - targets.logits[0]).square().mean())


def test_a_decorated_function_pickles():
    assert pickle.loads(pickle.dumps(decorated)) is decorated


def test_bfloat16_reaches_the_function_in_float32():
    step, targets = step_of(1)
    step.outputs.logits = [logits.bfloat16() for logits in step.outputs.logits]
    seen = []
    kdcore.from_function(lambda s, t: seen.extend([s.dtype, t.dtype]) or s.sum())(step, SoftTargets(logits=[targets.logits[0].bfloat16()]))
    assert seen == [torch.float32, torch.float32]


def test_a_vector_is_refused_also_where_the_sum_over_exits_would_hide_it():
    def rows(student_logits, teacher_logits, labels):
        return F.cross_entropy(student_logits, labels, reduction="none")

    for exits in (1, 2):
        message = refusal(kdcore.from_function(rows), *step_of(exits))
        assert (
            message
            == "kdcore.from_function(rows) must return a scalar tensor, and returned a tensor of shape (6,): take the mean over the batch"
        )
    method = kdcore.Method(
        sources={"deepest": kdcore.deepest}, terms={"rows": kdcore.Term(kdcore.from_function(rows), source="deepest")}, exits=kdcore.linear
    )
    assert "must return a scalar tensor" in refusal(kdcore.compose, "test_resnet", method, num_classes=5, image_size=32)


def test_what_is_no_function_of_logits_is_refused():
    assert "a function of (student_logits" in refusal(kdcore.from_function, torch.nn.CrossEntropyLoss())
    assert "a function of (student_logits" in refusal(kdcore.from_function, lambda logits: logits.mean())
    assert "a function of (student_logits" in refusal(kdcore.from_function, 3)


PLUGIN = """
import torch.nn.functional as F
import kdcore

@kdcore.from_function
def far(student_logits, teacher_logits, labels, power=2):
    "The distance between logits."
    return (student_logits - teacher_logits).abs().pow(power).mean()

theirs = kdcore.from_torchdistill("KDLoss", temperature=4.0, alpha=0.5)

@kdcore.hookimpl
def losses():
    return {"far": far, "theirs": theirs}
"""


@pytest.fixture
def plugins(tmp_path):
    pytest.importorskip("torchdistill")
    (tmp_path / "adapted.py").write_text(PLUGIN)
    yield Plugins([str(tmp_path / "adapted.py")])
    del sys.modules["kdcore_file_adapted"]


def test_it_composes_with_a_method_and_the_gradient_reaches_the_student_alone(plugins):
    import timm

    teacher = timm.create_model("test_resnet", num_classes=5)
    losses = ["adapted.far@teacher=0.5", "adapted.theirs@teacher"]
    composed = kdcore.compose("test_resnet", "kd", num_classes=5, image_size=32, losses=losses, plugins=plugins, teacher=teacher)
    task = composed.task().train()
    answer = task(torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 3]))
    answer["loss"].backward()
    assert {"far", "theirs"} <= {name.removeprefix("adapted.") for name in answer}
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in task.get_clip_parameters())
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_kd_show_explains_both(plugins):
    from kdcli.listing import look_up

    (theirs,) = look_up("adapted.theirs", plugins)["parts"]
    assert not theirs["options"] and "torchdistill" in str(theirs)
    (far,) = look_up("adapted.far", plugins)["parts"]
    assert "The distance between logits" in str(far)


def test_its_options_are_set_from_outside(plugins):
    recipe = resolve("kd", {"adapted.far.power": 1}, plugins=plugins, losses=["adapted.far@teacher"], has_teacher=True)
    assert next(term.loss for name, term in recipe.method.terms.items() if "far" in name).keywords == {"power": 1}
    options = {"adapted.far.power": "much"}
    assert "power='much' is refused" in refusal(resolve, "kd", options, plugins=plugins, losses=["adapted.far@teacher"], has_teacher=True)


# -- torchdistill ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def mid_level():
    return pytest.importorskip("torchdistill.losses.mid_level")


@pytest.mark.parametrize("exits", [1, 3])
def test_torchdistills_own_number(mid_level, exits):
    theirs = mid_level.KDLoss(".", "output", ".", "output", temperature=3.0, alpha=0.3)
    step, targets = step_of(exits)
    own = [theirs({".": {"output": s}}, {".": {"output": targets.logits[0]}}, step.batch.labels) for s in step.outputs.logits]
    for loss in (kdcore.from_torchdistill(theirs), kdcore.from_torchdistill("KDLoss", temperature=3.0, alpha=0.3)):
        torch.testing.assert_close(loss(step, targets), sum(own), rtol=0, atol=1e-6)
    ours = sum(0.3 * F.cross_entropy(s, step.batch.labels) + 0.7 * kdcore.losses.kl(s, targets.logits[0], 3.0) for s in step.outputs.logits)
    torch.testing.assert_close(sum(own), ours)


@pytest.mark.parametrize(
    ("name", "options"), [("LogitStdKDLoss", {"temperature": 2.0, "alpha": 0.5}), ("DISTLoss", {"beta": 1.0, "gamma": 1.0, "tau": 2.0})]
)
def test_torchdistills_other_losses_on_logits(mid_level, name, options):
    step, targets = step_of(1)
    value = kdcore.from_torchdistill(name, **options)(step, targets)
    value.backward()
    assert value.isfinite() and step.outputs.logits[0].grad.abs().sum() > 0


def test_a_weighted_sum_of_torchdistill_is_one_loss(mid_level):
    from torchdistill.losses.high_level import WeightedSumLoss

    kd = mid_level.KDLoss(".", "output", ".", "output", temperature=3.0, alpha=0.3)
    whole = kdcore.from_torchdistill(WeightedSumLoss(sub_terms={"kd": {"criterion": kd, "weight": 0.5}}))
    step, targets = step_of(2)
    torch.testing.assert_close(whole(step, targets), 0.5 * kdcore.from_torchdistill(kd)(step, targets))


def test_losses_that_need_hooks_or_are_none_are_refused(mid_level):
    maps = {"pair1": {network: {"path": "layer2", "io": "output"} for network in ("student", "teacher")} | {"factor": 1.0}}
    message = refusal(kdcore.from_torchdistill, mid_level.ATLoss(at_pairs=maps))
    assert message.startswith("torchdistill's ATLoss asks for 'layer2', and a kdcore loss of it is given the logits alone")
    assert "asks for 'fc'" in refusal(kdcore.from_torchdistill, "KDLoss", student_module_path="fc", temperature=1.0, alpha=0.5)
    assert "does not take (student_io_dict" in refusal(kdcore.from_torchdistill, torch.nn.CrossEntropyLoss())
    assert "did you mean 'KDLoss'" in refusal(kdcore.from_torchdistill, "KDLos")
    assert "cannot be built with no arguments" in refusal(kdcore.from_torchdistill, "KDLoss")
    assert "takes a torchdistill loss" in refusal(kdcore.from_torchdistill, 3)


def test_without_torchdistill_the_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchdistill.losses.registry", None)
    assert refusal(kdcore.from_torchdistill, "KDLoss").endswith("pip install torchdistill")

"""Devices and precision: what `auto` may choose, and that trying it out changes nothing."""

import pytest
import torch
from torch import nn

from kdcore import KdError, compose, precision, train
from kdcore.precision import Precision, by_rule, by_trial, pick_device
from kdcore.session import Watch

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def task():
    return compose("test_resnet", "byot", num_classes=3, image_size=16, backbone_options={"drop_rate": 0.2}).task()


@pytest.fixture(scope="module")
def batch():
    return torch.randn(4, 3, 16, 16), torch.tensor([0, 1, 2, 0]), torch.arange(4)


NETWORKS = {
    "convolutions": nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(4, 2)),
    "depthwise": nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, groups=4)),
    "wide depthwise": nn.Sequential(nn.Conv2d(4, 4, 7, groups=4)),
    "grouped": nn.Sequential(nn.Conv2d(4, 4, 3, groups=2)),
    "none": nn.Linear(4, 2),
}


@pytest.mark.parametrize(
    ("network", "size", "device", "asked", "bfloat16", "chosen"),
    [
        ("convolutions", 32, "cpu", ("auto", None), True, ("bfloat16", True)),
        ("convolutions", 31, "cpu", ("auto", None), True, ("none", True)),
        ("convolutions", 64, "cpu", ("auto", None), False, ("none", True)),
        ("convolutions", 64, "mps", ("auto", None), False, ("none", False)),
        ("depthwise", 224, "cpu", ("auto", None), True, ("none", True)),
        ("depthwise", 32, "cuda", ("auto", None), True, ("bfloat16", True)),
        ("wide depthwise", 64, "cpu", ("auto", None), True, ("bfloat16", True)),
        ("grouped", 64, "cpu", ("auto", False), True, ("bfloat16", False)),
        ("none", 64, "cpu", ("auto", None), True, ("bfloat16", False)),
        ("depthwise", 16, "cpu", ("bfloat16", None), False, ("bfloat16", True)),
        ("convolutions", 64, "cpu", ("none", False), True, ("none", False)),
    ],
)
def test_the_rule(monkeypatch, network, size, device, asked, bfloat16, chosen):
    monkeypatch.setattr(precision, "fast_bfloat16", lambda device: bfloat16)
    assert by_rule(NETWORKS[network], (size, size), torch.device(device), *asked) == Precision(*chosen)


@pytest.mark.parametrize(("options", "amp"), [({}, "bfloat16"), ({"preset": "final"}, "none")])
def test_the_rule_looks_at_the_exits_too(monkeypatch, options, amp):
    """BYOT's separable exits have depthwise convolutions on a backbone that has none."""
    monkeypatch.setattr(precision, "fast_bfloat16", lambda device: True)
    student = compose("test_resnet_32px", "byot", options=options, num_classes=3, image_size=32).student
    assert by_rule(student, (32, 32), CPU, "auto", None) == Precision(amp, True)


@pytest.mark.parametrize(
    ("channels_last", "bfloat16", "candidates"),
    [
        (False, False, {("none", False)}),
        (False, True, {("none", False), ("bfloat16", False)}),
        (None, True, {("none", False), ("bfloat16", False), ("none", True), ("bfloat16", True)}),
    ],
)
def test_only_what_is_allowed_is_tried(monkeypatch, task, batch, channels_last, bfloat16, candidates):
    monkeypatch.setattr(precision, "fast_bfloat16", lambda device: bfloat16)
    monkeypatch.setattr(precision, "_time", lambda task, batch, candidate, steps: 1.0)
    chosen, seconds = by_trial(task, batch, channels_last)
    assert chosen == Precision("none", False) and set(seconds) == {Precision(*candidate) for candidate in candidates}


@pytest.mark.parametrize(("seconds", "chosen"), [(0.9, "bfloat16"), (0.96, "none"), (1.2, "none")])
def test_another_precision_must_be_faster_by_a_twentieth(monkeypatch, task, batch, seconds, chosen):
    monkeypatch.setattr(precision, "fast_bfloat16", lambda device: True)
    monkeypatch.setattr(precision, "_time", lambda task, batch, candidate, steps: seconds if candidate.amp == "bfloat16" else 1.0)
    assert by_trial(task, batch, False)[0].amp == chosen


@pytest.mark.parametrize("training", [True, False])
def test_trying_changes_no_weight_buffer_gradient_mode_or_random_number(monkeypatch, task, batch, training):
    monkeypatch.setattr(precision, "fast_bfloat16", lambda device: True)
    task.train(training)
    before = {name: value.clone() for name, value in task.state_dict().items()}
    modes, draws = [module.training for module in task.modules()], torch.get_rng_state()
    assert isinstance(by_trial(task, batch, None, steps=1)[0], Precision)
    assert all(torch.equal(value, before[name]) for name, value in task.state_dict().items())
    assert [module.training for module in task.modules()] == modes
    assert torch.equal(torch.get_rng_state(), draws) and all(p.grad is None for p in task.parameters())


def test_formats_and_autocast(batch):
    net = torch.nn.Conv2d(3, 4, 3)
    last = Precision("bfloat16", True)
    last.apply(net)
    assert net.weight.is_contiguous(memory_format=torch.channels_last) and last.images(batch[0]).is_contiguous(
        memory_format=torch.channels_last
    )
    with last.autocast(CPU):
        assert net(batch[0]).dtype == torch.bfloat16
    Precision().apply(net)
    assert net.weight.is_contiguous() and Precision().images(batch[0]) is batch[0]
    with Precision().autocast(CPU):
        assert net(batch[0]).dtype == torch.float32


def test_devices_that_are_there():
    assert pick_device("cpu") == CPU
    assert pick_device("auto").type in ("cpu", "cuda", "mps")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("gpu", "--device gpu: write cpu, cuda, cuda:1, mps or auto"),
        ("", "--device : write cpu"),
        ("cuda:x", "--device cuda:x: write cpu"),
        ("cuda:99", "--device cuda:99: there is no such device here; write --device cpu, or leave it out"),
        ("meta", "--device meta: there is no such device here"),
        ("xla", "--device xla: there is no such device here"),
    ],
)
def test_devices_that_are_not(name, says):
    with pytest.raises(KdError) as error:
        pick_device(name)
    assert str(error.value).startswith(says)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one here")
def test_cuda_where_there_is_none():
    with pytest.raises(KdError, match="--device cuda: there is no such device here"):
        pick_device("cuda")


def test_a_trial_is_said_aloud_and_its_decision_written_down(tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "fast_bfloat16", lambda device: True)
    monkeypatch.setattr(precision, "_time", lambda task, batch, candidate, steps: 0.012 if candidate.amp == "bfloat16" else 0.034)
    said: list[str] = []

    class Notes(Watch):
        def note(self, text):
            said.append(text)

    few = {"img_size": 16, "labels_per_class": 4, "epochs": 1, "device": "cpu", "method": "plain", "channels_last": False}
    trained = train("test_resnet_32px", "digits", run=tmp_path / "run", amp="try", watch=Notes(), **few)
    assert "--amp try: bfloat16 (a step took: float32 34 ms, bfloat16 12 ms)" in said
    assert trained.run.config()["amp"] == "bfloat16"

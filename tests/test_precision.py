"""Devices and precision: what `auto` may choose, and that trying it out changes nothing."""

import pytest
import torch

from kdcore import KdError, compose, precision
from kdcore.precision import Precision, choose, pick_device

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def task():
    return compose("test_resnet", "byot", num_classes=3, image_size=16, backbone_options={"drop_rate": 0.2}).task()


@pytest.fixture(scope="module")
def batch():
    return torch.randn(4, 3, 16, 16), torch.tensor([0, 1, 2, 0]), torch.arange(4)


@pytest.mark.parametrize(
    ("amp", "channels_last", "bfloat16", "candidates"),
    [
        ("none", False, True, {("none", False)}),
        ("bfloat16", True, False, {("bfloat16", True)}),
        ("auto", False, False, {("none", False)}),
        ("auto", False, True, {("none", False), ("bfloat16", False)}),
        ("none", None, True, {("none", False), ("none", True)}),
        ("auto", None, True, {("none", False), ("bfloat16", False), ("none", True), ("bfloat16", True)}),
    ],
)
def test_only_what_is_allowed_is_tried_and_chosen(monkeypatch, task, batch, amp, channels_last, bfloat16, candidates):
    tried = []
    monkeypatch.setattr(precision, "fast_bfloat16", lambda device: bfloat16)
    monkeypatch.setattr(precision, "_time", lambda task, batch, candidate, steps: tried.append(candidate) or 1.0)
    chosen = choose(task, batch, amp, channels_last)
    allowed = {Precision(*candidate) for candidate in candidates}
    assert chosen in allowed and set(tried) == (allowed if len(allowed) > 1 else set())


@pytest.mark.parametrize(("seconds", "chosen"), [(0.9, "bfloat16"), (0.96, "none"), (1.2, "none")])
def test_another_precision_must_be_faster_by_a_twentieth(monkeypatch, task, batch, seconds, chosen):
    monkeypatch.setattr(precision, "fast_bfloat16", lambda device: True)
    monkeypatch.setattr(precision, "_time", lambda task, batch, candidate, steps: seconds if candidate.amp == "bfloat16" else 1.0)
    assert choose(task, batch, "auto", False).amp == chosen


@pytest.mark.parametrize("training", [True, False])
def test_trying_changes_no_weight_buffer_gradient_mode_or_random_number(monkeypatch, task, batch, training):
    monkeypatch.setattr(precision, "fast_bfloat16", lambda device: True)
    task.train(training)
    before = {name: value.clone() for name, value in task.state_dict().items()}
    modes, draws = [module.training for module in task.modules()], torch.get_rng_state()
    assert isinstance(choose(task, batch, "auto", None, steps=1), Precision)
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

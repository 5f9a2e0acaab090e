"""An estimate of the time: what it computes with, and that a run's numbers are the same with it and without."""

import random

import numpy as np
import pytest
import torch
from PIL import Image

from kdcore import KdError, Phase, timing
from kdcore.config import read_config
from kdcore.errors import DataError
from kdcore.estimate import Estimate, PhaseTime, spoken
from kdcore.precision import Precision
from kdcore.preparing import prepare
from kdcore.timing import evaluating

SMALL = {"data": "digits", "img_size": 16, "labels_per_class": 6, "batch_size": 16, "epochs": 2, "device": "cpu", "workers": 0}


def prepared(**settings):
    return prepare(read_config({"model": "test_resnet_32px", **SMALL, **settings}))


@pytest.fixture
def photos(tmp_path):
    """Twelve small photos in two classes."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 2)):
        for name in ("a", "b"):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            for k in range(count):
                Image.fromarray(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(tmp_path / "photos" / split / name / f"{k}.png")
    return tmp_path / "photos"


def state(run):
    modules = run.composition.modules()
    tensors = [*modules.named_parameters(), *modules.named_buffers()]
    return {name: (tensor.clone(), tensor.requires_grad, tensor.grad is None) for name, tensor in tensors}


@pytest.mark.parametrize(
    "settings",
    [{"method": "byot", "model_ema": True, "drop": 0.2}, {"opt": "adamw", "grad_accum_steps": 2, "hflip": 0.5}, {"batch_size": 512}],
)
def test_estimating_changes_nothing(settings):
    run = prepared(**settings)
    before, modes = state(run), [m.training for m in run.composition.student.modules()]
    draws = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    found = timing.estimate(run, Precision())
    after = state(run)
    assert before.keys() == after.keys()
    for name, (value, free, no_grad) in before.items():
        assert torch.equal(value, after[name][0]) and (free, no_grad) == after[name][1:], name
    assert [m.training for m in run.composition.student.modules()] == modes
    assert torch.equal(torch.get_rng_state(), draws[0]) and random.getstate() == draws[1] and (np.random.get_state()[1] == draws[2]).all()
    assert found.epochs == 2 and 0 < found.phases[0].epoch < found.seconds


def test_a_runs_numbers_are_the_same_without_an_estimate(tmp_path, monkeypatch):
    from kdcore import train

    few = {"method": "byot", **SMALL}
    one = train("test_resnet_32px", run=tmp_path / "with", **few)
    assert 0 < one.results["estimated_minutes"] < 10
    monkeypatch.setattr("kdcore.starting.estimate", lambda *args: Estimate((PhaseTime("main", 2, True, 1.0, 0.0),), 1.0))
    other = train("test_resnet_32px", run=tmp_path / "without", **few)
    assert [r["train"] for r in one.run.metrics()] == [r["train"] for r in other.run.metrics()]
    assert one.results["last"] == other.results["last"] and other.results["estimated_minutes"] == 0.05


def test_photos_are_read_by_the_real_loader(photos, tmp_path):
    run = prepared(data=str(photos), img_size=32, labels_per_class=None, workers=1, batch_size=4)
    found = timing.estimate(run, Precision(), tmp_path / "runs" / "one")
    assert found.phases[0].epoch > 0 and sorted(path.name for path in tmp_path.iterdir()) == ["photos"]
    for path in (photos / "train").rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"\.png"):
        timing.estimate(run, Precision())


def test_each_kind_of_phase_is_timed_and_every_phase_counted(monkeypatch):
    timed = []
    monkeypatch.setattr(
        timing,
        "_phase_time",
        lambda p, q, phase, *rest: timed.append(phase.name) or ((len(timed) * 1.0, 0.5, 0.25), 0.1, p.composition.task()),
    )
    monkeypatch.setattr(timing, "_evaluation", lambda *args: (0.0, 0.0, 0.0))
    run = prepared()
    learn = Phase("learn", teacher="01-hint/epoch-0001")
    run.composition.phases = [Phase("hint", epochs=3, terms=("ce",)), Phase("teach"), learn, Phase("again", teacher="02-learn/epoch-0002")]
    monkeypatch.setattr(type(run.composition), "task", lambda self, *args, **more: torch.nn.Module(), raising=True)
    monkeypatch.setattr(torch.nn.Module, "network", lambda self: None, raising=False)
    found = timing.estimate(run, Precision())
    assert timed == ["hint", "teach", "learn"]
    assert [(phase.epochs, phase.main, phase.epoch) for phase in found.phases] == [
        (3, False, 1.25),
        (2, True, 2.25),
        (2, True, 3.25),
        (2, True, 3.25),
    ]


TIMES = Estimate((PhaseTime("hint", 3, False, 10.0, 1.0), PhaseTime("a", 30, True, 20.0, 1.0), PhaseTime("b", 30, True, 40.0, 1.0)), 7.0)


def test_seconds_and_the_epochs_that_fit():
    assert TIMES.seconds == 31 + 601 + 1201 + 7
    for seconds, epochs in ((40 + 60 * 5, 5), (40 + 60 * 6 - 1, 5), (1, 1), (1e6, 16666)):
        assert TIMES.fitting(seconds) == epochs
        fitted = TIMES.of([Phase("hint", epochs=3), Phase("a"), Phase("b")], epochs)
        assert fitted.seconds <= seconds or epochs == 1
    more = TIMES.of([Phase("hint", epochs=2), Phase("a"), Phase("b"), Phase("c")], 4)
    assert [phase.epochs for phase in more.phases] == [2, 4, 4, 4] and more.phases[3].epoch == 40.0


def test_what_is_left():
    assert TIMES.left(1, 0) == 30 + 601 + 1201 + 7
    assert TIMES.left(2, 30) == 1201 + 7
    assert TIMES.left(3, 29) == 47
    assert TIMES.left(4, 0) == 7  # a schedule that goes on for longer than it was rehearsed


def test_evaluation_waits_for_the_first_batch_and_then_for_the_slower():
    assert evaluating(100, 256, 0, 0.01, 0.02) == pytest.approx(3.0)
    assert evaluating(100, 256, 2, 0.01, 0.02) == pytest.approx(3.0)
    assert evaluating(356, 256, 2, 0.01, 0.02) == pytest.approx(256 * 0.03 + 2.0)
    assert evaluating(356, 256, 2, 0.08, 0.02) == pytest.approx(256 * 0.1 + 4.0)


def test_words():
    one = Estimate((PhaseTime("main", 1, True, 0.42, 0.1),), 0.2)
    assert str(one) == "about 0.7 s for 1 epoch, 0.4 s an epoch"
    assert str(TIMES) == "about 31 min for 63 epochs in 3 phases, 10 s to 40 s an epoch"
    assert [spoken(s) for s in (9.96, 89, 90, 599, 5360, 12000)] == ["10 s", "89 s", "1.5 min", "10 min", "89 min", "3 h 20 min"]


def test_a_disk_that_takes_no_checkpoint_is_no_error_yet(monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(timing, "save_tensors", full)
    assert timing.estimate(prepared(), Precision()).seconds > 0


def test_the_loop_never_reaches_an_epochs_end_in_a_sample():
    """There it would wait for the loss, and refuse one that is not finite: an estimate is no training."""
    run = prepared(lr=1e12)
    assert timing.estimate(run, Precision()).seconds > 0


def test_nothing_to_evaluate():
    assert timing.estimate(prepared(dev_fraction=0.0), Precision()).seconds > 0
    with pytest.raises(KdError, match="--patience looks at the dev split, and there is none"):
        prepared(dev_fraction=0.0, patience=2)


CENTRE = '''
import torch
from kdcore import hookimpl

class Centre(torch.nn.Module):
    """Its buffer is another tensor after every step."""

    def __init__(self):
        super().__init__()
        self.register_buffer("centre", torch.zeros(()))

    def forward(self, step, targets=None):
        logits = step.outputs.logits[-1].float()
        self.centre = 0.9 * self.centre + 0.1 * logits.detach().mean() + 1
        return logits.square().mean()

@hookimpl
def losses():
    return {"centre": Centre}
'''


def test_a_buffer_that_is_replaced_is_put_back_too(tmp_path):
    (tmp_path / "replaced.py").write_text(CENTRE)
    run = prepared(method="plain", plugin=[str(tmp_path / "replaced.py")], loss=["replaced.centre"])
    (centre,) = (term.run for term in run.composition.terms if hasattr(term.run, "centre"))
    assert centre.centre == 0, "after the rehearsal"
    timing.estimate(run, Precision())
    assert centre.centre == 0, "after the estimate"

"""--test-every-epoch: the test split after each epoch, told and never looked at."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.datasets import load_digits

import kdcore
from kdcore import KdError, timing
from kdcore.config import read_config
from kdcore.errors import DataError
from kdcore.over_epochs import over_epochs
from kdcore.precision import Precision
from kdcore.preparing import prepare
from kdcore.training import Watch

SMALL = {"epochs": 4, "img_size": 8, "batch_size": 32, "amp": "none", "channels_last": False, "device": "cpu", "lr": 0.2, "patience": 1}
CHOSEN = ("delivered", "checkpoints", "best", "last", "stopped")


def write_digits(path, test=slice(140, 220)):
    read = load_digits()
    splits = {"train": slice(0, 100), "val": slice(100, 140)} | ({"test": test} if test else {})
    images = {f"{name}_images": (read.images * 15).astype(np.uint8)[part] for name, part in splits.items()}
    np.savez(path, **images, **{f"{name}_labels": read.target[part] for name, part in splits.items()})
    return str(path)


def test_it_selects_nothing_and_the_results_have_the_highest(tmp_path):
    """Patience, delivery and every weight are as they are without it."""
    data = write_digits(tmp_path / "few.npz")
    plain = kdcore.train("test_resnet_32px", data, run=tmp_path / "plain", **SMALL)
    tested = kdcore.train("test_resnet_32px", data, run=tmp_path / "tested", test_every_epoch=True, **SMALL)
    one, other = plain.run.metrics(), tested.run.metrics()
    assert len(one) == len(other) and all("test" not in record for record in one)
    assert [(r["train"], r["dev"], r.get("stop")) for r in one] == [(r["train"], r["dev"], r.get("stop")) for r in other]
    assert {name: plain.results.get(name) for name in CHOSEN} == {name: tested.results.get(name) for name in CHOSEN}
    a, b = (load_file(trained.run.path / "student.safetensors") for trained in (plain, tested))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert other[-1]["test"]["exit1/top1"] == tested.results["last"]["test"]["exits"][0]["top1"]
    found = tested.results["over_epochs"]
    assert "over_epochs" not in plain.results and found["epochs"] == len(other) and "optimistic" in found["label"]
    for entry in found["exits"]:
        values = [record["test"][f"exit{entry['exit']}/top1"] for record in other]
        assert entry["top1"] == max(values) and entry["epoch"] == 1 + values.index(max(values))
    assert found["ensembles"]["mean_logits"]["top1"] == max(record["test"]["ensemble/top1"] for record in other)


def test_of_equals_the_first_epoch_and_only_the_phase_that_is_delivered():
    def record(phase, epoch, *tops):
        test = {f"exit{k}/{name}": value for k, top in enumerate(tops, 1) for name, value in (("top1", top), ("nll", 99.0))}
        return {"phase_number": phase, "epoch": epoch, "test": test | {"top1": tops[-1]}}

    lines = [record(1, 1, 99.0, 99.0), record(2, 1, 10.0, 30.0), record(2, 2, 20.0, 25.0), record(2, 3, 20.0, 30.0)]
    found = over_epochs(lines, "checkpoints/02-born-again/epoch-0003")
    assert found["exits"] == [{"exit": 1, "top1": 20.0, "epoch": 2}, {"exit": 2, "top1": 30.0, "epoch": 1}]
    assert found["epochs"] == 3 and found["ensembles"] == {}
    del lines[2]["test"]
    assert over_epochs(lines, "checkpoints/02-born-again/epoch-0003") is None


def test_a_test_split_is_needed_and_its_time_is_counted(tmp_path, monkeypatch):
    without = write_digits(tmp_path / "without.npz", test=None)
    with pytest.raises(KdError, match="--test-every-epoch needs a test split, and there is none: say --no-test-every-epoch"):
        prepare(read_config({"model": "test_resnet_32px", "data": without, "test_every_epoch": True, **SMALL}))
    data = write_digits(tmp_path / "few.npz")
    monkeypatch.setattr(timing, "_phase_time", lambda *args: ((1.0, 0.0, 0.0), 0.1, args[0].composition.task(args[2], rehearsal=True)))
    monkeypatch.setattr(timing, "_evaluation", lambda *args: (0.5, 0.25, 0.0))  # of an image, and of an epoch's numbers
    epochs = []
    for value in (False, True):
        ready = prepare(read_config({"model": "test_resnet_32px", "data": data, "test_every_epoch": value, **SMALL}))
        epochs.append(timing.estimate(ready, Precision()).phases[0].epoch)
    assert epochs == [1 + 40 / 2 + 0.25, 1 + 40 / 2 + 0.25 + 80 / 2 + 0.25]


def test_test_images_that_were_used_may_not_change(tmp_path):
    class Killed(Watch):
        def epoch(self, record):
            raise KeyboardInterrupt

    data = write_digits(tmp_path / "few.npz")
    with pytest.raises(KeyboardInterrupt):
        kdcore.train("test_resnet_32px", data, run=tmp_path / "run", watch=Killed(), test_every_epoch=True, **SMALL)
    write_digits(tmp_path / "few.npz", test=slice(200, 260))
    with pytest.raises(DataError, match="test has 60 images and had 80"):
        kdcore.train(run=tmp_path / "run", resume=True)

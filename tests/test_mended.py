"""Defects that a review found, each by what a user would have seen."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import kdcore
import kdcore.options
import kdcore.training
from kdcore import KdError, Tapped
from kdcore.config import read_config, split_taps
from kdcore.data import load_data
from kdcore.errors import FileError
from kdcore.plugins import Plugins
from kdcore.preparing import resolve_recipe

SMALL = {"labels_per_class": 10, "epochs": 1, "img_size": 16, "batch_size": 32, "amp": "none", "channels_last": False, "device": "cpu"}


def train(run, **settings):
    return kdcore.train("test_resnet_32px", settings.pop("data", "digits"), run=run, **{**SMALL, **settings})


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    return train(tmp_path_factory.mktemp("mended") / "run", method="plain").run.path


def test_a_tap_is_its_modules_own_output_where_a_later_layer_writes_into_it():
    class Overwritten(nn.Module):
        """A timm-shaped model whose ReLU works in place on the normalised map."""

        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.act = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True)
            self.fc = nn.Linear(4, 5)
            self.num_classes, self.feature_info = 5, [{"module": "act", "num_chs": 4, "reduction": 1}]

        def get_classifier(self):
            return self.fc

        def forward_intermediates(self, images, indices=None, output_fmt="NCHW", **_):
            final = self.act(self.norm(self.conv(images)))
            return final, [final for _ in indices]

        def forward_head(self, final, pre_logits=False):
            pooled = final.mean((2, 3))
            return pooled if pre_logits else self.fc(pooled)

        def forward(self, images):
            return self.forward_head(self.forward_intermediates(images, [0])[0])

    net = Overwritten()
    images = torch.randn(2, 3, 8, 8)
    maps = Tapped(net, ["norm"], (8, 8)).eval()(images).maps
    torch.testing.assert_close(maps[0], net.norm(net.conv(images)))
    assert maps[0].min() < 0 <= maps[1].min()


@pytest.mark.parametrize("name", ["val", "valid", "validation", "dev"])
def test_a_folder_held_out_by_any_usual_name_is_the_dev_split(tmp_path, name):
    for split in ("train", name, "extra"):
        for label in ("a", "b"):
            (tmp_path / split / label).mkdir(parents=True)
            Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / split / label / "1.png")
    data = load_data(str(tmp_path))
    assert (len(data.train), len(data.dev)) == (2, 2)
    assert "folders beside train/ that are no split were left out: extra" in data.notes


def test_smoothing_reaches_every_cross_entropy_that_has_none_of_its_own():
    config = read_config({"model": "m", "data": "d", "smoothing": 0.1, "loss": ["ce:deepest=0.5"]})
    terms = resolve_recipe(config, Plugins()).method.terms
    assert [kdcore.options.configured(term.loss)["label_smoothing"] for term in terms.values()] == [0.1, 0.1]
    config = read_config({"model": "m", "data": "d", "smoothing": 0.1, "options": {"ce.label_smoothing": 0.3}})
    assert resolve_recipe(config, Plugins()).method.terms["ce"].loss.label_smoothing == 0.3


def test_a_warmed_up_average_follows_the_weights_and_a_cold_one_is_warned_of(tmp_path):
    class Notes(kdcore.training.Watch):
        def __init__(self) -> None:
            self.notes: list[str] = []

        def note(self, text: str) -> None:
            self.notes.append(text)

    settings = {"method": "plain", "model_ema": True, "epochs": 4, "lr": 0.1, "labels_per_class": None}
    cold, warm = Notes(), Notes()
    train(tmp_path / "cold", watch=cold, **settings)
    trained = train(tmp_path / "warm", watch=warm, model_ema_warmup=True, **settings)
    assert any("is still 98% the initial weights: add --model-ema-warmup" in note for note in cold.notes)
    assert not any("--model-ema-warmup" in note for note in warm.notes)
    assert trained.results["last"]["test"]["exits"][-1]["top1"] > 30


def test_a_run_is_read_and_resumed_from_any_folder(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from kdcore import hookimpl\n\ndef flat(step, targets):\n    return step.outputs.logits[-1].square().mean()\n\n\n"
        "@hookimpl\ndef losses():\n    return {'flat': flat}\n"
    )
    monkeypatch.chdir(tmp_path)
    train("run", method="plain", plugin=["./mine.py"], loss=["mine.flat=0.1"])
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert kdcore.evaluate("../run")["test"]["samples"] == 1000
    kdcore.train(run="../run", resume=True, epochs="1")


def test_another_set_without_splits_is_evaluated_whole(tmp_path, taught):
    generator = np.random.default_rng(0)
    arrays = {"train_images": generator.integers(0, 255, (30, 8, 8), dtype=np.uint8), "train_labels": np.arange(30) % 10}
    np.savez(tmp_path / "new.npz", **arrays)
    report = kdcore.evaluate(taught, str(tmp_path / "new.npz"))
    assert report["test"]["samples"] == 30 and "dev" not in report


@pytest.mark.parametrize("text", ["{", '{"model": "resnet18"}'])
def test_a_damaged_model_json_is_one_line(tmp_path, taught, text):
    shutil.copytree(taught, tmp_path / "run")
    (tmp_path / "run" / "model.json").write_text(text)
    for use in (
        lambda: kdcore.evaluate(tmp_path / "run"),
        lambda: train(tmp_path / "new", method="kd", teacher=str(tmp_path / "run")),
        lambda: train(tmp_path / "new", method="kd", teacher=str(tmp_path / "run" / "student.safetensors")),
    ):
        with pytest.raises(FileError, match=r"model\.json"):
            use()


def test_damaged_teacher_weights_are_one_line(tmp_path, taught):
    shutil.copytree(taught, tmp_path / "run")
    (tmp_path / "run" / "student.safetensors").write_bytes(b"no tensors")
    with pytest.raises(FileError, match=r"student\.safetensors is damaged"):
        train(tmp_path / "new", method="kd", teacher=str(tmp_path / "run" / "student.safetensors"))


def test_a_run_that_is_not_there_is_no_backbone(tmp_path):
    with pytest.raises(KdError, match="--teacher runs/none: there is no such run or file"):
        train(tmp_path / "new", method="kd", teacher="runs/none")


def test_the_teacher_stands_in_the_results(tmp_path, taught):
    trained = train(tmp_path / "new", method="kd", teacher=str(taught))
    assert trained.results["teacher"] == f"test_resnet_32px ({taught})"
    assert json.loads(Path(trained.run.path / "results.json").read_text())["teacher"] == trained.results["teacher"]


def test_stripping_draws_nothing_from_the_random_state():
    model = kdcore.attach_exits("test_resnet_32px", image_size=16)
    before = torch.random.get_rng_state()
    model.strip(1)
    assert torch.equal(before, torch.random.get_rng_state())


def test_settings_that_cannot_be_meant_are_refused(tmp_path):
    with pytest.raises(KdError, match="--taps is empty"):
        split_taps("")
    with pytest.raises(KdError, match="--warmup-epochs 5 leaves nothing of --epochs 1"):
        train(tmp_path / "new", warmup_epochs=5)

"""The weights that a run starts from: runs, files, folders of timm's, and none; teachers, and what the notes say."""

import json
import shutil
from types import SimpleNamespace

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

import kdcore
from kdcore.backbones import create_backbone
from kdcore.composition import compose
from kdcore.config import read_config
from kdcore.errors import DataError, FileError, KdError
from kdcore.notes import composition_notes, cost_notes
from kdcore.optimisation import create_optimizer
from kdcore.preparing import prepare
from kdcore.training import Watch, train
from kdcore.weights import decide_start, load_initial, read_initial

SMALL = {"img_size": 16, "labels_per_class": 8, "epochs": 1, "batch_size": 32, "amp": "none", "channels_last": False, "aug": False}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    path = tmp_path_factory.mktemp("plain") / "run"
    train("test_resnet_32px", "digits", method="plain", run=path, **{**SMALL, "mean": [0.4], "std": [0.3]})
    return path


def prepared(model="test_resnet_32px", data="digits", **settings):
    return prepare(read_config({"model": model, "data": data, **SMALL, **settings}))


# -- a run, or a file, with --init ------------------------------------------------------------------------------------------


def test_a_run_brings_its_weights_and_preprocessing(plain):
    found = prepared(init=str(plain), method="plain", img_size=None)
    assert (found.preprocessing.image_size, found.preprocessing.mean, found.preprocessing.std) == ((16, 16), (0.4,), (0.3,))
    own = found.composition.student.net.state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in load_file(plain / "student.safetensors").items())
    assert found.weights == [f"weights: {plain}, with its preprocessing (16 pixels, its mean and std unless typed), head included"]


def test_what_is_typed_stands(plain):
    found = prepared(init=str(plain), img_size=24, mean=[0.5])
    assert (found.preprocessing.image_size, found.preprocessing.mean, found.preprocessing.std) == ((24, 24), (0.5,), (0.3,))


def test_other_classes_get_a_head_of_their_own(plain, tmp_path):
    copy = shutil.copytree(plain, tmp_path / "copy")
    about = json.loads((copy / "model.json").read_text())
    (copy / "model.json").write_text(json.dumps({**about, "class_names": about["class_names"][::-1]}))
    found = prepared(init=str(copy), method="plain")
    assert found.weights[0].endswith("head drawn anew for 10 classes")
    assert not torch.equal(found.composition.student.net.fc.weight, load_file(copy / "student.safetensors")["fc.weight"])


def test_refusals_of_init(plain, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "weights.pth").write_text("a pickle")
    (tmp_path / "cut.safetensors").write_bytes(b"\0" * 20)
    for spec, kind, line in (
        (tmp_path / "empty", FileError, "there is no student.safetensors in it; give a finished run's folder"),
        (tmp_path / "nowhere", KdError, "there is no such run; only a run's folder"),
        (tmp_path / "weights.pth", KdError, "only a run's folder and .safetensors files are read"),
        (tmp_path / "cut.safetensors", FileError, "cut.safetensors: "),
    ):
        with pytest.raises(kind, match=line):
            read_initial(str(spec))
    with pytest.raises(KdError, match="holds the weights of 'test_resnet_32px', and this run trains 'resnet18_32px'"):
        prepared("resnet18_32px", init=str(plain))


def test_weights_for_another_size_and_other_channels_are_adapted():
    trained = timm.create_model("test_vit", img_size=32, num_classes=5).eval()
    larger = timm.create_model("test_vit", img_size=64, num_classes=7, in_chans=1)
    left = load_initial(larger, trained.state_dict())
    assert left == ["head.weight", "head.bias"]
    assert torch.allclose(larger.patch_embed.proj.weight, trained.patch_embed.proj.weight.sum(1, keepdim=True))
    assert torch.equal(larger.blocks[0].attn.qkv.weight, trained.blocks[0].attn.qkv.weight)
    assert larger.pos_embed.shape != trained.pos_embed.shape
    same = timm.create_model("test_vit", img_size=32, num_classes=5).eval()
    assert load_initial(same, trained.state_dict()) == []
    assert torch.equal(same(torch.ones(1, 3, 32, 32)), trained(torch.ones(1, 3, 32, 32)))
    with pytest.raises(KdError, match="these are not this backbone's weights"):
        load_initial(timm.create_model("test_resnet"), trained.state_dict())


# -- timm's weights by default ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "side", "settings", "wanted", "words"),
    [
        ("test_resnet", 28, {}, False, "none, trained from scratch (images of 28 pixels; --pretrained starts from timm's all the same)"),
        ("test_resnet", 96, {}, True, "timm's test_resnet.r160_in1k (ImageNet)"),
        ("test_resnet", None, {}, True, "timm's test_resnet.r160_in1k (ImageNet)"),
        ("test_resnet", None, {"img_size": 32}, False, "none, trained from scratch (images of 32 pixels"),
        ("test_resnet", 28, {"img_size": 128}, True, "timm's test_resnet"),
        ("test_resnet", 28, {"pretrained": True}, None, "timm's test_resnet"),
        ("test_resnet", 96, {"pretrained": False}, None, "none, trained from scratch"),
        ("test_resnet_32px", 96, {}, False, "none, trained from scratch"),
    ],
)
def test_photo_size_images_start_from_timms_weights(model, side, settings, wanted, words):
    data = SimpleNamespace(train=SimpleNamespace(images=None if side is None else torch.zeros(2, 3, side, side)), class_names=["a", "b"])
    with torch.device("meta"):
        net = create_backbone(model)
    start = decide_start(read_config({"model": model, "data": "x", **settings}), net, data)
    assert start.decisions.get("pretrained") == wanted
    assert start.words.startswith(f"weights: {words}")


def test_weights_that_cannot_be_downloaded_are_one_line():
    with pytest.raises(KdError, match=r"the pretrained weights of 'test_resnet' cannot be loaded .*--scratch.*--init FILE"):
        prepared("test_resnet", img_size=64)


@pytest.mark.parametrize("name", ["hf-hub:nobody/nothing", "local-dir:nowhere"])
def test_a_hub_or_folder_that_cannot_be_read_is_named(name):
    with pytest.raises(KdError, match=f"backbone '{name}' cannot be read: "):
        create_backbone(name)


# -- local-dir, and going on without what a run began with -------------------------------------------------------------------


class Stop(Exception):
    pass


class Stopped(Watch):
    """Stops after so many epochs."""

    def __init__(self, epochs):
        self.left = epochs

    def epoch(self, record):
        self.left -= 1
        if not self.left:
            raise Stop


@pytest.fixture
def folder(tmp_path):
    """A folder as timm writes one for its hub: a backbone of unusual width, with weights of ten classes."""
    net = timm.create_model("test_resnet", num_classes=10, in_chans=1, channels=(16, 24, 32, 40))
    place = tmp_path / "saved"
    place.mkdir()
    save_file(net.state_dict(), place / "model.safetensors")
    own = {"input_size": [1, 16, 16], "mean": [0.5], "std": [0.25], "interpolation": "bicubic", "crop_pct": 1.0}
    own |= {"first_conv": "conv1.0", "classifier": "fc", "num_classes": 10, "tag": "mine"}
    config = {"architecture": "test_resnet", "num_classes": 10, "model_args": {"channels": [16, 24, 32, 40]}, "pretrained_cfg": own}
    (place / "config.json").write_text(json.dumps(config))
    return place


def test_a_local_folder_trains_resumes_loads_and_teaches(folder, tmp_path):
    name, settings = f"local-dir:{folder}", {**SMALL, "img_size": 16, "epochs": 2, "pretrained": True}
    with pytest.raises(Stop):
        train(name, "digits", run=tmp_path / "run", watch=Stopped(1), **settings)
    moved = folder.rename(tmp_path / "elsewhere")  # a run that has begun needs it no more
    trained = train(run=tmp_path / "run", resume=True)
    assert trained.student.backbone.net.layer4[0].conv1.out_channels == 40 or trained.student.backbone.net.num_features == 40
    assert kdcore.load(tmp_path / "run", exit=-1)(torch.zeros(2, 1, 16, 16)).shape == (2, 10)
    assert kdcore.training.evaluate(tmp_path / "run")["test"]
    assert kdcore.loading.load_export(tmp_path / "run" / "student.safetensors")[0].num_features == 40
    moved.rename(folder)
    found = prepared(method="kd", teacher=name)
    assert found.teacher is not None and found.teacher.norm == ((0.5,), (0.25,))
    assert any(f"weights: {name}, head included" in note for note in trained.results["notes"])


GENERATIONS = """
from kdcore import Phase, hookimpl

def two(context):
    yield Phase("one", start="pretrained")
    yield Phase("two", start="pretrained", generation=2)

@hookimpl
def schedules():
    return {"two": two}
"""


def test_a_resumed_run_needs_its_initial_weights_no_more(plain, tmp_path):
    (tmp_path / "phases.py").write_text(GENERATIONS)
    copy = shutil.copytree(plain, tmp_path / "copy")
    settings = {**SMALL, "plugin": [str(tmp_path / "phases.py")], "schedule": "phases.two", "init": str(copy)}
    whole = train("test_resnet_32px", "digits", run=tmp_path / "whole", **settings)
    with pytest.raises(Stop):
        train("test_resnet_32px", "digits", run=tmp_path / "parts", watch=Stopped(1), **settings)
    shutil.rmtree(copy)
    parts = train(run=tmp_path / "parts", resume=True)
    one, other = (load_file(run.run.path / "student.safetensors") for run in (whole, parts))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert [note for note in whole.results["notes"] if "weights:" in note] == [n for n in parts.results["notes"] if "weights:" in n]


# -- teachers and exits that nothing uses -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["plain", "deep-supervision"])
def test_a_teacher_that_no_term_uses_is_refused(plain, method):
    with pytest.raises(KdError, match=f"is used by no part of method '{method}': add --method kd or --loss kl@teacher"):
        prepared(method=method, teacher=str(plain))
    assert prepared(method=method, teacher=str(plain), loss=["kl@teacher"]).teacher is not None


def test_a_teacher_of_other_channels_is_refused(plain):
    with pytest.raises(DataError, match="takes images of 1 channel"):
        prepared(method="kd", teacher=str(plain), mean=[0.5, 0.5, 0.5], std=[0.2, 0.2, 0.2])


def test_exits_that_no_term_trains_are_named():
    notes = composition_notes(compose("test_resnet", "plain", exits="linear", num_classes=3, image_size=32))
    assert notes == ["exits 1, 2, 3 of 4: no term trains them; add --loss ce:1,2,3, or take --method deep-supervision"]
    assert composition_notes(compose("test_resnet", "deep-supervision", num_classes=3, image_size=32)) == []


def test_an_exit_that_costs_more_than_the_deepest_is_named():
    exits = [{"exit": 1, "macs": 12_000_000}, {"exit": 2, "macs": 3_000_000}, {"exit": 3, "macs": 10_000_000}]
    (note,) = cost_notes(exits)
    assert note.startswith("exit 1 costs 12 M multiply-accumulates, more than the deepest one's 10 M")


# -- gradient checkpointing, layer decay ------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["test_resnet", "test_vit", "test_convnext"])
def test_gradients_are_the_same_with_checkpointing(model):
    def gradients(checkpointing):
        task = compose(model, "deep-supervision", num_classes=3, image_size=64, grad_checkpointing=checkpointing).task()
        task.train()
        torch.manual_seed(1)
        task(torch.randn(4, 3, 64, 64), torch.tensor([0, 1, 2, 0]))["loss"].backward()
        return {name: parameter.grad for name, parameter in task.objective.named_parameters() if parameter.requires_grad}

    plain, checkpointed = gradients(False), gradients(True)
    assert plain.keys() == checkpointed.keys()
    for name, gradient in plain.items():
        assert torch.allclose(gradient, checkpointed[name], atol=1e-6), name


def test_a_backbone_without_checkpointing_is_refused():
    net = create_backbone("test_resnet")
    net.set_grad_checkpointing = lambda enable=True: None  # says yes and does nothing
    from kdcore.backbones import checkpoint_gradients

    with pytest.raises(KdError, match="'test_resnet' has no gradient checkpointing: leave out --grad-checkpointing"):
        checkpoint_gradients(net, (64, 64))


def test_layer_decay_reaches_the_backbone_and_not_the_exits():
    composition = compose("test_resnet", "deep-supervision", num_classes=3, image_size=32)
    objective = composition.task().objective
    settings = read_config({"model": "test_resnet", "data": "digits", "layer_decay": 0.5})
    scale = {id(p): group["lr_scale"] for group in create_optimizer(objective, settings).param_groups for p in group["params"]}
    names = {name: scale[id(parameter)] for name, parameter in objective.named_parameters()}
    assert names["model.branches.0.classifier.weight"] == names["model.backbone.net.fc.weight"] == 1
    assert names["model.backbone.net.conv1.0.weight"] < names["model.backbone.net.layer4.0.conv1.weight"] < 1

"""Bad input of the self-distillation plugins: the whole line that a user reads, and what is no error."""

import json
import re
import shutil

import numpy as np
import pytest
import timm
import torch

import kdcore
from kdcore import KdError
from kdcore.errors import DataError
from kdcore.plugins import Plugins

SMALL = {"model": "test_resnet_32px", "img_size": 16, "epochs": 1, "batch_size": 16, "amp": "none", "device": "cpu", "workers": 0}


def label(family: str, name: str) -> str:
    return Plugins().part(family, name).label


def line(kind: type[KdError], function, *args, **options) -> str:
    """The one line with which a call is refused."""
    with pytest.raises(kind) as refused:
        function(*args, **options)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    """42 grey images of seven classes."""
    generator = np.random.default_rng(0)
    images, labels = generator.integers(0, 255, (42, 8, 8)).astype(np.uint8), np.arange(42) % 7
    path = tmp_path_factory.mktemp("data") / "seven.npz"
    np.savez(path, train_images=images, train_labels=labels, val_images=images[:14], val_labels=labels[:14])
    return str(path)


@pytest.fixture(scope="module")
def taught(data, tmp_path_factory):
    return kdcore.train(data=data, method="plain", run=tmp_path_factory.mktemp("runs") / "teacher", **SMALL).run.path


@pytest.fixture
def with_classes(taught, data, tmp_path):
    """The line that refuses the teacher, had it been trained on these classes. Seven are the data's: 0 to 6."""

    def refused(names: list[str]) -> str:
        other = tmp_path / "other"
        shutil.copytree(taught, other)
        about = json.loads((other / "model.json").read_text())
        (other / "model.json").write_text(json.dumps({**about, "class_names": names}))
        found = line(
            DataError, kdcore.train, data=data, method="osakd", loss=["kl@teacher"], teacher=str(other), run=tmp_path / "run", **SMALL
        )
        assert not (tmp_path / "run").exists()
        return found.replace(str(other), "TEACHER")

    return refused


# -- a teacher's classes ----------------------------------------------------------------------------------------------------------


def test_a_teacher_of_another_number_of_classes(with_classes):
    assert with_classes(list("012345")) == (
        "the teacher TEACHER was trained on other classes (0, 1, 2, 3, 4 and 1 more) than the data's (0, 1, 2, 3, 4 and 2 more)"
    )


def test_a_teacher_of_the_same_classes_in_another_order(with_classes):
    """They differ beyond the names that are shown."""
    assert with_classes(list("0123465")) == (
        "the teacher TEACHER was trained on other classes (0, 1, 2, 3, 4 and 2 more) than the data's (0, 1, 2, 3, 4 and 2 more), "
        "the same in another order: class 5 is '6' there and '5' here"
    )


def test_a_teacher_of_as_many_other_classes(with_classes):
    assert with_classes(list("012345x")) == (
        "the teacher TEACHER was trained on other classes (0, 1, 2, 3, 4 and 2 more) than the data's (0, 1, 2, 3, 4 and 2 more): "
        "class 6 is 'x' there and '6' here"
    )


def test_a_teacher_module_of_another_number_of_classes():
    teacher = timm.create_model("test_resnet", num_classes=4)
    found = line(KdError, kdcore.compose, "test_resnet", "kd", num_classes=3, image_size=32, teacher=teacher)
    assert found == f"{label('losses', 'kl')}: soft targets 'teacher' have 4 classes and an exit that imitates them has 3"


# -- classes and their order ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["mango", "osakd", "tfkd.reg", "byot"])
def test_a_batch_of_one_class_trains(method):
    composition = kdcore.compose("test_resnet_32px", method, num_classes=4, image_size=16, batch_size=16)
    task = composition.task().train()
    answer = task(torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.full((16,), 2), torch.arange(16))
    answer["loss"].backward()
    assert answer["loss"].isfinite() and all(p.grad.isfinite().all() for p in task.parameters() if p.grad is not None)
    triplets = {name: answer[name].item() for name in answer if name.startswith(("triplet", "ordinal"))}
    assert triplets == (dict.fromkeys(("triplet_deepest", "triplet", "ordinal_deepest", "ordinal"), 0.0) if method == "mango" else {})


@pytest.mark.parametrize("more", [{"method": "mango", "options": {"order": [0, 2, 3]}}, {"method": "iskd", "losses": ["mango.ordinal"]}])
def test_an_order_that_does_not_match_the_classes(more):
    options = more.get("options", {"mango.ordinal.order": [0, 2, 3]})
    found = line(KdError, kdcore.compose, "test_resnet", num_classes=3, image_size=32, **{**more, "options": options})
    assert found == (
        "mango.ordinal: order=[0, 2, 3] is no order of the 3 classes: name each of 0 to 2 once, from the lowest grade to the highest"
    )


# -- options and weights ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "option", "default"),
    [
        ("kd", "alpha", "default 0.9"),
        ("byot", "alpha", "or none, default None"),
        ("iskd", "alpha", "default 0.5"),
        ("iskd.tfkd-self", "alpha", "default 0.5"),
        ("tfkd.reg", "alpha", "or none, default None"),
        ("tfkd.self", "alpha", "or none, default None"),
        ("osakd", "lam", "default 0.9"),
        ("mango", "alpha", "default 0.005"),
    ],
)
@pytest.mark.parametrize(
    ("value", "refusal"), [(1.5, "it should be less than or equal to 1"), (-0.1, "it should be greater than or equal to 0")]
)
def test_alpha_outside_0_to_1(method, option, default, value, refusal):
    found = line(KdError, kdcore.compose, "test_resnet", method, num_classes=3, options={option: value}, image_size=32)
    described = f"{option}: float >= 0 <= 1{' ' if default.startswith('or') else ', '}{default}"
    assert found == f"{label('methods', method)}: {option}={value} is refused: {refusal} ({described})"


@pytest.mark.parametrize("more", [{"method": "iskd"}, {"method": "byot", "schedule": "iskd.generations", "loss": ["kl@teacher"]}])
def test_generations_that_start_pretrained_without_weights(more, data, tmp_path):
    found = line(KdError, kdcore.train, data=data, run=tmp_path / "run", **SMALL, **more)
    assert found == (
        f"{label('schedules', 'iskd.generations')} starts from pretrained weights and this run has none: "
        "add --pretrained, or --init RUN, or -o iskd.generations.start=fresh"
    )
    assert not (tmp_path / "run").exists()


# -- parts that do not meet -------------------------------------------------------------------------------------------------------


def test_a_teacher_that_nobody_reads(taught, data, tmp_path):
    found = line(KdError, kdcore.train, data=data, method="byot", teacher=str(taught), run=tmp_path / "run", **SMALL)
    assert found.startswith(
        f"--teacher {taught} is used by no part of method 'byot': add --method kd or --loss kl@teacher, or leave it out"
    )


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (
            {"method": "byot", "soft_targets": "osakd.knn"},
            r"byot\.hint.* reads embeddings, which the soft targets 'osakd\.knn' do not give",
        ),
        ({"method": "osakd", "soft_targets": "deepest"}, r"soft targets 'deepest' .* needs at least 2 exits, .*add --exits linear"),
        ({"method": "osakd", "losses": ["mango.triplet:shallow"]}, r"mango\.triplet.* is for shallow exits .*add --exits linear"),
        (
            {"method": "plain", "soft_targets": "osakd.knn"},
            r"no term of method 'plain' has soft targets; add one with --loss kl@osakd\.knn",
        ),
        (
            {"method": "tfkd.reg", "losses": ["mse@tfkd.virtual"], "options": {"mse.space": "logits"}},
            r"mse.* reads logits, which .*virtual",
        ),
    ],
)
def test_soft_targets_that_a_loss_cannot_read(more, says):
    assert re.search(says, line(KdError, kdcore.compose, "test_resnet_32px", num_classes=4, image_size=16, **more))

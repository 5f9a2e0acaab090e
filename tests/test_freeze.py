"""`--freeze`: exits train on a backbone that stays as it is, bit for bit, in memory, in checkpoints and in what is exported."""

import pytest
import torch
from safetensors.torch import load_file

import kdcore
from kdcore.checkpoints import load_tensors
from kdcore.composition import compose
from kdcore.errors import KdError
from kdcore.loading import build_student, load_student, read_run_config
from kdcore.training import train

SMALL = {"img_size": 16, "labels_per_class": 13, "epochs": 2, "batch_size": 32, "amp": "none", "channels_last": False, "aug": False}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A run of the backbone alone, whose weights are frozen afterwards."""
    path = tmp_path_factory.mktemp("plain") / "run"
    train("test_resnet_32px", "digits", method="plain", run=path, **SMALL)
    return path


def images():
    return torch.linspace(-2, 2, 4 * 256).view(4, 1, 16, 16)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"epochs": 1, "model_ema": True, "model_ema_decay": 0.7, "drop": 0.5, "opt": "adamw", "layer_decay": 0.5},
        {"method": "byot", "epochs": 1},
    ],
    ids=["plain", "average", "byot"],
)
def test_the_last_exit_is_the_untouched_backbone_to_the_bit(plain, tmp_path, more):
    settings = {"method": "deep-supervision", **SMALL, **more}
    trained = train("test_resnet_32px", "digits", init=str(plain), freeze=True, run=tmp_path / "frozen", **settings)
    path = trained.run.path
    with torch.no_grad():
        wanted = kdcore.load(plain, exit=-1)(images())
        assert torch.equal(kdcore.load(plain)(images()).logits[-1], wanted)
        assert torch.equal(kdcore.load(path)(images()).logits[-1], wanted)
        assert torch.equal(kdcore.load(path, exit=-1)(images()), wanted)
    before, after = load_file(plain / "student.safetensors"), load_file(path / "student.safetensors")
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    saved, _ = load_tensors(trained.run.absolute(trained.results["checkpoints"]["last"]))
    for prefix in ("student.", "ema.student.") if "model_ema" in more else ("student.",):
        assert all(torch.equal(saved[f"{prefix}backbone.net.{name}"], tensor) for name, tensor in before.items())


def test_the_shallow_exits_train(plain, tmp_path):
    trained = train("test_resnet_32px", "digits", init=str(plain), freeze=True, run=tmp_path / "frozen", **SMALL)
    student, about = load_student(tmp_path / "frozen")
    drawn = build_student(read_run_config(trained.run), about)
    assert all(not torch.equal(new, old) for new, old in zip(student.branches.parameters(), drawn.branches.parameters(), strict=True))
    first, last = (trained.run.metrics()[k]["train"]["ce"] for k in (0, -1))
    assert last < first


TWO_PHASES = """
from kdcore import Phase, hookimpl

def two(context):
    yield Phase("one")
    yield Phase("two", start="{start}")

@hookimpl
def schedules():
    return {{"two": two}}
"""


@pytest.mark.parametrize("start", ["fresh", "pretrained"])
def test_every_phase_of_a_schedule_keeps_it(plain, tmp_path, start):
    (tmp_path / "phases.py").write_text(TWO_PHASES.format(start=start))
    more = {**SMALL, "epochs": 1, "plugin": [str(tmp_path / "phases.py")], "schedule": "phases.two"}
    train("test_resnet_32px", "digits", init=str(plain), freeze=True, run=tmp_path / "frozen", **more)
    before, after = load_file(plain / "student.safetensors"), load_file(tmp_path / "frozen" / "student.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_best_epoch_is_chosen_by_the_exits_that_train(plain, tmp_path):
    trained = train("test_resnet_32px", "digits", init=str(plain), freeze=True, run=tmp_path / "run", **{**SMALL, "epochs": 3})
    means = [sum(record["dev"][f"exit{k}/top1"] for k in (1, 2, 3)) / 3 for record in trained.run.metrics()]
    assert len({record["dev"]["top1"] for record in trained.run.metrics()}) == 1
    assert trained.results["best"]["epoch"] == means.index(max(means)) + 1
    assert trained.results["delivered"] == "best on dev (mean top-1 of the exits but the last, which is frozen)"


def test_only_exits_are_free_and_the_backbone_stands_still():
    task = compose("test_resnet", "deep-supervision", num_classes=3, image_size=32, freeze=True).task()
    task.train()
    free = {name.split(".")[1] for name, parameter in task.objective.named_parameters() if parameter.requires_grad}
    assert free == {"branches"}
    assert not any(module.training for module in task.objective.model.backbone.net.modules())
    assert task.objective.model.branches.training


@pytest.mark.parametrize("exits", [None, "linear"])
def test_a_method_that_trains_the_head_alone_is_refused(plain, exits):
    with pytest.raises(KdError, match=r"trains nothing.*--freeze keeps the backbone as it is: add --exits linear"):
        train("test_resnet_32px", "digits", method="plain", exits=exits, init=str(plain), freeze=True, **SMALL)


def test_without_weights_it_is_refused():
    with pytest.raises(KdError, match=r"--freeze keeps the backbone's weights, and this run has none: give trained ones with --init RUN"):
        train("test_resnet_32px", "digits", freeze=True, **SMALL)


def test_a_head_that_stays_random_is_said_aloud(plain, tmp_path):
    weights = {name: tensor for name, tensor in load_file(plain / "student.safetensors").items() if not name.startswith("fc.")}
    from safetensors.torch import save_file

    save_file(weights, tmp_path / "headless.safetensors")
    config = kdcore.config.read_config(
        {"model": "test_resnet_32px", "data": "digits", "init": str(tmp_path / "headless.safetensors"), "freeze": True, **SMALL}
    )
    from kdcore.preparing import prepare

    notes = prepare(config).notes
    assert any("head drawn anew for 10 classes" in note for note in notes)
    assert any("the last exit's head is random and stays so" in note for note in notes)

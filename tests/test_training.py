"""Whole runs: killed anywhere they resume to the same numbers, and their folder is all that is needed to repeat or use them."""

import json
import shutil
import tomllib

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file
from sklearn.datasets import load_digits

import kdcore
from kdcore import KdError
from kdcore.errors import DataError, FileError
from kdcore.training import Trained, Watch

SMALL = {
    "labels_per_class": 10,
    "epochs": 2,
    "img_size": 16,
    "batch_size": 32,
    "amp": "none",
    "channels_last": False,
    "device": "cpu",
}
TIMES = ("minutes", "seconds_this_time", "estimated_minutes")


def train(run, data="digits", **settings) -> Trained:
    return kdcore.train("test_resnet_32px", data, run=run, **{**SMALL, **settings})


class Stop(KeyboardInterrupt):
    pass


class Killed(Watch):
    """Ends the process, so to say, after an epoch (or in the step that follows it)."""

    def __init__(self, epoch: int, phase: int = 1) -> None:
        self.left = epoch
        self.number, self.at = 0, phase

    def phase(self, phase, number, epochs) -> None:
        self.number = number

    def epoch(self, record) -> None:
        self.left -= self.number == self.at
        if self.left == 0 and self.number == self.at:
            raise Stop


def killed(run, epoch: int, phase: int = 1, **settings) -> None:
    with pytest.raises(Stop):
        train(run, watch=Killed(epoch, phase), **settings)
    assert not (run / "results.json").exists()


def without_times(value):
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items() if key not in TIMES}
    return [without_times(item) for item in value] if isinstance(value, list) else value


def assert_same_run(one: Trained, other: Trained) -> None:
    """The same numbers: results, every line of the metrics, every tensor of every checkpoint."""
    assert without_times(one.results) == without_times(other.results)
    assert without_times(one.run.metrics()) == without_times(other.run.metrics())
    names = sorted(path.relative_to(one.run.path) for path in one.run.path.rglob("*.safetensors"))
    assert names == sorted(path.relative_to(other.run.path) for path in other.run.path.rglob("*.safetensors")) and len(names) >= 2
    for name in names:
        a, b = load_file(one.run.path / name), load_file(other.run.path / name)
        assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a), name


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Trained:
    """Deep supervision, two epochs, which many tests look at and none changes."""
    return train(tmp_path_factory.mktemp("finished") / "run", method="deep-supervision", seed=1)


@pytest.fixture(scope="module")
def few(tmp_path_factory) -> str:
    """A few of the digits, so that runs which only have to be equal take no longer than they must."""
    read = load_digits()
    pixels = (read.images * 15).astype(np.uint8)
    splits = {"train": slice(0, 100), "val": slice(100, 140), "test": slice(140, 200)}
    path = tmp_path_factory.mktemp("data") / "few.npz"
    arrays = {f"{name}_images": pixels[part] for name, part in splits.items()}
    np.savez(path, **arrays, **{f"{name}_labels": read.target[part][:, None] for name, part in splits.items()})
    return str(path)


@pytest.fixture(scope="module")
def seen_images(finished):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(4, *_input(finished), generator=generator)


def _input(trained: Trained) -> tuple[int, int, int]:
    about = json.loads((trained.run.path / "model.json").read_text())["preprocessing"]
    return (about["in_chans"], *about["image_size"])


# -- resuming ---------------------------------------------------------------------------------------------------------------------

TWO_PHASES = """
import torch
from torch import nn
from kdcore import CE, KL, Method, Phase, Term, hookimpl, linear, teacher

class Hint(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lazy = nn.LazyLinear(8)
        self.register_buffer("count", torch.zeros(()))

    def forward(self, step, targets=None):
        return self.lazy(step.outputs.embeddings[0]).square().mean()

    def after_step(self):
        self.count += 1

def generations(context):
    first = yield Phase("hint", epochs=1, trains=("student", "losses"), terms=("hint",))
    second = yield Phase("teach", epochs=2, terms=("ce",))
    yield Phase("learn", epochs=2, start="fresh", teacher=second.best_checkpoint, terms={"ce": 0.5, "kd": 0.5}, generation=2)

generations.provides = ("teacher",)

def born_again():
    terms = {"hint": Term(Hint), "ce": Term(CE()), "kd": Term(KL(), source="teacher")}
    return Method(exits=linear, sources={"teacher": teacher}, terms=terms, schedule=generations)

@hookimpl
def methods():
    return {"born": born_again}
"""

VARIANTS = {
    "sgd": {"method": "byot"},
    "adamw, average": {"opt": "adamw", "lr": 1e-3, "model_ema": True, "model_ema_decay": 0.8, "model_ema_warmup": True, "drop": 0.2},
    "accumulated, clipped, layer decay": {"batch_size": 16, "grad_accum_steps": 2, "clip_grad": 0.5, "layer_decay": 0.7, "hflip": 0.5},
    "multistep, stochastic depth": {
        "sched": "multistep",
        "decay_milestones": [1, 2],
        "drop_path": 0.2,
        "warmup_epochs": 1,
        "crop_pad": 2,
        "smoothing": 0.1,
        "method": "deep-supervision",
        "loss": ["kl@mean-of-exits:shallow=0.3"],
    },
}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_run_that_was_killed_resumes_to_the_same_numbers(tmp_path, few, name):
    settings = {"data": few, "labels_per_class": None, "epochs": 3, **VARIANTS[name]}
    whole = train(tmp_path / "whole", **settings)
    killed(tmp_path / "parts", 1, **settings)
    torch.rand(7)  # another process has another state
    with pytest.raises(Stop):
        kdcore.train(run=tmp_path / "parts", resume=True, watch=Killed(1))
    assert len(list((tmp_path / "parts").rglob("epoch-*.safetensors"))) <= 2
    assert_same_run(whole, kdcore.train(run=tmp_path / "parts", resume=True))


def test_a_run_of_several_phases_resumes_in_any_of_them(tmp_path, few):
    (tmp_path / "again.py").write_text(TWO_PHASES)
    settings = {"method": "again.born", "plugin": [str(tmp_path / "again.py")], "data": few, "labels_per_class": None}
    whole = train(tmp_path / "whole", **settings)
    assert [record["phase"] for record in whole.run.metrics()] == ["hint", "teach", "teach", "learn", "learn"]
    assert whole.results["phase"] == "learn"
    killed(tmp_path / "parts", 1, phase=1, **settings)
    for epochs, phase in ((1, 2), (1, 3)):
        with pytest.raises(Stop):
            kdcore.train(run=tmp_path / "parts", resume=True, watch=Killed(epochs, phase))
    assert_same_run(whole, kdcore.train(run=tmp_path / "parts", resume=True))
    assert (tmp_path / "parts" / "phases.json").exists()

    (tmp_path / "parts" / "plugins" / "again.py").write_text(TWO_PHASES.replace('Phase("teach", epochs=2', 'Phase("teach", epochs=1'))
    (tmp_path / "parts" / "results.json").unlink()
    with pytest.raises(KdError, match="yields phase 2 as 'teach' otherwise than this run recorded it: was the plugin changed"):
        kdcore.train(run=tmp_path / "parts", resume=True)


def test_a_finished_run_that_is_resumed_stays_as_it_is(tmp_path, finished):
    shutil.copytree(finished.run.path, tmp_path / "copy")
    assert_same_run(finished, kdcore.train(run=tmp_path / "copy", resume=True))


def test_a_torn_checkpoint_is_passed_over(tmp_path, few):
    settings = {"data": few, "labels_per_class": None}
    whole = train(tmp_path / "whole", **settings)
    killed(tmp_path / "parts", 1, **settings)
    [path] = (tmp_path / "parts").rglob("epoch-0001.json")
    path.with_name("epoch-0002.safetensors").write_bytes(b"")  # its JSON was never written
    assert_same_run(whole, kdcore.train(run=tmp_path / "parts", resume=True))


# -- seeds ------------------------------------------------------------------------------------------------------------------------


def test_the_seed_is_what_decides(tmp_path, finished):
    other = train(tmp_path / "other", method="deep-supervision", seed=2, epochs=1)
    assert other.run.metrics()[0]["train"] != finished.run.metrics()[0]["train"]


def test_the_configuration_repeats_the_run(tmp_path, finished):
    torch.manual_seed(77)
    config = tomllib.loads((finished.run.path / "config.toml").read_text())
    assert_same_run(finished, kdcore.train(run=tmp_path / "again", **config))


# -- the folder -------------------------------------------------------------------------------------------------------------------


def test_a_run_folder_holds_all_that_is_needed(finished):
    path = finished.run.path
    files = {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()}
    assert {"config.toml", "environment.json", "metrics.jsonl", "phases.json", "model.json", "results.json", "student.safetensors"} <= files
    rest = [file for file in files if file.startswith("checkpoints/")]
    assert rest and all(file.startswith("checkpoints/01-main/epoch-000") for file in rest)
    assert {file for file in files if "tmp" in file} == set()

    config = finished.run.config()
    assert "lr" not in config and config["amp"] == "none" and config["channels_last"] is False
    environment = json.loads((path / "environment.json").read_text())
    assert environment["versions"]["torch"] and environment["plugins"][0]["name"] == "kdcore"
    about = json.loads((path / "model.json").read_text())
    assert about["class_names"] == [str(k) for k in range(10)] and about["num_classes"] == 10
    costs = about["exits"]
    assert [cost["exit"] for cost in costs] == [1, 2, 3, 4]
    assert sorted(cost["parameters"] for cost in costs) == [cost["parameters"] for cost in costs] and costs[0]["macs"] < costs[3]["macs"]

    records = finished.run.metrics()
    assert [(record["phase"], record["epoch"], record["epochs"]) for record in records] == [("main", 1, 2), ("main", 2, 2)]
    assert records[0]["lr"] == pytest.approx(0.1 * 32 / 256)
    assert set(records[0]["train"]) == {"loss", "ce"} and {"top1", "exit1/top1", "ensemble/top1"} <= set(records[0]["dev"])
    results = finished.results
    assert results["samples"]["train"] == 100 and results["samples"]["test"] >= 300 and results["seed"] == 1
    for which in ("last", "best"):
        assert set(results[which]) == {"epoch", "dev", "test"}
    assert results["delivered"].startswith("best on dev") and finished.run.results() == results


def test_the_test_set_selects_nothing(tmp_path, few, monkeypatch):
    """Dev is best at the first epoch by decree; what is delivered is that epoch, whatever the test set says."""
    from kdcore.phase_run import PhaseState

    values = iter([0.9, 0.1])
    monkeypatch.setattr(PhaseState, "evaluate", lambda state: {"top1": next(values)})
    trained = train(tmp_path / "run", few, labels_per_class=None)
    assert trained.results["checkpoints"]["delivered"] == trained.results["checkpoints"]["best"]
    assert trained.results["best"]["epoch"] == 1 and trained.results["last"]["epoch"] == 2


def test_without_a_dev_split_the_last_epoch_is_delivered(tmp_path):
    trained = train(tmp_path / "run", dev_fraction=0.0)
    assert trained.results["delivered"].startswith("last epoch") and "dev" not in trained.results["last"]
    assert trained.results["checkpoints"]["delivered"] == trained.results["checkpoints"]["last"]


# -- what is delivered ------------------------------------------------------------------------------------------------------------


def test_the_student_is_an_ordinary_timm_checkpoint(finished, seen_images):
    path = finished.run.path / "student.safetensors"
    build = {"num_classes": 10, "in_chans": seen_images.shape[1]}
    net = timm.create_model("test_resnet_32px", **build, checkpoint_path=str(path)).eval()
    other = timm.create_model("test_resnet_32px", **build).eval()
    other.load_state_dict(load_file(path))
    with torch.no_grad():
        wanted = kdcore.load(finished.run.path)(seen_images).logits[-1]
        assert torch.equal(net(seen_images), wanted) and torch.equal(other(seen_images), wanted)


def test_a_run_is_loaded_whole_or_by_exit(finished, seen_images):
    model = kdcore.load(finished.run.path)
    assert not any(module.training for module in model.modules())
    with torch.no_grad():
        outputs = model(seen_images)
        for number in (1, 3, 4):
            assert torch.equal(kdcore.load(finished.run.path, exit=number)(seen_images), outputs.logits[number - 1])
        assert torch.equal(kdcore.load(finished.run.path, exit=-1)(seen_images), outputs.logits[-1])
        assert torch.equal(finished.student(seen_images).logits[0], outputs.logits[0])
    with pytest.raises(KdError, match="there is no exit 5"):
        kdcore.load(finished.run.path, exit=5)


def test_a_run_is_evaluated_to_the_same_numbers(finished):
    answer = kdcore.evaluate(finished.run.path)
    assert answer["test"] == finished.results["best"]["test"] and answer["dev"] == finished.results["best"]["dev"]
    assert kdcore.evaluate(finished.run.path, which="last")["test"] == finished.results["last"]["test"]


def test_what_is_no_run_or_not_finished(tmp_path):
    with pytest.raises(FileError, match="there is no run folder"):
        kdcore.load(tmp_path / "none")
    with pytest.raises(FileError, match="is not a run folder"):
        kdcore.evaluate(tmp_path)
    killed(tmp_path / "run", 1)
    with pytest.raises(FileError, match=r"is not finished; continue it with kd train --run .* --resume"):
        kdcore.load(tmp_path / "run")


# -- teachers ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["run", "file"])
def test_a_run_teaches_another(tmp_path, finished, which):
    spec = finished.run.path if which == "run" else finished.run.path / "student.safetensors"
    before = load_file(finished.run.path / "student.safetensors")
    trained = train(tmp_path / "run", method="kd", teacher=str(spec), epochs=1)
    assert set(trained.run.metrics()[0]["train"]) == {"loss", "ce", "kd"}
    after = load_file(finished.run.path / "student.safetensors")
    assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_a_teacher_that_cannot_teach_is_refused_before_a_folder_is_made(tmp_path, finished):
    shutil.copytree(finished.run.path, tmp_path / "other")
    about = json.loads((tmp_path / "other" / "model.json").read_text())
    about["class_names"] = [f"class {k}" for k in range(10)]
    (tmp_path / "other" / "model.json").write_text(json.dumps(about))
    for teacher, says, kind in [
        (str(tmp_path / "other"), "was trained on other classes .class 0, class 1", DataError),
        ("resnet18", "timm's weights know 1000 classes and the data has 10", KdError),
        (str(tmp_path / "none"), "there is no such run or file", KdError),
        ("nothere", "--teacher nothere: there is no such run or file here, and as a backbone: there is no backbone 'nothere'", KdError),
        (None, "needs a teacher: add --teacher", KdError),
    ]:
        with pytest.raises(kind, match=says):
            train(tmp_path / "run", method="kd", teacher=teacher)
        assert not (tmp_path / "run").exists()


# -- refusals ---------------------------------------------------------------------------------------------------------------------


def test_an_existing_run_is_not_overwritten(finished):
    with pytest.raises(KdError, match="already holds a run; add --resume"):
        train(finished.run.path)


def test_resuming_with_another_setting_is_refused(tmp_path, finished):
    shutil.copytree(finished.run.path, tmp_path / "run")
    with pytest.raises(KdError, match="its epochs is 2, not 9; leave it out"):
        kdcore.train(run=tmp_path / "run", resume=True, epochs=9)
    with pytest.raises(KdError, match="--resume needs the run's folder"):
        kdcore.train(resume=True)
    with pytest.raises(FileError, match="there is no run folder"):
        kdcore.train(run=tmp_path / "nowhere", resume=True)
    kdcore.train("test_resnet_32px", "digits", run=tmp_path / "run", resume=True, epochs=2)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"ecphos": 2}, "there is no setting 'ecphos'; did you mean 'epochs'?"),
        ({"epochs": 0}, "--epochs 0 is refused"),
        ({"lr": "fast"}, "--lr 'fast' is refused"),
        ({"method": "byto"}, "there is no method 'byto'; did you mean 'byot'?"),
        ({"opt": "sgdd"}, "--opt sgdd"),
        ({"sched": "cosin"}, "--sched cosin"),
        ({"sched": "plateau"}, "--sched plateau: "),
        ({"taps": "layr2"}, "did you mean 'layer2'?"),
        ({"pretrained": True}, "timm has no pretrained weights for 'test_resnet_32px'"),
        ({"options": {"alpha": 1}}, "has no option 'alpha'"),
        ({"device": "gpu"}, "--device gpu"),
        ({"init": "weights.pth"}, "only a run's folder and .safetensors files are read"),
        ({"init": "none.safetensors"}, "--init none.safetensors"),
    ],
)
def test_bad_settings_are_one_line_and_leave_nothing(tmp_path, settings, says):
    with pytest.raises(KdError) as error:
        train(tmp_path / "run", **settings)
    assert says in str(error.value) and "\n" not in str(error.value) and not (tmp_path / "run").exists()


def test_an_option_that_is_none_survives_the_configuration(tmp_path):
    from kdcore.config import read_config
    from kdcore.runs import Run

    run = Run.create(tmp_path / "run", stem="")
    run.write_config(read_config({"model": "m", "data": "d", "options": {"a.b": None, "c": 1}}).model_dump(exclude_none=True))
    assert read_config(run.config()).options == {"a.b": "none", "c": 1}


def test_a_backbone_that_does_not_exist(tmp_path):
    with pytest.raises(KdError, match="there is no backbone 'resnet81'; did you mean"):
        kdcore.train("resnet81", "digits", run=tmp_path / "run")


def test_a_loss_that_is_no_longer_finite_says_what_to_do(tmp_path):
    with pytest.raises(KdError, match=r"the loss is (nan|inf) in epoch . of phase 'main': try a smaller --lr, or --clip-grad 1"):
        train(tmp_path / "run", lr=1e12)


def test_a_small_set_shrinks_the_batch_and_says_so(tmp_path):
    class Notes(Watch):
        def __init__(self):
            self.notes = []

        def note(self, text):
            self.notes.append(text)

    watch = Notes()
    train(tmp_path / "run", labels_per_class=2, epochs=1, watch=watch)
    assert any("there are 20 training images, fewer than a batch of 32: the batch shrinks to 20" in note for note in watch.notes)


def test_init_starts_from_given_weights(tmp_path, finished):
    path = finished.run.path / "student.safetensors"
    trained = train(tmp_path / "run", init=str(path), lr=1e-9, epochs=1, method="plain")
    before, after = load_file(path), load_file(trained.run.path / "student.safetensors")
    assert all(
        torch.allclose(before[name], after[name], atol=1e-5)
        for name in before
        if "running" not in name and before[name].is_floating_point()
    )


# -- schedules --------------------------------------------------------------------------------------------------------------------

OPTIMISERS = """
from kdcore import CE, Method, Phase, Term, hookimpl

def phases(context):
    yield Phase("plain", epochs=1, optim={"decay_milestones": (1, 5)})
    yield Phase("adaptive", epochs=1, optim={"opt": "adamw"})
    result = yield Phase("base", epochs=2, optim={"lr_base": 0.2, "sched": "multistep", "decay_milestones": (2, 5)})
    return result

def two():
    return Method(terms={"ce": Term(CE())}, schedule=phases)

@hookimpl
def methods():
    return {"two": two}
"""


def test_a_phases_optimiser_has_its_own_rate_and_tuples_resume(tmp_path, few):
    (tmp_path / "mine.py").write_text(OPTIMISERS)
    settings = {"method": "mine.two", "plugin": [str(tmp_path / "mine.py")], "data": few, "labels_per_class": None}
    killed(tmp_path / "run", 1, phase=3, **settings)
    trained = kdcore.train(run=tmp_path / "run", resume=True)
    ratio = 32 / 256
    assert [record["lr"] for record in trained.run.metrics()] == pytest.approx(
        [0.1 * ratio, 0.1 * 0.01 * ratio**0.5, 0.2 * ratio, 0.02 * ratio]
    )
    typed = train(tmp_path / "typed", lr=0.03, **settings)
    assert [record["lr"] for record in typed.run.metrics()] == pytest.approx([0.03, 0.03, 0.03, 0.003])


def test_a_schedule_that_fails_in_a_run_is_one_line(tmp_path, few):
    """In rehearsal results keep improving; here the real one does not please it."""
    source = OPTIMISERS.replace(
        "    return result\n", "    return [result][int(result.metrics['top1'] != 32.0 and result.metrics['top1'] != 33.0)]\n"
    )
    (tmp_path / "mine.py").write_text(source)
    with pytest.raises(KdError, match=r"^schedule of method 'mine.two' .* failed: IndexError: list index out of range \(mine.py:8\)$"):
        train(tmp_path / "run", data=few, labels_per_class=None, method="mine.two", plugin=[str(tmp_path / "mine.py")])

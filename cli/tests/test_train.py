"""`kd train`, `kd plan` and `kd eval` on runs of an epoch or two."""

import io
import json
import tomllib
from pathlib import Path

import pytest

SHORT = "test_resnet_32px --data digits --img-size 16 --labels-per-class 13 --amp none --no-channels-last"
PENALTY = '''
from kdcore import hookimpl

def flat(step, targets, *, power: float = 2.0):
    """Logits that stay small."""
    return sum(logits.abs().pow(power).mean() for logits in step.outputs.logits)

@hookimpl
def losses():
    return {"flat": flat}
'''


def config(run):
    return tomllib.loads(Path(run, "config.toml").read_text())


def results(run):
    found = json.loads(Path(run, "results.json").read_text())
    return {name: found[name] for name in ("best", "last", "checkpoints")}


def test_a_run_says_what_it_does_and_what_comes_next(train):
    done = train("--run", "my run")
    first, *more = done.stderr.splitlines()
    assert first.startswith(
        "deep-supervision on test_resnet_32px (from scratch): train 130, dev 80, test 1000 images of 16x16, 10 classes; 1 epoch;"
    )
    assert first.endswith("cpu, float32; my run")
    assert any(line.startswith("epoch 1/1  loss ") and "dev exit1 " in line and "images/s" in line for line in more)
    for word in ("delivered: best on dev and last (epoch 1)", "ensemble, fitted on dev", "parameters", "MACs", "NLL", "top-5", "ECE"):
        assert word in done.stdout
    assert max(len(line) for line in done.stdout.splitlines() if " M " in line or "ensemble" in line) <= 100
    assert "'my run'/student.safetensors" in done.stdout and "kd eval 'my run'" in done.stdout
    assert Path("my run/student.safetensors").is_file()


def test_last_and_best_are_labelled(kd):
    from kdcli.tables import console, results_table

    entry = {"exit": 1, "top1": 50.0, "top5": 90.0, "nll": 1.0, "ece": 3.0}
    split = {"exits": [entry], "ensembles": {}}
    found = {"checkpoints": {"best": "b", "last": "l", "delivered": "b"}}
    found |= {"best": {"epoch": 12, "dev": split, "test": split}, "last": {"epoch": 30, "dev": split, "test": split}}
    out = console()
    with out.capture() as printed:
        out.print(results_table(found, [{"exit": 1, "parameters": 1234567, "macs": 999}]))
    for word in ("delivered: best on dev (epoch 12)", "last (epoch 30)", "1.23 M", "999"):
        assert word in printed.get()


def test_metrics_of_plugins_stand_below_and_in_the_report():
    from kdcli.tables import console, results_table
    from kdcore.report.tables import exits_tables

    entry = {"exit": 1, "top1": 50.0, "nll": 1.0, "ece": 3.0, "recall": {"a": 1.0}, "confusion": [[1]]}
    own = {"mine.brier": 0.25, "mine.grades": {"mean_error": 1.5, "kappa": None, "by_class": [1, 2]}}
    split = {"exits": [entry | own], "ensembles": {"fitted": {**entry, **own, "weights": [1.0]}}}
    checkpoint = {"epoch": 1, "test": split}
    found = {"checkpoints": {"best": "b", "last": "l", "delivered": "b"}, "best": checkpoint, "last": checkpoint}
    out = console()
    with out.capture() as printed:
        out.print(results_table(found, []))
    table = printed.get().partition("metrics of plugins on test\n")[2].splitlines()
    assert [line.split() for line in table[-2:]] == [["1", "0.25", "1.5", "-"], ["ensemble,", "fitted", "on", "dev", "0.25", "1.5", "-"]]
    metrics = exits_tables(found, [])["metrics"]
    assert metrics["headings"] == ["exit", "mine.brier", "mine.grades mean_error", "mine.grades kappa"]
    assert metrics["rows"][0] == ["exit 1", 0.25, 1.5, None]
    assert set(exits_tables(found | {"best": {"epoch": 1, "test": {"exits": [entry], "ensembles": {}}}}, [])) == {"exits"}


def test_without_a_dev_split_the_last_epoch_is_delivered(train):
    done = train("--dev-fraction", "0", "--method", "plain", "--run", "mine")
    assert "delivered: last (epoch 1); there is no dev split" in done.stdout
    heading = " ".join(done.stdout.splitlines()[:2])
    assert "test" in heading and "top-1" in heading and "dev" not in heading


def test_a_table_of_nothing_measured():
    from rich.console import Console

    from kdcli.tables import results_table

    console = Console(file=io.StringIO())
    console.print(
        results_table({"last": {"epoch": 3}, "best": {"epoch": 3}, "checkpoints": dict.fromkeys(("last", "best", "delivered"), "c")}, [])
    )
    assert console.file.getvalue() == "There is neither a dev nor a test split: nothing was measured.\n"


def test_json_on_stdout_and_progress_on_stderr(train):
    done = train("--json", "--run", "mine")
    found = json.loads(done.stdout)
    assert found["run"] == "mine" and found["last"]["test"]["exits"][-1]["exit"] == 4
    assert "epoch 1/1" in done.stderr
    assert train("--quiet").stderr == ""


def test_only_flags_that_were_given_are_passed_on():
    from kdcli.flags import given

    values = {"epochs": 3, "lr": None, "loss": (), "plugin": ("a",), "model_ema": False, "options": ("kl.temperature=2", "form=kl")}
    assert given(values) == {"epochs": 3, "plugin": ["a"], "model_ema": False, "options": {"kl.temperature": 2, "form": "kl"}}


def test_every_setting_has_one_flag(kd):
    from kdcore.config import Config

    text = kd("train", "--help").stdout
    for name in Config.model_fields:
        flag = {"model": "BACKBONE", "options": "--option", "plugin": "--plugin"}.get(name, "--" + name.replace("_", "-"))
        assert text.count(f"{flag} ") + text.count(f"{flag}\n") + text.count(f"{flag},") >= 1, name
    for heading in ("Data:", "Method:", "Weights:", "Optimisation:", "Regularisation:", "Machine:"):
        assert f"\n{heading}\n" in text


def test_flags_reach_the_configuration(train):
    train("-b", "32", "--decay-milestones", "3,5", "--sched", "multistep", "--model-ema", "--smoothing", "0.1", "-o", "ce.label_smoothing=0.2",
          "--scratch", "--run", "mine", "--taps", "layer2,layer4")  # fmt: skip
    found = config("mine")
    wanted = {
        "batch_size": 32,
        "decay_milestones": [3, 5],
        "model_ema": True,
        "smoothing": 0.1,
        "pretrained": False,
        "taps": "layer2,layer4",
    }
    assert {name: found[name] for name in wanted} == wanted
    assert found["options"] == {"ce.label_smoothing": 0.2}
    assert len(results("mine")["last"]["test"]["exits"]) == 2


def test_stopped_and_resumed_is_the_same_run(kd, monkeypatch):
    from kdcli.progress import Lines

    kd("train", *SHORT.split(), "--epochs", 2, "--run", "whole")
    plain = Lines.epoch

    def epoch(self, record):
        plain(self, record)
        raise KeyboardInterrupt

    monkeypatch.setattr(Lines, "epoch", epoch)
    done = kd("train", *SHORT.split(), "--epochs", 2, "--run", "halves", status=130)
    assert done.stderr.splitlines()[-1].endswith("kd train --run halves --resume") and done.stdout == ""
    assert not Path("halves/results.json").exists()
    monkeypatch.setattr(Lines, "epoch", plain)
    done = kd("train", "--run", "halves", "--resume")
    assert "epoch 2/2" in done.stderr and "epoch 1/2" not in done.stderr
    assert results("halves") == results("whole")


def test_stopped_before_it_began(train, monkeypatch):
    def prepare(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("kdcore.starting.prepare", prepare)
    assert train("--run", "mine", status=130).stderr == "kd: stopped before training began; nothing was written\n"
    assert not Path("mine").exists()


def test_a_configuration_repeats_a_run_and_flags_override_it(kd, train):
    train("--run", "first", "-o", "ce.label_smoothing=0.1")
    kd("train", "--config", "first/config.toml", "--run", "second")
    assert results("first") == results("second") and config("first") == config("second")
    kd("train", "--config", "first/config.toml", "--run", "third", "--seed", 5, "--method", "plain", "-o", "ce.all_views=true")
    found = config("third")
    assert (found["seed"], found["method"]) == (5, "plain")
    assert found["options"] == {"ce.label_smoothing": 0.1, "ce.all_views": True}


def test_parts_are_added_and_replaced_and_a_loose_file_brings_one(train):
    Path("mine.py").write_text(PENALTY)
    added = ["-p", "mine.py", "--loss", "mine.flat:shallow=0.1", "--loss", "kl@deepest:shallow=.5", "-o", "mine.flat.power=1.5"]
    done = train(*added, "--soft-targets", "mean-of-exits", "--exits", "linear", "--schedule", "single", "--json", status=2)
    assert "--soft-targets mean-of-exits" in done.stderr
    found = json.loads(train(*added, "--exits", "linear", "--schedule", "single", "--json").stdout)
    terms = json.loads(Path(found["run"], "metrics.jsonl").read_text().splitlines()[0])["train"]
    assert {"ce", "mine.flat", "kl"} <= set(terms)


def test_plan_says_what_would_run(kd):
    Path("mine.py").write_text(PENALTY)
    line = ["plan", *SHORT.split(), "-p", "mine.py", "--loss", "mine.flat=0.1", "--loss", "kl@deepest:shallow=.5", "--epochs", 7]
    found = json.loads(kd(*line, "--json").stdout)
    parts = {part["place"]: part for part in found["parts"]}
    assert parts["exits"]["name"] == "linear" and parts["exits"]["distribution"] == "kdcore" and parts["exits"]["version"]
    assert parts["term mine.flat"]["distribution"] == "mine.py" and parts["term mine.flat"]["options"] == {"power": 2.0}
    assert parts["term kl"]["options"]["temperature"] == 4.0
    terms = {term["name"]: term for term in found["terms"]}
    assert (terms["kl"]["weight"], terms["kl"]["source"], terms["kl"]["exits"]) == (0.5, "deepest", "shallow")
    assert [(phase["name"], phase["epochs"], phase["teacher"]) for phase in found["phases"]] == [("main", 7, "none")]
    assert [exit["exit"] for exit in found["exits"]] == [1, 2, 3, 4]
    assert found["exits"][0]["macs"] < found["exits"][3]["macs"]
    assert found["data"]["images"] == {"train": 130, "dev": 80, "test": 1000}
    text = kd(*line).stdout
    for word in ("mine.flat", "power=2.0", "temperature=4.0", "phases", "MACs", "lr"):
        assert word in text
    assert not Path("runs").exists()


def test_plan_writes_a_moving_weight_down(kd):
    Path("ramp.py").write_text(
        "from kdcore import CE, Linear, Method, Term, hookimpl\n"
        "def ramp() -> Method:\n"
        "    return Method({'ce': Term(CE()), 'more': Term(CE(), weight=Linear(0.0, 1.0))})\n"
        "@hookimpl\n"
        "def methods():\n    return {'ramp': ramp}\n"
    )
    assert "Linear(start=0.0, end=1.0, epochs=None)" in kd("plan", *SHORT.split(), "-p", "ramp.py", "--method", "ramp").stdout


def test_plan_counts_the_epochs_that_fit(kd):
    plan = ("plan", "test_resnet_32px", "--data", "digits", "--img-size", "16", "--labels-per-class", "13", "--minutes", "0.0001", "--json")
    found = json.loads(kd(*plan).stdout)
    assert found["settings"]["epochs"] == found["estimate"]["epochs"] == found["phases"][0]["epochs"] == 1
    assert any(note.startswith("--minutes 0.0001: not even 1 epoch will fit") for note in found["notes"])


def test_plan_of_a_run_does_not_need_the_weights_that_it_began_with(kd, train):
    train("--run", "first")
    train("--run", "second", "--init", "first")
    Path("first").rename("elsewhere")
    assert json.loads(kd("plan", "--run", "second", "--resume", "--json").stdout)["settings"]["pretrained"] is False


def test_a_run_whose_checkpoints_are_gone_says_so(kd, train):
    train("--run", "mine")
    Path("mine/student.safetensors").unlink()
    Path("mine/checkpoints").rename("elsewhere")
    done = kd("train", "--run", "mine", "--resume", status=74)
    assert "there is no checkpoint" in done.stderr.splitlines()[-1] and len(done.stderr.splitlines()[-1]) < 400


def test_plan_of_a_run(kd, train):
    train("--run", "mine")
    assert json.loads(kd("plan", "--run", "mine", "--resume", "--json").stdout)["settings"]["labels_per_class"] == 13
    assert "kd: mine already holds a run" in kd("plan", *SHORT.split(), "--run", "mine", status=2).stderr


def test_eval(kd, train, npz):
    train("--run", "mine")
    found = json.loads(kd("eval", "mine", "--json").stdout)
    assert found["test"] == results("mine")["best"]["test"]
    text = kd("eval", "mine", "--which", "last").stdout
    assert "recall by class on test, worst first" in text and "taken for" in text
    assert "digits: best on dev and last (epoch 1)" in text and "top-1" in text
    other = npz("other.npz")
    found = json.loads(kd("eval", "mine", "--data", other, "--json").stdout)
    assert found["data"] == other and found["test"]["samples"] == 40 and "dev" not in found
    assert other in kd("eval", "mine", "--data", other).stdout.replace("\n", "")


def test_a_run_teaches(train):
    train("--run", "teacher", "--method", "plain")
    done = train("--method", "kd", "--teacher", "teacher", "--run", "student")
    assert "kd on test_resnet_32px" in done.stderr and "kd 0." in done.stderr


@pytest.mark.parametrize("epochs", [1, 3])
def test_the_live_view(epochs):
    from rich.console import Console

    from kdcli.progress import LiveView
    from kdcore import train

    file = io.StringIO()
    with LiveView(Console(file=file, force_terminal=True, width=120, highlight=False, markup=False)) as watch:
        train("test_resnet_32px", "digits", img_size=16, labels_per_class=13, epochs=epochs, amp="none", channels_last=False, watch=watch)
    shown = file.getvalue()
    for word in ("deep-supervision on test_resnet_32px", "images/s", "exit4", "ensemble", f"epoch {epochs}/{epochs}", "left"):
        assert word in shown

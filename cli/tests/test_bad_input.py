"""Every bad input: one line that helps, the documented status, and no run folder left behind."""

import os
import sys
from pathlib import Path

import pytest

TRAIN = "train test_resnet_32px --data digits --img-size 16 --epochs 1"

USAGE = {
    "backbone": ("train resnet81 --data digits", "resnet81", "did you mean 'resnet18'"),
    "backbone, nothing near": ("train xyzzy --data digits", "there is no backbone 'xyzzy'"),
    "backbone missing": ("train --data digits", "BACKBONE is missing"),
    "data missing": ("train resnet18", "--data is missing"),
    "data without its flag": ("train resnet18 ./photos", "unexpected extra argument (./photos)", "did you mean --data ./photos?"),
    "an extra argument beside data": ("train resnet18 other --data digits", "unexpected extra argument (other) ("),
    "command": ("trian resnet18", "did you mean 'train'"),
    "flag": (f"{TRAIN} --epoch 3", "--epochs"),
    "method": (f"{TRAIN} --method deep-supervison", "did you mean 'deep-supervision'"),
    "exits": (f"{TRAIN} --exits liner", "did you mean 'linear'"),
    "soft targets": (f"{TRAIN} --method kd --soft-targets depest", "did you mean 'deepest'"),
    "loss": (f"{TRAIN} --loss kll@deepest", "did you mean 'kl'"),
    "loss, its form": (f"{TRAIN} --loss kl@deepest=heavy", "the weight 'heavy' is no number"),
    "loss without source": (f"{TRAIN} --loss kl", "--loss kl@SOURCE"),
    "schedule": (f"{TRAIN} --schedule singel", "did you mean 'single'"),
    "plugin": (
        f"{TRAIN} -p nobodys",
        "there is no plugin 'nobodys'",
        "kd plugins lists them",
    ),
    "method of a plugin that is not there": (f"{TRAIN} --method nobodys", "there is no method 'nobodys'", "kd plugins lists the plugins"),
    "option": (f"{TRAIN} --method kd -o alhpa=.3", "method 'kd' (kdcore", "did you mean 'alpha'"),
    "option of a part": (f"{TRAIN} -o ce.smoothing=.1", "no option 'smoothing'", "did you mean 'label_smoothing'"),
    "option's part": (f"{TRAIN} -o kl.temperature=2", "no part 'kl'", "ce"),
    "option's type": (f"{TRAIN} --method kd -o alpha=much", "alpha='much'", "float"),
    "option out of range": (f"{TRAIN} --method kd -o alpha=1.5", "alpha=1.5", "less than or equal to 1", "default 0.9"),
    "option, its form": (f"{TRAIN} --method kd -o alpha", "-o name=value"),
    "setting out of range": (f"{TRAIN} --epochs 0", "--epochs 0 is refused: it should be greater than or equal to 1"),
    "warm-up that nobody typed": (f"{TRAIN} --recipe finetune", "leaves nothing of --epochs 1; add --warmup-epochs 0 (or more epochs)"),
    "setting's type": (f"{TRAIN} --epochs many", "--epochs", "'many'", "kd train --help"),
    "milestones": (f"{TRAIN} --decay-milestones 1,x", "30,60"),
    "optimiser": (f"{TRAIN} --opt sgdd", "--opt sgdd"),
    "schedule of the learning rate": (f"{TRAIN} --sched cosign", "--sched cosign"),
    "tap": (f"{TRAIN} --taps layer9", "'layer9'", "did you mean 'layer"),
    "tap's number": (f"{TRAIN} --taps 1,99", "no tap 99"),
    "no classifier": ("train qwen3_vit_88m_enc --data digits --img-size 32", "qwen3_vit_88m_enc", "does not classify"),
    "teacher missing": (f"{TRAIN} --method kd", "add --teacher"),
    "teacher's classes": (f"{TRAIN} --method kd --teacher resnet18", "1000 classes", "has 10"),
    "teacher unknown": (f"{TRAIN} --method kd --teacher resnet81", "did you mean 'resnet18'"),
    "teacher's file": (f"{TRAIN} --method kd --teacher ./nowhere", "./nowhere"),
    "device": (f"{TRAIN} --device cudda", "--device cudda"),
    "pretrained": ("train resnet18 --data digits --pretrained", "--scratch", "--init FILE"),
    "pretrained, there are none": (f"{TRAIN} --pretrained", "--scratch", "--init FILE"),
    "resume without run": (f"{TRAIN} --resume", "--run DIR"),
    "part": ("show byott", "there is no plugin, method or part 'byott'"),
    "part of the core": ("show deepst", "did you mean 'deepest'"),
}


def test_settings_are_checked_before_torch_is_imported(kd, monkeypatch):
    monkeypatch.setitem(sys.modules, "kdcore.training", None)  # an import of it would fail
    monkeypatch.setitem(sys.modules, "kdcore.starting", None)
    for command in ("train", "plan"):
        assert "--epochs -3 is refused" in kd(command, "resnet18", "--data", "x", "--recipe", "finetune", "--epochs", "-3", status=2).stderr


def check(kd, line, status, *words):
    before = sorted(Path().rglob("*"))
    done = kd(*line.split(), status=status)
    assert done.stdout == ""
    assert done.stderr.startswith("kd: ") and done.stderr.count("\n") == 1 and done.stderr.endswith("\n"), done.stderr
    for word in words:
        assert word in done.stderr
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize("case", USAGE)
def test_usage_and_configuration(kd, case):
    line, *words = USAGE[case]
    check(kd, line, 2, *words)


def test_plan_refuses_what_train_refuses(kd):
    check(kd, TRAIN.replace("train", "plan", 1) + " --taps 99", 2, "no tap 99")


@pytest.mark.skipif("__import__('torch').cuda.is_available()")
def test_cuda_where_there_is_none(kd):
    check(kd, f"{TRAIN} --device cuda", 2, "--device cuda", "--device cpu")


def test_missing_data(kd):
    check(kd, "train resnet18 --data ./photos", 65, "./photos", "digits")


def test_a_folder_with_one_class(kd):
    Path("photos/cat").mkdir(parents=True)
    Path("photos/cat/1.jpg").touch()
    check(kd, "train resnet18 --data photos", 65, "one class", "'cat'")


def test_labels_beyond_the_classes(kd, npz):
    import numpy as np

    arrays = dict(np.load(npz("all.npz", classes=5)))
    np.savez("odd.npz", **arrays, class_names=np.array(["a", "b", "c"]))
    check(kd, "train test_resnet_32px --data odd.npz", 65, "label is 4", "3 class_names")


def test_the_teachers_classes_are_others(kd, train, npz):
    five = npz("five.npz", classes=5)
    train("--run", "teacher")
    check(kd, f"train test_resnet_32px --data {five} --method kd --teacher teacher", 65, "teacher", "other classes")
    check(kd, f"eval teacher --data {five}", 65, "has other classes (0, 1, 2, 3, 4) than the run (0, 1, 2, 3, 4 and 5 more)")


def test_the_first_names():
    from kdcore.errors import first_names

    assert first_names(["a, b", "c"]) == "'a, b', c" and first_names(list("abcdef")) == "a, b, c, d, e and 1 more"


def test_a_run_folder_that_exists(kd, train):
    train("--run", "mine")
    check(kd, f"{TRAIN} --run mine", 2, "mine already holds a run", "--resume")
    check(kd, f"{TRAIN} --run mine --resume --epochs 5", 2, "epochs is 1, not 5")
    check(kd, "train --run mine --resume --config mine/config.toml", 2, "leave out --config")


def test_a_folder_of_somebody_else(kd):
    Path("thesis").mkdir()
    Path("thesis/chapter.txt").touch()
    check(kd, f"{TRAIN} --run thesis", 2, "thesis is not empty")
    check(kd, "demo --run thesis", 2, "thesis is not empty")


def test_where_nothing_can_be_written(kd):
    Path("file").touch()
    check(kd, f"{TRAIN} --run file/run", 74, "file/run")
    check(kd, f"{TRAIN} --run file", 74, "file")
    check(kd, "demo --run file/run", 74, "file/run")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_no_permission(kd):
    Path("closed").mkdir(mode=0o500)
    check(kd, f"{TRAIN} --run closed/run", 74, "closed/run", "Permission denied")


@pytest.mark.parametrize("line", ["train --run nowhere --resume", "eval nowhere"])
def test_a_run_that_is_not_there(kd, line):
    check(kd, line, 74, "there is no run folder nowhere")


def test_a_run_that_is_not_finished(kd, train):
    train("--run", "mine")
    Path("mine/results.json").unlink()
    check(kd, "eval mine", 74, "kd train --run mine --resume")


def test_a_configuration_file_that_is_none(kd):
    Path("odd.toml").write_text("epochs = = 3")
    Path("unknown.toml").write_text("model = 'resnet18'\ndata = 'digits'\nepoch = 3")
    check(kd, f"{TRAIN} --config nowhere.toml", 74, "nowhere.toml")
    check(kd, f"{TRAIN} --config odd.toml", 2, "odd.toml", "TOML")
    check(kd, "train --config unknown.toml", 2, "did you mean 'epochs'")


def test_a_loose_file_that_is_broken(kd):
    Path("broken.py").write_text("import nothing_like_it")
    check(kd, f"{TRAIN} -p broken.py", 2, "plugin 'broken'", "nothing_like_it")
    check(kd, f"{TRAIN} -p nowhere.py", 74, "nowhere.py")


def test_a_broken_plugin_that_is_named(kd, distribution):
    distribution("kdcore-sour", "sour", "raise RuntimeError('went off')")
    check(kd, f"{TRAIN} --method sour", 2, "plugin 'sour' (kdcore-sour 1.2)", "went off")


def test_two_plugins_of_one_name(kd, distribution):
    distribution("kdcore-twin", "twin", "")
    distribution("other-twin", "twin", "")
    check(kd, f"{TRAIN} --method twin", 2, "kdcore-twin 1.2 and other-twin 1.2", "pip uninstall")


def test_a_traceback_on_request(kd, monkeypatch):
    from kdcore import KdError

    monkeypatch.setenv("KD_TRACEBACK", "1")
    with pytest.raises(KdError):
        kd(*TRAIN.split(), "--method", "nothing")


def test_an_error_of_the_operating_system(kd, monkeypatch):
    monkeypatch.setattr("kdcore.training.evaluate", lambda *args, **more: Path("nowhere.txt").read_text())
    check(kd, "eval somewhere", 74, "nowhere.txt: No such file or directory")


def test_an_error_of_ours_stays_a_traceback(kd, monkeypatch):
    monkeypatch.setattr("kdcore.training.evaluate", lambda *args, **more: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        kd("eval", "somewhere")

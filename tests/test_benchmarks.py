"""The benchmarks run at small size and write what the page is made of. What takes long is slow; `make bench` runs all of them."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"
sys.path.append(str(BENCHMARKS))

import gpu_byot  # noqa: E402
import gpu_check  # noqa: E402
import gpu_pieces  # noqa: E402
import gpu_rates  # noqa: E402
import report  # noqa: E402
import run as runner  # noqa: E402
import throughput  # noqa: E402
from loops import Setting, Steps, of_kdcore, of_timm, of_timm_tuned, of_torchdistill, random_images, train_teacher  # noqa: E402

MODEL = "test_resnet_32px"


def call(script, monkeypatch, *words):
    """Runs a script's main in this process, as its command would."""
    monkeypatch.setattr(sys, "argv", [f"{script.__name__}.py", *map(str, words)])
    script.main()


def checked(path):
    """The rows of a file, each with finite numbers, the interval around the median, and where it was measured."""
    rows = json.loads(Path(path).read_text())
    assert rows
    for row in rows:
        values = row["low"], row["median"], row["high"]
        assert all(math.isfinite(value) for value in values), row["name"]
        assert row["low"] <= row["median"] <= row["high"], row["name"]
        assert row["pairs"] >= 0 and row["machine"]["torch"] and row["command"]
        assert ("met" in row) == ("target" in row), row["name"]
    return {row["name"]: row for row in rows}


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    folder = tmp_path_factory.mktemp("loops")
    data = random_images(folder, 64, classes=4)
    with np.load(data) as arrays:
        images, labels = arrays["train_images"], arrays["train_labels"].ravel().astype(np.int64)
    return Setting(MODEL, train_teacher(MODEL, data, folder, "cpu"), data, images, labels, folder / "runs", 8, 0)


@pytest.mark.parametrize("make", [of_kdcore, of_timm, of_timm_tuned, of_torchdistill])
@pytest.mark.parametrize("kind", ["kd", "plain"])
def test_loops_train_the_same_network(make, kind, setting, monkeypatch):
    """Each takes exactly the steps that it is asked for, and changes its student."""
    import torch

    if make is of_torchdistill:
        pytest.importorskip("torchdistill")
    students, steps = [], []
    networks = Setting.networks

    def seen(self):
        students.append(networks(self)[0])
        return students[-1], networks(self)[1]

    counted = torch.optim.SGD.step
    monkeypatch.setattr(Setting, "networks", seen)
    monkeypatch.setattr(torch.optim.SGD, "step", lambda self, *args, **kwargs: steps.append(1) or counted(self, *args, **kwargs))
    plain = Setting(
        **{**vars(setting), "teacher": setting.teacher if kind == "kd" else None, "folder": setting.folder / make.__name__ / kind}
    )
    loop = make(plain)
    before = [value.clone() for value in students[0].state_dict().values()] if students else []
    steps.clear()
    loop.steps(3)
    assert len(steps) == 3
    if students:
        assert any(not torch.equal(a, b) for a, b in zip(before, students[0].state_dict().values(), strict=True))


def test_steps_go_on_over_epochs():
    class Two:
        def epoch(self, epoch):
            yield from ((epoch, number) for number in range(2))

    chunk, held = Steps(Two()), []
    chunk.count = 3
    assert list(chunk.epoch(0)) == [(0, 0), (0, 1), (1, 0)]
    from contextlib import contextmanager

    @contextmanager
    def guard():
        held.append("in")
        yield
        held.append("out")

    chunk.guard = guard
    for batch in chunk.epoch(0):
        held.append(batch)
    assert held == ["in", (1, 1), (2, 0), "out", (2, 1)]


def test_throughput_rows(monkeypatch, tmp_path):
    words = ("--quick", "--pairs", "2", "--steps", "1", "--batch-size", "8", "--kinds", "plain", "--workers", "0", "--threads", "1")
    call(throughput, monkeypatch, *words, "--json", tmp_path / "throughput.json")
    rows = checked(tmp_path / "throughput.json")
    assert {"throughput/plain/kdcore", "throughput/plain/timm as it comes", "speed-up/plain/timm tuned by hand"} <= rows.keys()


STARTUP = """
import sys
import startup
turn = startup.process([sys.executable, "-c", "x = bytes(range(256)) * 400_000; import time; time.sleep(.2); print('said')"])
assert 0.2 < turn.seconds < 60 and 100 < turn.megabytes < 250 and turn.said == "said\\n", turn
assert startup.process([sys.executable, "-c", ""]).megabytes < 60
try:
    startup.process([sys.executable, "-c", "raise SystemExit('no such thing')"])
except RuntimeError as error:
    assert "no such thing" in str(error)
else:
    raise AssertionError("it failed, and nobody said so")
"""


def test_startup_tells_time_and_memory_and_what_failed():
    """In a process that holds little itself, as the script is."""
    done = subprocess.run([sys.executable, "-c", STARTUP], cwd=BENCHMARKS, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr


def test_the_first_step_is_where_a_run_is_stopped(tmp_path):
    code = "import startup; startup.process([startup.sys.executable, '-c', startup.TO_FIRST_STEP, *startup.sys.argv[1:]])"
    words = ["train", "test_resnet", "--data", "digits", "--method", "plain", "--device", "cpu", "--run", str(tmp_path / "run")]
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=BENCHMARKS, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run/model.json").exists() and not (tmp_path / "run/metrics.jsonl").exists()


def test_nothing_waits_on_a_cpu_means_that_no_number_is_read():
    import torch

    with gpu_check.nothing_waits("cpu"):
        total = torch.ones(3).sum()
        with pytest.raises(RuntimeError, match="reads a number"):
            total.item()
    assert total.item() == 3


def test_a_step_that_waits_is_named(setting, tmp_path, monkeypatch):
    from kdcore.task import DistillationTask

    plain = Setting(**{**vars(setting), "teacher": None, "folder": tmp_path})
    assert gpu_check.synchronises(plain) == ""
    whole = DistillationTask.forward
    monkeypatch.setattr(DistillationTask, "forward", lambda self, *args: (args[0].sum().item(), whole(self, *args))[1])
    assert "reads a number" in gpu_check.synchronises(Setting(**{**vars(plain), "folder": tmp_path / "b"}))


def test_byot_in_pieces(monkeypatch, tmp_path):
    """Ends after the epoch in which its time is over, goes on by the same command, and tells the whole time."""
    pytest.importorskip("kdcore_byot")
    words = ("digits", "--quick", "--model", "test_resnet", "--run", tmp_path / "run", "--json", tmp_path / "byot.json")
    call(gpu_byot, monkeypatch, *words, "--limit", "0")
    assert checked(tmp_path / "byot.json").keys() == {"byot/epochs so far"}
    call(gpu_byot, monkeypatch, *words)
    rows = checked(tmp_path / "byot.json")
    assert {"byot/exit1, last epoch", "byot/ensemble, last epoch", "byot/minutes, evaluation included"} <= rows.keys()
    assert all(row["epochs"] == 2 for row in rows.values())


def test_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_pieces, "IN_A_MOSAIC", 30)
    draw = np.random.default_rng(0)
    arrays = {f"{split}_images": draw.integers(0, 256, (count, 8, 6, 3), dtype=np.uint8) for split, count in (("train", 140), ("test", 7))}
    arrays |= {f"{split}_labels": np.arange(len(arrays[f"{split}_images"])) for split in ("train", "test")}
    arrays["val_images"], arrays["val_labels"] = draw.integers(0, 256, (5, 8, 8), dtype=np.uint8), np.arange(5)
    np.savez(tmp_path / "set.npz", **arrays)
    paths = gpu_pieces.split(tmp_path / "set.npz", tmp_path / "pieces", 0.01)
    assert len(paths) > 1
    gpu_pieces.join(tmp_path / "pieces", tmp_path / "joined.npz")
    with np.load(tmp_path / "joined.npz") as joined:
        assert {name: (joined[name].shape, joined[name].tolist()) for name in joined} == {
            name: (a.shape, a.tolist()) for name, a in arrays.items()
        }
    paths[-1].unlink()
    with pytest.raises(SystemExit, match=f"lacks {paths[-1].name}"):
        gpu_pieces.join(tmp_path / "pieces", tmp_path / "joined.npz")


ROW = {"name": "speed-up", "unit": "ratio", "median": 1.9, "low": 1.8, "high": 2.0, "pairs": 15, "against": "another"}
ABOUT = {"machine": {"cpu": "a CPU", "cores": 2, "threads": 1, "torch": "2"}, "date": "2026-01-01", "command": "step.py"}


def test_the_page_shows_what_lost_and_what_failed(monkeypatch, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("By hand.\n\n<!-- begin cpu -->\nold\n<!-- end cpu -->\n\n<!-- begin gpu -->\nof a GPU\n<!-- end gpu -->\n")
    (tmp_path / "step.json").write_text(json.dumps([{**ROW, **ABOUT, "target": ">= 2", "met": False}, {**ROW, **ABOUT, "name": "other"}]))
    (tmp_path / "exits.json").write_text(json.dumps({"failed": "it ended with 1: no memory", "command": "python exits.py"}))
    (tmp_path / "comparison.json").write_text(json.dumps({"cells": []}))
    call(report, monkeypatch, tmp_path, "--page", page)
    text = page.read_text()
    assert "old" not in text and text.startswith("By hand.") and "of a GPU" in text
    assert "0 of 1 targets are met. Failed, and so without numbers: exits." in text
    assert "| speed-up | 1.900 [1.800, 2.000] | ratio | another | 15 | >= 2 | **no** |" in text
    assert "`python benchmarks/step.py` on a CPU, 1 of 2 cores, torch 2, 2026-01-01." in text
    assert "**Failed**: it ended with 1: no memory" in text and "Quick runs" not in text
    call(report, monkeypatch, tmp_path, "--page", page)
    assert page.read_text() == text


def test_a_failing_script_leaves_its_reason(monkeypatch, tmp_path):
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks/bad.py").write_text("raise SystemExit('out of luck')")
    monkeypatch.setattr(runner, "HERE", tmp_path / "benchmarks")
    assert runner.run("bad", tmp_path, quick=True, device="cpu") == "it ended with 1: out of luck"
    failed = json.loads((tmp_path / "bad.json").read_text())
    assert failed["failed"] == "it ended with 1: out of luck" and failed["quick"]
    (tmp_path / "benchmarks/bad.py").write_text("import time; time.sleep(60)")
    assert runner.run("bad", tmp_path, quick=True, device="cpu", limit=0.6) == "it took more than 0.01 minutes"


def test_every_script_is_there():
    for name in runner.SCRIPTS:
        assert (BENCHMARKS / f"{name}.py").exists()
        assert name in report.TITLES


def shell(tmp_path, *words, **environment):
    about = {"PYTHON": sys.executable, "WHEELS": "/none", "OUT": str(tmp_path / "out"), "STORE": str(tmp_path / "store"), "DEVICE": "cpu"}
    command = ["bash", str(BENCHMARKS / "gpu.sh"), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=280, env={**os.environ, **about, **environment}, check=False)


def test_gpu_sh_says_what_it_does_and_what_is_missing(tmp_path):
    help = shell(tmp_path)
    assert help.returncode == 2 and "benchmarks/gpu.sh roofline" in help.stdout and "set -" not in help.stdout
    nobody = shell(tmp_path, "check", PYTHON="no-such-python")
    assert nobody.returncode == 1 and nobody.stderr.strip() == "gpu.sh: missing: no-such-python; name one with PYTHON=/path/to/python"


def test_gpu_sh_publishes_what_fails(tmp_path):
    """No data and no pieces: said, and no command after it is kept from running."""
    done = shell(tmp_path, "train", "nonsense", PIECES=str(tmp_path / "none"))
    assert done.returncode == 1
    assert "holds no pieces" in done.stderr and "there is no command 'nonsense'" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", list(runner.SCRIPTS))
def test_quick(name, tmp_path):
    why = runner.run(name, tmp_path, quick=True, device="cpu", limit=280)
    assert why is None, (tmp_path / f"{name}.log").read_text()[-3000:]
    checked(tmp_path / f"{name}.json")


@pytest.mark.slow
def test_gpu_sh_on_a_cpu(tmp_path):
    pytest.importorskip("kdcore_byot")
    done = shell(tmp_path, "roofline", QUICK="1", EXTRA=f"--eager --pairs 3 --student {MODEL}")
    assert done.returncode == 0, done.stderr + done.stdout
    checked(tmp_path / "out/roofline.json")


@pytest.mark.slow
def test_gpu_check_on_a_cpu(monkeypatch, tmp_path):
    call(gpu_check, monkeypatch, "--quick", "--device", "cpu", "--json", tmp_path / "check.json")
    rows = checked(tmp_path / "check.json")
    assert len(rows) == 10 and all(row["met"] for row in rows.values()), [row["why"] for row in rows.values() if row["why"]]


@pytest.mark.slow
def test_graph_on_a_cpu(monkeypatch, tmp_path):
    words = ("graph", "--quick", "--pairs", "2", "--kinds", "plain", "--student", MODEL)
    call(gpu_rates, monkeypatch, *words, "--device", "cpu", "--json", tmp_path / "graph.json")
    assert checked(tmp_path / "graph.json")["graph/plain"]["images_per_second"]["compiled"] > 0


@pytest.mark.parametrize("script", ["cifar100", "fashion_mnist", "osakd", "mango"])
def test_scripts_of_results_are_comparisons_that_kd_takes(script, monkeypatch, capsys):
    """Every command that they give is read by `kd compare`, with its rows."""
    import runpy

    from kdcli.compare import compare
    from kdcore.comparison.arms import parse_arms

    commands = []
    monkeypatch.setattr(subprocess, "call", lambda words: commands.append(words[3:]) or 0)
    monkeypatch.setattr(sys, "argv", [script, "data.npz", "--dir", "there", "--epochs", "1"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(BENCHMARKS / f"{script}.py"), run_name="__main__")
    assert not stop.value.code and commands
    for words in commands:
        assert words[0] == "compare"
        given = compare.make_context("compare", words[1:]).params
        assert len(parse_arms(given["method"])) >= 3 and given["epochs"] == 1 and given["folder"].startswith("there")


@pytest.mark.parametrize(("script", "sets", "kinds"), [("mskd", 1, {"train", "compare", "analyze"}), ("iskd", 2, {"train", "compare"})])
def test_scripts_that_train_first_give_commands_that_kd_takes(script, sets, kinds, monkeypatch, tmp_path):
    """Teachers and first weights, then the comparison, then the studies: every one of their commands is read."""
    import runpy

    import numpy as np

    from kdcli.compare import compare
    from kdcli.train import train

    commands = []
    monkeypatch.setattr(subprocess, "call", lambda words: commands.append(words[3:]) or 0)
    monkeypatch.setattr(
        subprocess, "check_output", lambda words: '{"text": "", "tables": {"means": [{"alpha": 0.3, "dev": 1}, {"alpha": 0.5, "dev": 2}]}}'
    )
    files = [tmp_path / f"{number}.npz" for number in range(sets + (script == "iskd"))]
    for file in files:
        np.savez(file, train_images=np.zeros((2, 80, 80, 3), "uint8"))
    monkeypatch.setattr(sys, "argv", [script, *map(str, files), "--dir", str(tmp_path / "there"), "--epochs", "1", "--seeds", "2"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(BENCHMARKS / f"{script}.py"), run_name="__main__")
    assert not stop.value.code and {words[0] for words in commands} == kinds
    for words in commands:
        if words[0] == "train":
            given = train.make_context("train", words[1:]).params
            assert given["epochs"] == 1 and "--seeds" not in words
        elif words[0] == "compare":
            given = compare.make_context("compare", words[1:]).params
            assert given["epochs"] == 1 and given["seeds"] == "2"
    if script == "iskd":
        assert any("iskd:alpha=0.5" in word for words in commands for word in words)  # the best on dev of those that were tried

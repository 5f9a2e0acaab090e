"""The notebook in docs/ runs, cell by cell; and a process that is killed in earnest resumes to the numbers it would have had."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import kdcore
from kdcore.checkpoints import load_tensors

NOTEBOOK = Path(__file__).parents[1] / "docs/notebook.py"


def cells(text):
    """The cells of a script in percent format: (whether it is code, first line's number, source)."""
    marks = [*re.finditer(r"^# %%(.*)\n", text, re.MULTILINE)]
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    for mark, end in zip(marks, ends, strict=True):
        yield "[markdown]" not in mark[1], text[: mark.end()].count("\n"), text[mark.end() : end]


def test_every_cell_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert text.startswith("# %%")
    names, ran = {"__name__": "__main__"}, 0
    for is_code, line, source in cells(text):
        if is_code:
            exec(compile("\n" * line + source, str(NOTEBOOK), "exec"), names)
            ran += 1
        else:
            assert all(row.startswith("#") for row in source.splitlines() if row), f"code in a markdown cell at line {line}"
    said = capsys.readouterr().out
    assert ran >= 7 and said.count("epoch ") == 2 * 5
    assert names["same"] and "interrupted\n" in said
    assert names["right"] > 80 and len(names["predictions"]) == 100
    assert (tmp_path / "runs/notebook/curve.png").stat().st_size > 5000


TRAIN = """
import kdcore
kdcore.train("test_resnet_32px", "digits", run="killed", **{settings})
"""
SETTINGS = {"method": "deep-supervision", "img_size": 16, "train_limit": 100, "epochs": 4, "batch_size": 20, "lr": 0.1, "device": "cpu"}
SETTINGS |= {"amp": "none", "channels_last": False, "model_ema": True, "model_ema_decay": 0.9}


def test_a_process_killed_in_the_middle_resumes_to_the_same_numbers(tmp_path, monkeypatch):
    """A kernel that dies runs no `finally`: SIGKILL (TerminateProcess on Windows) as soon as the first checkpoint is whole."""
    monkeypatch.chdir(tmp_path)
    slow = "import kdcore.loop, time\n"  # a moment at each epoch's end, so that the kill comes before the last
    slow += "import kdcore.session as s\ns.Session.epoch = lambda self, record: time.sleep(1)\n"
    process = subprocess.Popen([sys.executable, "-c", slow + TRAIN.format(settings=SETTINGS)], env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        deadline = time.monotonic() + 60
        while not list(Path("killed/checkpoints").glob("*/epoch-*.json")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()
    assert not Path("killed/results.json").exists()

    resumed = kdcore.train(run="killed", resume=True)
    whole = kdcore.train("test_resnet_32px", "digits", run="whole", **SETTINGS)
    for which in ("best", "last"):
        assert resumed.results[which] == whole.results[which]
    for name in ("phase", "epoch", "train", "dev"):
        assert [record[name] for record in resumed.run.metrics()] == [record[name] for record in whole.run.metrics()]
    one, other = (load_tensors(t.run.absolute(t.results["checkpoints"]["last"]))[0] for t in (resumed, whole))
    assert one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)

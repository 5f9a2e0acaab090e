"""`kd report`: what it says, and its exit statuses."""

import json
import os
from pathlib import Path


def test_report_check_and_a_tampered_number(kd, train):
    train("--run", "my run", "--quiet")
    done = kd("report", "my run")
    assert "takes some seconds" in done.stderr
    first, *more = done.stdout.splitlines()
    assert first == "wrote 'my run/report.html'; open it in a browser, or send it as it is"
    assert any("kd predict 'my run' IMAGE" in line for line in more) and any("kd report 'my run' --check" in line for line in more)
    assert kd("report", "my run", "--check").stdout == "my run: every table and sentence follows from the run's files\n"
    kd("report", "my run", "--out", "other.html", "--no-images")
    assert "written without them" in Path("other.html").read_text() and "<img" not in Path("other.html").read_text()
    kd("report", "my run", "--out", "other.html", "--check")

    results = json.loads(Path("my run/results.json").read_text())
    results["best"]["test"]["exits"][1]["top1"] = 99.5
    Path("my run/results.json").write_text(json.dumps(results))
    done = kd("report", "my run", "--check", status=65)
    (line,) = done.stdout.splitlines()
    assert line.startswith("results.json: best.test.exits[1].top1 is 99.5, and should be ")
    assert "kd: 1 line does not follow from the files of my run" in done.stderr


def test_a_full_disk_is_one_line(kd, train, monkeypatch):
    train("--run", "mine", "--quiet")
    kd("report", "mine", "--no-images")
    before = Path("mine/report.html").read_bytes()

    def full(*_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("os.fsync", full)
    done = kd("report", "mine", status=74)
    assert done.stderr.splitlines()[-1].startswith("kd: cannot write mine/report.html: No space left on device")
    assert Path("mine/report.html").read_bytes() == before and sorted(os.listdir("mine")) == sorted(set(os.listdir("mine")))
    assert not [name for name in os.listdir("mine") if name.endswith(".tmp")]


def test_an_unfinished_run_and_none(kd, train):
    train("--run", "mine", "--quiet")
    for name in ("results.json", "predictions.json"):
        Path("mine", name).unlink()
    assert "to go on: kd train --run mine --resume" in kd("report", "mine").stdout
    assert "every table" in kd("report", "mine", "--check").stdout
    (line,) = kd("report", "nowhere", status=74).stderr.splitlines()
    assert line.startswith("kd: there is no run folder nowhere")

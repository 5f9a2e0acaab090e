"""What a run tells whoever looks on: lines, JSON lines, the end of a run that was stopped, and what a full disk leaves."""

import errno
import io
import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from kdcli.progress import Follower, Lines, LiveView, clock, follow
from kdcore import KdError, Phase
from kdcore.estimate import Estimate, PhaseTime


def test_json_lines_are_all_that_stdout_gets(train):
    done = train("--json-lines", "--run", "mine", "--patience", "3", "--log-interval", "1")
    assert done.stderr == ""
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    events = [line["event"] for line in lines]
    assert events[0] == "started" and events[-1] == "finished" and set(events) >= {"phase", "log", "epoch"}
    first, last = lines[0], lines[-1]
    assert first["run"] == "mine" and first["settings"]["patience"] == 3 and first["images"]["train"] == 130
    assert first["estimate"]["seconds"] > 0 and first["estimate"]["epochs"] == 1 and first["estimate"]["epochs_done"] == 0
    [epoch] = [line for line in lines if line["event"] == "epoch"]
    assert epoch["epoch"] == 1 and "exit1/top1" in epoch["dev"] and epoch["images_per_second"] > 0
    assert last["results"]["minutes"] > 0 and last["results"] == json.loads(Path("mine/results.json").read_text())


def test_a_phase_says_whether_there_is_a_teacher(capsys):
    watch = follow(False, True)
    for teacher, said in ((None, None), ("given", "given")):
        watch.teacher = teacher
        watch.phase(Phase(), 1, 4)
        assert json.loads(capsys.readouterr().out)["teacher"] == said


@pytest.mark.parametrize(("flags", "says"), [((True, True, False), "leave out --quiet"), ((False, True, True), "leave out --json")])
def test_json_lines_stand_alone(flags, says):
    with pytest.raises(KdError, match=says):
        follow(*flags)


def test_numbers_that_json_lacks_become_null(capsys):
    follow(False, True).log({"epoch": 1, "step": 1, "steps": 1, "loss": float("nan"), "grad": float("inf")})
    assert json.loads(capsys.readouterr().out) == {"event": "log", "epoch": 1, "step": 1, "steps": 1, "loss": None, "grad": None}


def test_an_estimate_stands_before_the_first_epoch(train):
    lines = train("--run", "mine").stderr.splitlines()
    assert lines[1].startswith("  about ") and " for 1 epoch, " in lines[1] and lines[1].endswith(" an epoch")
    assert lines[-1].startswith("epoch 1/1") and lines[-1].endswith(" left")


def test_a_finished_run_is_not_evaluated_again(kd, train, monkeypatch):
    train("--run", "mine")
    before = Path("mine/results.json").read_text()
    monkeypatch.setattr("kdcore.starting.prepare", None)
    done = kd("train", "--run", "mine", "--resume")
    assert "mine is already finished; to train anew, choose another --run" in done.stderr
    assert "delivered: best on dev" in done.stdout and Path("mine/results.json").read_text() == before
    assert "already finished" in kd("train", "--run", "mine", "--resume", "--quiet").stderr


@pytest.fixture
def clockwork(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_time_left_follows_the_estimate_and_then_the_clock(clockwork):
    """Estimated: 10 s an epoch, 20 s for the end, which is expected to take 20 s although the epochs take 20."""
    view = Follower()
    assert view.left() is None
    view.estimate(Estimate((PhaseTime("main", 4, True, 10.0, 0.0),), 20.0), 0)
    view.phase(Phase(), 1, 4)
    assert view.left() == 60.0
    clockwork[0] = 5.0
    assert view.left() == 55.0
    clockwork[0] = 20.0
    assert view.left() == 50.0  # the first epoch is late, and nobody knows by how much
    view.epoch({"epoch": 1, "epochs": 4})
    assert view.left() == 60.0 + 20.0
    clockwork[0] = 30.0
    assert view.left() == 50.0 + 20.0


def test_one_slow_epoch_does_not_move_the_time_left_and_after_the_last_there_is_the_end(clockwork):
    view = Follower()
    view.estimate(Estimate((PhaseTime("main", 5, True, 1.0, 0.0), PhaseTime("more", 2, False, 30.0, 4.0)), 3.0), 0)
    view.phase(Phase(), 1, 5)
    for epoch, now in enumerate((2.0, 4.0, 204.0, 206.0), start=1):
        clockwork[0] = now
        view.epoch({"epoch": epoch, "epochs": 5})
    assert view.left() == 2.0 + 4.0 + 60.0 + 3.0
    view.phase(Phase(), 2, 2)
    for epoch, now in ((1, 306.0), (2, 406.0)):
        clockwork[0] = now
        view.epoch({"epoch": epoch, "epochs": 2})
    assert view.left() == 3.0
    clockwork[0] = 408.0
    assert view.left() == 1.0
    clockwork[0] = 500.0
    assert view.left() == 0.0


def test_the_bar_moves_between_log_lines(clockwork):
    view = LiveView(Console(file=io.StringIO(), force_terminal=True))
    view.estimate(Estimate((PhaseTime("main", 4, True, 10.0, 0.0),), 20.0), 0)
    view.phase(Phase(), 1, 4)
    for seconds, share in ((0.0, 0.0), (2.5, 0.25), (60.0, 0.99)):
        clockwork[0] = seconds
        assert view.share() == pytest.approx(share)
    view.log({"epoch": 2, "step": 3, "steps": 4})
    clockwork[0] = 60.0
    view.move()
    assert view.bar.tasks[0].completed == pytest.approx(1.99) and view.bar.tasks[0].fields["place"] == "epoch 2/4"


def test_clock():
    assert [clock(s) for s in (6.6, 59.7, 750, 3750)] == ["0:07", "1:00", "12:30", "1:02:30"]


def test_a_disk_that_is_full_leaves_the_last_checkpoint_whole(kd, train, monkeypatch):
    from kdcore import checkpoints

    plain = checkpoints._write

    def full(file, tensors, metadata):
        if "epoch-0002" in file.name:
            file.write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return plain(file, tensors, metadata)

    monkeypatch.setattr(checkpoints, "_write", full)
    done = train("--epochs", "2", "--run", "mine", status=74)
    last = done.stderr.splitlines()[-1]
    assert last.startswith("kd: cannot write ") and "epoch-0002.safetensors: No space left on device; all is kept up to" in last
    assert last.endswith("kd train --run mine --resume")
    assert sorted(path.name for path in Path("mine/checkpoints/01-main").iterdir()) == ["epoch-0001.json", "epoch-0001.safetensors"]
    monkeypatch.setattr(checkpoints, "_write", plain)
    done = kd("train", "--run", "mine", "--resume")
    assert "1 epoch of them done" in done.stderr and "epoch 2/2" in done.stderr
    assert [json.loads(line)["epoch"] for line in Path("mine/metrics.jsonl").read_text().splitlines()] == [1, 2]


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_within_the_first_epoch(kd, train, monkeypatch, number, status):
    """A real signal, while the loop stands in the middle of the first epoch."""
    with monkeypatch.context() as patched:
        patched.setattr(Lines, "log", lambda self, record: os.kill(os.getpid(), number))
        done = train("--run", "mine", "--log-interval", "1", status=status)
    assert done.stderr.splitlines()[-1] == "kd: stopped; no epoch was finished. To begin again: kd train --run mine --resume"
    assert "epoch 1/1" in kd("train", "--run", "mine", "--resume").stderr
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL

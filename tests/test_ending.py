"""A run that broke off says so, and why; it forgets it when it goes on."""

import json

import pytest

import kdcore
from kdcore.comparing import summary
from kdcore.ending import marked_when_stopped, reason, why_stopped
from kdcore.errors import DataError, FileError, KdError
from kdcore.report.write import write
from kdcore.runs import Run
from kdcore.training import Watch

SMALL = {"labels_per_class": 10, "epochs": 2, "img_size": 16, "batch_size": 32, "amp": "none", "channels_last": False, "device": "cpu"}


class Terminated(KeyboardInterrupt):
    pass


class Ending(Watch):
    """Raises where the first epoch has ended."""

    def __init__(self, error):
        self.error = error

    def epoch(self, record):
        raise self.error


def test_a_stopped_run_says_so_at_once_until_it_is_finished(tmp_path):
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        kdcore.train("test_resnet_32px", "digits", run=run, watch=Ending(KeyboardInterrupt()), **SMALL)
    row = summary(run)
    assert (row["state"], row["reason"], row["epochs"], row["problem"]) == ("stopped", "Ctrl-C", "1/2", None)
    assert "It was stopped: Ctrl-C" in write(run).path.read_text()

    states = []

    class Looking(Watch):
        def epoch(self, record):
            states.append(summary(run)["state"])

    kdcore.train(run=run, resume=True, watch=Looking())
    row = summary(run)
    assert states == ["running"] and (row["state"], row["reason"]) == ("finished", None)
    assert not (run / "stopped.json").exists()


def test_a_loss_that_is_not_finite_is_the_reason(tmp_path):
    with pytest.raises(KdError) as error:
        kdcore.train("test_resnet_32px", "digits", run=tmp_path / "run", opt="sgd", lr=1e30, **{**SMALL, "warmup_epochs": 0})
    row = summary(tmp_path / "run")
    assert row["state"] == "stopped" and row["reason"] == str(error.value)


def test_a_run_that_cannot_go_on_keeps_its_mark(tmp_path):
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        kdcore.train("test_resnet_32px", "digits", run=run, watch=Ending(KeyboardInterrupt()), **SMALL)
    with pytest.raises(KdError, match="leave it out"):
        kdcore.train("test_resnet_32px", "digits", run=run, resume=True, epochs=3)
    assert summary(run)["state"] == "stopped"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyboardInterrupt(), "Ctrl-C"),
        (Terminated(), "terminated"),
        (DataError("a.jpg: not a\nreadable image"), "a.jpg: not a readable image"),
        (ZeroDivisionError("division by zero"), "ZeroDivisionError: division by zero"),
        (MemoryError(), "MemoryError"),
        (ValueError("x" * 999), "ValueError: " + "x" * 285 + "..."),
    ],
)
def test_one_line_of_every_end(tmp_path, error, said):
    run = Run.create(tmp_path / "run", stem="x")
    with pytest.raises(type(error)), marked_when_stopped(run):
        raise error
    assert why_stopped(run) == said == reason(error)
    assert json.loads((run.path / "stopped.json").read_text())["date"][:2] == "20"
    with marked_when_stopped(run):
        assert why_stopped(run) is None
    assert why_stopped(run) is None


def test_neither_a_full_disk_nor_the_end_itself_is_covered_up(tmp_path, monkeypatch):
    run = Run.create(tmp_path / "run", stem="x")

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(FileError, match="the first"), marked_when_stopped(run):
        patch.setattr("os.fsync", full)
        raise FileError("the first")
    assert why_stopped(run) is None
    with pytest.raises(ValueError, match="a logger"), marked_when_stopped(run):
        run.write_results({})
        raise ValueError("a logger")
    assert why_stopped(run) is None


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_a_damaged_mark_is_none(tmp_path, text):
    run = Run.create(tmp_path / "run", stem="x")
    (run.path / "stopped.json").write_text(text)
    assert why_stopped(run) is None

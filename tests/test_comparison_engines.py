"""The engines of a comparison: workers that die, cells that kill them, and tables that are the same whatever was killed on the way."""

import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kdcore.comparison import local, run, worker
from kdcore.comparison.cells import Cell, Outcome, holder
from kdcore.comparison.run import CompareWatch, compare
from kdcore.errors import KdError

CELL = {"data": "digits", "img_size": 16, "train_limit": 96, "batch_size": 32, "amp": "none", "channels_last": False}
TABLES = ("table.csv", "table.md", "table.tex", "comparison.json", "plot.png")

# A worker without torch: a cell's settings say what becomes of it.
PRETENDER = """
import json, os, sys, time
for line in sys.stdin:
    cell = json.loads(line)
    with open(cell["path"], "a") as file:
        file.write("x")
    tries = os.path.getsize(cell["path"])
    if tries <= cell["settings"].get("dies", 0):
        os.kill(os.getpid(), 9)
    state = "taken" if tries <= cell["settings"].get("taken", 0) else "finished"
    time.sleep(cell["settings"].get("sleeps", 0))
    print(json.dumps({"state": state, "error": os.environ.get("CUDA_VISIBLE_DEVICES", ""), "traceback": ""}), flush=True)
"""


@pytest.fixture
def pretend(monkeypatch, tmp_path):
    """Runs pretended cells by `run_local`; gives their outcomes by row, and the processes that were started."""
    started = []

    def popen(line, **more):
        started.append(real([sys.executable, "-c", PRETENDER], **more))
        return started[-1]

    real = subprocess.Popen
    monkeypatch.setattr(local.subprocess, "Popen", popen)
    monkeypatch.setattr(local, "TICK", 0.05)
    monkeypatch.setattr(local, "PATIENCE", 0.05)

    def go(jobs=1, devices=(), **cells):
        made = [Cell(name, 0, tmp_path / name, settings) for name, settings in cells.items()]
        ended = local.run_local(made, jobs=jobs, threads=1, log=tmp_path / "log", devices=devices)
        return {event[0].row: event[1] for event in ended if event}, started

    return go


def test_a_cell_that_kills_three_workers_fails_alone(pretend):
    found, started = pretend(a={}, b={"dies": 99}, c={"dies": 2}, d={})
    assert [found[name].state for name in "abcd"] == ["finished", "failed", "finished", "finished"]
    assert "its worker died 3 times, last with signal 9 (too little memory?)" in found["b"].error
    assert len(started) == 6 and all(process.poll() is not None for process in started)


def test_a_log_that_another_comparison_removed_breaks_nothing(pretend, tmp_path, monkeypatch):
    real = local.stop
    monkeypatch.setattr(local, "stop", lambda workers: ((tmp_path / "log").unlink(), real(workers)))
    assert pretend(a={})[0]["a"].state == "finished"


def test_a_cell_that_somebody_else_has_is_asked_for_again(pretend, tmp_path):
    found, started = pretend(jobs=2, a={"taken": 3}, b={})
    assert {outcome.state for outcome in found.values()} == {"finished"} and len(started) == 2 and (tmp_path / "a").read_text() == "xxxx"


def test_devices_are_handed_out_in_turn(pretend):
    found, _ = pretend(jobs=3, devices=["4", "6"], **{name: {"sleeps": 0.3} for name in "abc"})
    assert sorted(outcome.error for outcome in found.values()) == ["4", "4", "6"]


def test_visible_devices_are_counted_among_those_that_are(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert local.visible_devices(["cuda:1", "cuda:0"]) == ["6", "4"]
    for wrong in ("cuda:2", "cpu", "cuda"):
        with pytest.raises(KdError, match="cuda:0,cuda:1"):
            local.visible_devices(["cuda:0", wrong])


def test_closing_the_engine_ends_its_workers(pretend, tmp_path, monkeypatch):
    ended = local.run_local([Cell("a", 0, tmp_path / "a", {"sleeps": 60})], jobs=1, threads=1, log=tmp_path / "log")
    processes = []
    real = local._process
    monkeypatch.setattr(local, "_process", lambda *args: processes.append(real(*args)) or processes[-1])
    assert next(ended) is None and processes[0].poll() is None
    ended.close()
    assert processes[0].poll() is not None


def test_a_bug_is_an_outcome_with_its_traceback(tmp_path, monkeypatch):
    from kdcore import training

    monkeypatch.setattr(training, "train", lambda **_: [][0])
    (tmp_path / "cells").mkdir()
    found = worker.run_cell(tmp_path / "cells/a-s0", {"model": "a"}, threads=1)
    assert (found.state, found.error) == ("failed", "IndexError: list index out of range") and "Traceback" in found.traceback
    monkeypatch.undo()
    found = worker.run_cell(tmp_path / "cells/a-s0", {"model": "resnt18", "data": "digits"}, threads=1)
    assert found.state == "failed" and "resnt18" in found.error and not found.traceback
    (tmp_path / "file").touch()
    found = worker.run_cell(tmp_path / "file/a-s0", {"model": "a"}, threads=1)  # a lock that cannot be made
    assert found.state == "failed" and "file" in found.error
    assert "every machine must see" in worker.run_cell(tmp_path / "not/there/a-s0", {}, threads=1).error


FORKING = """
import multiprocessing
from kdcore.comparison import worker
from kdcore.comparison.cells import Outcome

def run_cell(**_):
    child = multiprocessing.get_context("fork").Process(target=print)
    child.start()
    child.join(20)
    state = "failed" if child.is_alive() else "finished"
    child.kill()
    return Outcome(state)

worker.run_cell = run_cell
worker.main()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing is forked here")
def test_a_cell_may_fork_processes_that_load_images():
    """They close sys.stdin first, which must not wait for the thread that listens to the parent."""
    line = [sys.executable, "-W", "ignore", "-c", FORKING]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        process.stdin.write("{}\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["state"] == "finished"
        process.stdin.close()
        assert process.wait(20) == 1


def inline(cells, *, threads, by, **_):
    for cell in cells:
        yield cell, worker.run_cell(cell.path, cell.settings, threads=threads, by=by)


class Killer(CompareWatch):
    """Kills the worker of the first cell that has done an epoch, once."""

    def __init__(self):
        self.killed = None
        self.outcomes = []

    def tick(self, standing):
        if self.killed is None:
            for running in standing.running():
                if running.epoch:
                    self.killed = (running.cell, holder(running.cell.path)["pid"])
                    os.kill(self.killed[1], signal.SIGKILL)

    def ended(self, cell, outcome, standing):
        self.outcomes.append(outcome)


def test_a_killed_worker_changes_no_number(tmp_path, monkeypatch):
    """Its cell goes on from its checkpoint in another process, to the tables of a comparison in one."""
    monkeypatch.setattr(local, "TICK", 0.02)
    settings = {**CELL, "epochs": 4, "baselines": False, "method": "deep-supervision", "seeds": "2,", "threads": 1}
    watch = Killer()
    compare("test_resnet_32px", folder=tmp_path / "killed", watch=watch, **settings)
    monkeypatch.setattr(run, "run_local", inline)
    compare("test_resnet_32px", folder=tmp_path / "whole", **settings)
    assert watch.killed is not None and watch.outcomes == [Outcome("finished")]
    environment = json.loads((tmp_path / "killed/cells/deep-supervision-s2/environment.json").read_text())
    assert len(environment["earlier"]) == 1
    for name in TABLES:
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


# -- the whole command, killed -------------------------------------------------------------------------------------------------

ARMS = "plain,deep-supervision,plain:--cutout=8,deep-supervision:--epochs=3"
LINE = ["compare", "test_resnet_32px", "--method", ARMS, "--seeds", "3", "--epochs", "2", "--threads", "1", "--jobs", "2", "--dir", "c"]
LINE += ["--data", "digits", "--img-size", "16", "--train-limit", "96", "-b", "32", "--amp", "none", "--no-channels-last"]
EPOCHS = 3 * (2 + 2 + 2 + 3)


def begin(place, *more):
    place.mkdir(exist_ok=True)
    # A shell that runs the tests in the background has its children ignore Ctrl-C.
    code = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); from kdcli.main import main; main()"
    line = [sys.executable, "-c", code, *LINE, *more]
    return subprocess.Popen(line, cwd=place, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process):
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, said
    return said


def epochs_done(place):
    return sum(len(path.read_text().splitlines()) for path in place.glob("c/cells/*/metrics.jsonl"))


def wait_for(process, reached):
    end = time.monotonic() + 400
    while process.poll() is None and time.monotonic() < end:
        if found := reached():
            return found
        time.sleep(0.02)
    raise AssertionError(process.communicate()[0])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a comparison of 12 cells that nobody disturbed."""
    place = tmp_path_factory.mktemp("whole")
    finish(begin(place))
    return place / "c"


def same_tables(one: Path, other: Path) -> None:
    for name in TABLES:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_twelve_cells_killed_twice_at_random_give_the_same_table(tmp_path, whole):
    seed = int(os.environ.get("KD_KILL_SEED", time.time_ns() % 10_000))
    moments = random.Random(seed)
    at = sorted(moments.sample(range(1, EPOCHS - 1), 2))
    delays = [moments.uniform(0, 0.5) for _ in at]
    print(f"KD_KILL_SEED={seed}: killed after epochs {at} and {delays[0]:.2f}, {delays[1]:.2f} s")
    for epochs, delay in zip(at, delays, strict=True):
        process = begin(tmp_path)
        wait_for(process, lambda: epochs_done(tmp_path) >= epochs)  # noqa: B023
        time.sleep(delay)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert len(list(tmp_path.glob("c/cells/*/results.json"))) < 12
    said = finish(begin(tmp_path))
    assert "12 cells: 4 rows x 3 seeds" in said
    same_tables(tmp_path / "c", whole)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
def test_under_ray_with_a_worker_killed_the_table_is_the_same(tmp_path, whole):
    process = begin(tmp_path, "--engine", "ray")

    def at_work():
        cells = [path.parent for path in tmp_path.glob("c/cells/*/metrics.jsonl") if not (path.parent / "results.json").exists()]
        return [(cell, holder(cell)["pid"]) for cell in cells]

    cell, pid = wait_for(process, at_work)[0]
    os.kill(pid, signal.SIGKILL)
    finish(process)
    assert len(json.loads((cell / "environment.json").read_text()).get("earlier", [])) == 1
    same_tables(tmp_path / "c", whole)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_stops_the_workers_and_says_how_to_go_on(tmp_path, sent, status):
    process = begin(tmp_path)
    wait_for(process, lambda: epochs_done(tmp_path) >= 1)
    os.killpg(process.pid, sent)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == status and "To go on: kd compare --dir c --resume" in said and "Traceback" not in said
    begun = [path.parent for path in tmp_path.glob("c/cells/*/config.toml") if not (path.parent / "results.json").exists()]
    assert begun and all("kd compare was stopped" in (cell / "stopped.json").read_text() for cell in begun)
    assert not list(tmp_path.glob("c/workers.log")), (tmp_path / "c/workers.log").read_text()

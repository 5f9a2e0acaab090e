"""`kd reproduce` on a table of two rows and a teacher, of tiny networks and random images. The engine runs its cells in this process here."""

import importlib.util
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kdcore.errors import KdError
from kdcore.experiments.finding import experiments

TEXT = """
title = "grey squares"
paper = "Doe, Squares, 2020"
url = "https://example.org"
table = "table 7"
checkpoint = "last"
seeds = 2
open = ["the rate is ours"]
[data]
get = "squares.npz, from nowhere"
classes = 10
image_size = 16
channels = 1
train = 40
test = 40
[settings]
epochs = 1
batch_size = 32
dev_fraction = 0.0
options = { "kl.temperature" = 3 }
[teachers.big]
model = "test_resnet_32px"
[[rows]]
name = "alone"
model = "test_resnet_32px"
method = "plain:--lr=0.05"
paper = { deepest = 50.0, deviation = 0.5 }
[[rows]]
name = "taught"
model = "test_resnet_32px"
method = "kd"
teacher = "big"
paper = { deepest = 60.0 }
[[rows]]
name = "FitNet"
needs = "a plugin for FitNet"
paper = { deepest = 58.1 }
[[claims]]
text = "a teacher helps"
kind = "better"
row = "taught"
than = "alone"
"""


@pytest.fixture
def experiment(carried):
    """The file of the experiment squares/t, which a distribution carries; a test may change it."""
    return carried(TEXT)


@pytest.fixture(autouse=True)
def inline(monkeypatch):
    """The engine in this process. Gives the list of cells that it has run; `stop` is the cell before which it is interrupted."""
    from kdcore.comparison import run, worker
    from kdcore.experiments import teachers

    class Ran(list):
        stop = None

    ran = Ran()

    def engine(cells, *, threads, by, **_):
        for cell in cells:
            if str(cell) == ran.stop:
                raise KeyboardInterrupt
            ran.append(str(cell))
            yield cell, worker.run_cell(cell.path, cell.settings, threads=threads, by=by)

    monkeypatch.setattr(run, "run_local", engine)
    monkeypatch.setattr(teachers, "run_local", engine)
    return ran


@pytest.fixture
def not_today(monkeypatch):
    from kdcore.comparison import worker
    from kdcore.comparison.cells import Outcome

    monkeypatch.setattr(worker, "run_cell", lambda *_, **__: Outcome("failed", "not today"))


ALL = [
    "teacher big, seed 0",
    *(f"{row}, seed {seed}" for seed in (0, 1) for row in ("alone", "taught")),
]
FILES = ("reproduction.md", "reproduction.csv", "reproduction.json")
MACHINE = ("--amp", "none", "--threads", "1")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return tmp_path_factory.mktemp("finished")


@pytest.fixture
def done(kd, npz, experiment, inline, finished, tmp_path, monkeypatch):
    """A whole reproduction in d, where the test stands, made once and put back after each test: what was printed."""
    place = finished / "here"
    if not place.exists():
        place.mkdir()
        data = Path(npz("squares.npz")).rename(finished / "squares.npz")
        monkeypatch.chdir(place)
        said = kd("reproduce", "squares/t", "--data", data, "--dir", "d", "--no-baselines", *MACHINE)
        (finished / "said").write_text(said.stdout + said.stderr)
        assert inline == ALL
        shutil.copytree(place, finished / "kept")
        inline.clear()
    monkeypatch.chdir(place)
    yield (finished / "said").read_text()
    monkeypatch.chdir(tmp_path)
    shutil.rmtree(place)
    shutil.copytree(finished / "kept", place)


def test_a_table_with_its_teacher(done):
    table = Path("d/reproduction.md").read_text()
    for row in ("teacher big", "alone", "taught"):
        assert any(line.startswith(f"| {row} | deepest |") and "no finished run" not in line for line in table.splitlines())
    assert "| FitNet | deepest | 58.10 | - |  | needs a plugin for FitNet |" in table
    assert "squares.npz in place of squares.npz, from nowhere: as many classes and images as the paper's" in table
    assert "open in the paper: the rate is ours" in table and "a teacher helps" in table
    assert "without the baseline" not in done and "first the teacher: big" in done
    found = json.loads(Path("d/reproduction.json").read_text())
    assert [line["n"] for line in found["lines"]] == [1, 2, 2, 0] and found["lines"][1]["difference"] is not None
    assert not [line for line in found["differs"] if "seed" in line]
    assert "estimated_minutes" not in json.loads(Path("d/cells/taught-s1/results.json").read_text())  # the table has timed each row
    about = Path("d/cells/taught-s1/config.toml").read_text()
    assert "d/teachers/big" in about and "test_every_epoch = true" in about and '"kl.temperature" = 3' in about


def test_stopped_in_the_middle_and_gone_on_with_it_is_the_same(kd, done, finished, inline, monkeypatch):
    from kdcore.phase_run import PhaseState

    def interrupted(*_):
        raise KeyboardInterrupt

    whole = {name: Path("d", name).read_bytes() for name in FILES}
    line = ["reproduce", "squares/t", "--data", finished / "squares.npz", "--dir", "d", *MACHINE]
    before = Path("d/cells/alone-s0/results.json").stat().st_mtime_ns
    for gone in ("cells/taught-s0", "cells/alone-s1", "teachers/big"):
        shutil.rmtree(Path("d", gone))
    for name in FILES:
        Path("d", name).unlink()
    inline.stop = "taught, seed 0"  # the teacher is trained again, and is the same
    said = kd(*line, status=130)
    assert inline == ["teacher big, seed 0"] and "To go on: kd reproduce squares/t --dir d" in said.stderr
    inline.stop = None
    with monkeypatch.context() as within:  # a run: the line of its epoch is written, the checkpoint is not
        within.setattr(PhaseState, "save", interrupted)
        kd("reproduce", "squares/t", "--dir", "d", status=130)
    assert Path("d/cells/taught-s0/metrics.jsonl").is_file()
    kd("reproduce", "squares/t", "--dir", "d")
    assert inline == ["teacher big, seed 0", "taught, seed 0", "taught, seed 0", "alone, seed 1"]
    assert Path("d/cells/alone-s0/results.json").stat().st_mtime_ns == before
    again = {name: Path("d", name).read_bytes() for name in FILES}
    assert again == whole


def test_a_finished_table_runs_nothing_and_grows(kd, done, inline, not_today):
    said = kd("reproduce", "squares/t", "--dir", "d")
    assert inline == [] and "all 4 cells are finished" in said.stderr
    said = kd("reproduce", "squares/t", "--dir", "d", "--seeds", "4,", "--json", status=1)
    assert inline == [f"{row}, seed 4" for row in ("alone", "taught")]
    found = json.loads(said.stdout)
    assert found["failed"]["alone, seed 4"] == "not today" and "3 seeds and not 2" in found["differs"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("squares/t --dir d --epochs 3", "--epochs 3: d was begun without it"),
        ("squares/t --dir d --smoke", "--smoke: d was begun without it"),
        ("squares/t --dir d --data digits", "--data digits: d was begun with "),
        ("squares/tt", "there is no experiment 'squares/tt'; did you mean 'squares/t'?"),
        ("squares/t squares/t", "one table at a time"),
        ("squares/t --subset 2 --dir e", "--subset 2: a share of the training images"),
        ("squares/t --epochs 0 --dir e", "--epochs 0: at least 1"),
        ("squares/t --row FitNet --dir e", "--row FitNet: the experiment has no such row that can be run"),
        ("--smoke", "which table?"),
        ("--claims nowhere", "nowhere holds no reproduction"),
    ],
)
def test_refusals_are_one_line_and_run_nothing(kd, done, inline, line, said):
    text = kd("reproduce", *line.split(), status=2).stderr
    assert said in text and text.startswith("kd: ") and text.count("\n") == 1
    assert inline == [] and not Path("e").exists()


def test_another_folder_is_not_taken_over(kd, npz, experiment):
    Path("full").mkdir()
    Path("full/thesis.txt").write_text("mine")
    assert "full is not empty, and holds no reproduction" in kd("reproduce", "squares/t", "--dir", "full", status=2).stderr


def test_missing_data_says_what_to_get_and_what_to_type(kd, experiment):
    text = kd("reproduce", "squares/t", status=65).stderr
    assert text.count("\n") == 1 and not Path("runs").exists()
    assert "Get squares.npz, from nowhere; then: kd reproduce squares/t --data FILE|FOLDER" in text
    experiment.write_text(TEXT.replace("[data]\n", '[data]\nname = "torch/fashion-mnist"\n'))
    text = kd("reproduce", "squares/t", "--data-dir", ".", status=65).stderr
    assert "add --download to fetch it" in text and "Or get squares.npz" in text and text.count("\n") == 1


def test_an_unknown_method_names_row_file_and_distribution(kd, npz, experiment, inline):
    experiment.write_text(TEXT.replace('method = "kd"', 'method = "dk"'))
    for more in (["--dry-run"], ["--data", npz("squares.npz")]):
        text = kd("reproduce", "squares/t", *more, status=2).stderr
        assert "row 'taught': there is no method 'dk'" in text and str(experiment) in text and "kdcore-squares 1.2" in text
    assert inline == [] and not Path("runs").exists()


def test_a_changed_file_is_not_mixed_with_what_was_run(kd, done, experiment, inline):
    experiment.write_text(TEXT.replace("--lr=0.05", "--lr=0.1").replace("50.0", "51.0"))
    text = kd("reproduce", "squares/t", "--dir", "d", status=2).stderr
    assert "has changed since d was begun: row 'alone': lr was 0.05 and is 0.1" in text and inline == []
    experiment.write_text(TEXT.replace("50.0", "51.0"))  # a paper's number may be corrected
    kd("reproduce", "squares/t", "--dir", "d")
    assert "51.00" in Path("d/reproduction.md").read_text() and inline == []


def test_a_smoke_test_makes_its_own_images(kd, experiment, inline, monkeypatch):
    experiment.write_text(TEXT.replace("[data]\n", '[data]\nname = "torch/fashion-mnist"\n'))
    monkeypatch.setattr("kdcore.comparison.composing.make_ready", None)  # nothing is composed before the runs, or timed
    said = kd("reproduce", "squares/t", "--smoke", "--row", "taught", "--data-dir", ".", *MACHINE)  # where data is looked for, in vain
    assert "RANDOM IMAGES" in said.stderr and "no accuracy is claimed" in said.stdout and "some seconds each" in said.stderr
    assert inline == ["teacher big, seed 0", "deep-supervision, seed 0", "taught, seed 0"]
    table = Path("runs/reproduce-squares-t-smoke/reproduction.md").read_text()
    assert "| taught | deepest | 60.00 | - |  | ran |" in table and "a teacher helps" not in table


def test_a_smoke_test_that_went_through_keeps_its_table_alone_and_begins_anew(kd, experiment, inline, monkeypatch):
    from kdcore.comparison import worker
    from kdcore.comparison.cells import Outcome

    line = ["reproduce", "squares/t", "--smoke", "--no-baselines", *MACHINE]
    place = Path("runs/reproduce-squares-t-smoke")
    with monkeypatch.context() as within:
        inside = worker.run_cell
        within.setattr(
            worker, "run_cell", lambda path, *a, **k: Outcome("failed", "not today") if "alone" in path.name else inside(path, *a, **k)
        )
        said = kd(*line, status=1)
    assert "deleted" not in said.stderr and (place / "cells/taught-s0/student.safetensors").is_file()
    inline.clear()
    assert "what was trained is deleted" in kd(*line).stderr and inline == ["alone, seed 0"]  # it goes on with what failed
    left = [path for path in place.rglob("*.safetensors") if path.name != "predictions.safetensors"]
    assert not left and not [*place.rglob("checkpoints"), *place.rglob("timm")] and (place / "cells/taught-s0/results.json").is_file()
    inline.clear()
    (place / "thesis.txt").write_text("mine")
    real = Path("real")
    (real / "checkpoints").mkdir(parents=True)
    shutil.copytree(real, place / "cells/brought-s0")  # a run that is not of this grid, and one that lies elsewhere
    (place / "cells/linked-s0").symlink_to(real.resolve(), target_is_directory=True)
    kd(*line, "--seeds", "x", status=2)
    assert (place / "cells/taught-s0/results.json").is_file()
    said = kd("reproduce", "squares/t", "--dir", place, status=2).stderr  # to look at it again is no reason to begin
    assert "its table is runs/reproduce-squares-t-smoke/reproduction.md" in said and "Begin it anew with --smoke" in said and inline == []
    experiment.write_text(TEXT.replace("--lr=0.05", "--lr=0.1"))  # what is mended is tried again
    kd(*line)
    assert inline == ["teacher big, seed 0", "alone, seed 0", "taught, seed 0"] and (place / "thesis.txt").read_text() == "mine"
    assert "lr = 0.1" in (place / "cells/alone-s0/config.toml").read_text()
    assert (
        (real / "checkpoints").is_dir() and (place / "cells/brought-s0/checkpoints").is_dir() and (place / "cells/linked-s0").is_symlink()
    )
    inline.clear()
    kd(*line, "--row", "alone")  # the other row is of the smoke test before, and cannot go on
    assert inline == ["alone, seed 0"] and not (place / "cells/taught-s0").exists()


def test_a_dry_run_composes_and_writes_nothing(kd, experiment, inline):
    said = kd("reproduce", "squares/t", "--dry-run").stdout
    assert "taught" in said and "all of them compose; 6 runs over 2 seeds, 40 training images" in said
    assert "FitNet: needs a plugin for FitNet" in said and "data: squares.npz, from nowhere" in said
    assert inline == [] and not Path("runs").exists()


def test_the_list_goes_past_a_malformed_file(kd, experiment):
    broken = experiment.with_name("broken.toml")
    broken.write_text(TEXT.replace("table =", "tabel ="))
    said = kd("reproduce")
    line = next(line for line in said.stdout.splitlines() if line.startswith("squares/t "))
    assert line.split()[1:] == ["Doe,", "table", "7", "grey", "squares", "2/3", "4", "x", "1", "x", "40", "-"]
    assert "there is no key 'tabel'; did you mean 'table'?" in said.stderr and str(broken) in said.stderr
    one = next(one for one in json.loads(kd("reproduce", "--json").stdout) if one["experiment"] == "squares/t")
    assert (one["runnable"], one["rows"], one["runs"], one["hours_here"]) == (2, 3, 4, None)


def test_claims_and_hours_of_what_was_run(kd, done):
    said = kd("reproduce", "--claims", "d").stdout
    assert "squares/t (d; 4 finished runs, 2 seeds" in said and "a teacher helps" in said and "taught - alone at deepest" in said
    judged = json.loads(kd("reproduce", "--claims", "d", "--json").stdout)[0]["claims"][0]
    assert judged["verdict"] in ("held", "not held") and "n 2" in judged["remark"]
    shutil.rmtree("d/cells/taught-s0")
    shutil.rmtree("d/cells/taught-s1")
    judged = json.loads(kd("reproduce", "--claims", "d", "--json").stdout)[0]["claims"][0]
    assert (judged["verdict"], judged["remark"]) == ("not testable here", "no finished run of taught")
    shutil.copytree("d", "runs/d")
    listed = json.loads(kd("reproduce", "--json").stdout)
    assert next(one for one in listed if one["experiment"] == "squares/t")["hours_here"] > 0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_in_the_middle_of_its_teacher_and_of_its_rows_the_table_is_the_same(tmp_path, npz, experiment):
    """The whole command, in processes of its own, at moments that no one chose."""
    experiment.write_text(TEXT.replace("epochs = 1", "epochs = 4"))
    data = npz("squares.npz")
    seed = int(os.environ.get("KD_KILL_SEED", time.time_ns() % 10_000))
    moments = random.Random(seed)
    print(f"KD_KILL_SEED={seed}")
    line = [sys.executable, "-c", "from kdcli.main import main; main()"]
    line += ["reproduce", "squares/t", "--data", data, "--dir", "d", "--no-baselines", "--jobs", "2", *MACHINE]
    environment = {**os.environ, "PYTHONPATH": str(experiment.parents[2])}

    def run(place, until=None):
        with open(tmp_path / "said", "w+") as said:
            process = subprocess.Popen(line, cwd=place, env=environment, start_new_session=True, stdout=said, stderr=said)
            while until is not None and not until(place):
                assert process.poll() is None, Path(said.name).read_text()
                time.sleep(0.02)
            if until is not None:
                time.sleep(moments.uniform(0, 0.3))
                os.killpg(process.pid, signal.SIGKILL)
            assert process.wait() == (0 if until is None else -signal.SIGKILL), Path(said.name).read_text()

    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    run(tmp_path / "whole")
    for at in ("teachers/big", "cells/alone-s0", "cells/alone-s1"):
        begun = f"d/{at}/metrics.jsonl"
        run(tmp_path / "killed", until=lambda place: (place / begun).is_file())  # noqa: B023
    assert not (tmp_path / "killed/d/reproduction.md").exists()
    run(tmp_path / "killed")
    for name in (*FILES, "table.md"):
        found, wanted = ((tmp_path / place / "d" / name).read_text() for place in ("killed", "whole"))
        assert found.replace(str(tmp_path / "killed"), str(tmp_path / "whole")) == wanted, name  # a note says where the teacher lies


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
def test_on_ray_with_its_teacher(kd, experiment, inline):
    """Teacher and students in Ray's own processes: none of them in this one."""
    kd("reproduce", "squares/t", "--smoke", "--row", "taught", "--engine", "ray", "--jobs", "1", *MACHINE)
    table = Path("runs/reproduce-squares-t-smoke/reproduction.md").read_text()
    assert inline == [] and "| taught | deepest | 60.00 | - |  | ran |" in table
    assert Path("runs/reproduce-squares-t-smoke/teachers/big/results.json").is_file()


def test_without_ray_nothing_is_begun(kd, experiment, monkeypatch):
    from kdcore.comparison import ray_engine

    monkeypatch.setattr(ray_engine, "find_spec", lambda name: None)
    text = kd("reproduce", "squares/t", "--smoke", "--engine", "ray", status=2).stderr
    assert text == 'kd: --engine ray needs Ray: pip install "kdcore[ray]"\n' and not Path("runs").exists()


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
def test_a_ray_that_does_not_start_is_one_line(kd, experiment, monkeypatch):
    import ray

    def init(**_):
        raise Exception("The current node timed out\nduring startup.")

    monkeypatch.setattr(ray, "init", init)
    text = kd("reproduce", "squares/t", "--smoke", "--row", "alone", "--no-baselines", "--engine", "ray", *MACHINE, status=2).stderr
    assert text.endswith("kd: --engine ray: no Ray starts here: The current node timed out during startup.\n") and "Traceback" not in text


SMOKE_SECONDS = 60
"""Of one core that a smoke test may take: under a minute even where it has no more. Seconds of the CPU, since the machine may have more to do."""


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", sorted(experiments()))
def test_every_table_runs_in_a_smoke_test(kd, name):
    """Each method of each table, with each of its options, for one epoch of random images; all of it in this process, and on one thread."""
    begin = time.process_time()
    said = kd("reproduce", name, "--smoke", "--data-dir", ".", "--json", *MACHINE)
    took = time.process_time() - begin
    found = json.loads(said.stdout)
    ran = {line["row"] for line in found["lines"] if line["note"] == "ran"}
    rows = experiments()[name].read().runnable
    arms = {row.name: (row.arm.method, *sorted(row.arm.options)) for row in rows}
    assert {arms[row] for row in ran & arms.keys()} == {*arms.values()} and found["failed"] == {}
    assert not [line for line in found["lines"] if line["note"] == "no finished run"]
    assert took < SMOKE_SECONDS


def test_some_rows_and_then_the_rest(kd, done, inline, finished, not_today):
    line = ["reproduce", "squares/t", "--data", finished / "squares.npz", "--dir", "e", "--seeds", "1", "--no-baselines", *MACHINE]
    kd(*line, "--row", "al*", status=2)
    assert inline == ["alone, seed 0"]  # and kl.temperature, which only the other row knows, is no slip
    assert "teacher big of e failed, and its students need it: not today" in kd(*line, status=2).stderr
    assert inline == ["alone, seed 0", "teacher big, seed 0"]


def test_a_folder_that_was_moved_says_so(kd, done, inline):
    Path("d").rename("moved")
    kd("reproduce", "squares/t", "--dir", "moved")  # nothing is left to run
    shutil.rmtree("moved/cells/taught-s1")
    text = kd("reproduce", "squares/t", "--dir", "moved", status=2).stderr
    assert "moved was at " in text and "row 'taught' has its teacher: move it back" in text and inline == []


def test_where_the_machine_cannot_be_timed_the_list_has_no_hours(kd, monkeypatch):
    def fails():
        raise KdError("no room on the GPU")

    monkeypatch.setattr("kdcore.experiments.pace.timed", fails)
    done = kd("reproduce")
    assert done.stderr.count("no room on the GPU; so no hours") == 1 and "osakd/table1-cifar10" in done.stdout
    assert "about" not in kd("reproduce", "osakd/table1-cifar10", "--dry-run").stdout

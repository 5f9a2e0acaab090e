"""`kd runs` on folders written by hand: no training, and no torch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


def make(
    path, *, seed=0, tops=(70.0, 90.0, 80.0), test=(60.0, 85.0, 88.0), finished=True, model="resnet18", date="2026-03-01", lr=0.1, done=2
):
    path = Path(path)
    (path / "checkpoints").mkdir(parents=True)
    (path / "config.toml").write_text(f'model = "{model}"\ndata = "/photos/road"\nmethod = "byot"\nseed = {seed}\nlr = {lr}\nepochs = 2\n')
    environment = {"date": f"{date}T10:00:00+00:00", "command": "kd train"}
    (path / "environment.json").write_text(json.dumps(environment))
    records = [{"phase_number": 1, "epoch": k + 1, "epochs": 2, "minutes": 1.5, "dev": {}, "train": {}} for k in range(done)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))

    def split(values):
        return {
            "exits": [{"exit": k, "top1": value} for k, value in enumerate(values, start=1)],
            "ensembles": {"fitted": {"top1": max(values)}},
        }

    if finished:
        best = {"epoch": 2} | ({"dev": split(tops)} if tops else {}) | ({"test": split(test)} if test else {})
        (path / "results.json").write_text(json.dumps({"best": best, "last": best, "minutes": 3.0, "checkpoints": {}, "samples": {}}))
    return path


@pytest.fixture
def folder():
    make("runs/a", seed=1, date="2026-03-01")
    make("runs/demo-1/b", seed=2, date="2026-03-03", test=(61.0, 83.0, 99.0))
    make("runs/c", seed=0, date="2026-03-02", finished=False, done=1, model="a_backbone_with_a_very_long_name_indeed_384")
    return Path("runs")


def test_a_row_for_each_run_newest_first(kd, folder):
    rows = json.loads(kd("runs", "--json").stdout)
    assert [row["run"] for row in rows] == ["demo-1/b", "c", "a"]
    newest, half, _ = rows
    assert (newest["dev"], newest["test"], newest["exit"], newest["test@exit"]) == (80.0, 99.0, 2, 83.0)
    assert (newest["epochs"], newest["minutes"], newest["state"], newest["seed"]) == ("2/2", 3.0, "finished", 2)
    assert (half["epochs"], half["state"], half["test"], half["problem"]) == ("1/2", "running", None, None)


def test_a_run_that_nobody_writes_to_has_stopped(kd, folder):
    import os

    for path in folder.joinpath("c").iterdir():
        os.utime(path, (0, 0))
    (row,) = json.loads(kd("runs", "runs/c", "--json").stdout)
    assert row["state"] == "stopped"


@pytest.mark.parametrize(
    ("column", "order"), [("seed", "cab"), ("run", "acb"), ("test", "bac"), ("test@exit", "abc"), ("epochs", "cab"), ("date", "bca")]
)
def test_sorted_by_a_column(kd, folder, column, order):
    rows = json.loads(kd("runs", "--sort", column, "--json").stdout)
    assert "".join(row["run"][-1] for row in rows) == order
    back = json.loads(kd("runs", "--sort", column, "--reverse", "--json").stdout)
    assert back == rows[::-1]


def test_what_all_share_is_said_once_and_lines_fit(kd, folder):
    lines = kd("runs").stdout.splitlines()
    assert lines[0].strip() == "all: method byot, data road"
    assert max(map(len, lines)) <= 100
    assert any("1/2 running" in line for line in lines)
    assert any(line.split()[0] == "demo-1/b" and "83.0 @2" in line and "03-03" in line for line in lines if line.strip())


def test_damaged_runs_are_listed_with_the_reason(kd, folder):
    Path("runs/a/results.json").write_text("{")
    Path("runs/demo-1/b/results.json").write_text('{"best": 3}')
    Path("runs/c/config.toml").unlink()
    rows = {row["run"]: row for row in json.loads(kd("runs", "--json").stdout)}
    assert {row["state"] for row in rows.values()} == {"damaged"}
    assert "damaged, it is not JSON" in rows["a"]["problem"] and "no config.toml" in rows["c"]["problem"]
    assert "what kd does not write" in rows["demo-1/b"]["problem"]
    assert "runs/a/results.json is damaged" in kd("runs").stdout


def test_without_dev_or_without_any_split(kd):
    make("runs/a", tops=None)
    make("runs/b", tops=None, test=None)
    make("runs/c", test=None)
    rows = {row["run"]: row for row in json.loads(kd("runs", "--json").stdout)}
    assert (rows["a"]["exit"], rows["a"]["test@exit"], rows["a"]["dev"]) == (3, 88.0, None)
    assert (rows["b"]["exit"], rows["b"]["test"], rows["b"]["problem"]) == (None, None, None)
    assert (rows["c"]["exit"], rows["c"]["dev"], rows["c"]["test"]) == (2, 80.0, None)
    kd("runs")


def test_equal_runs_are_grouped_over_seeds(kd):
    for seed, top in enumerate((80.0, 84.0, 88.0)):
        make(f"runs/a{seed}", seed=seed, tops=(1.0, top, 2.0), test=(1.0, top, 2.0))
    make("runs/b", lr=0.2)
    found = json.loads(kd("runs", "--json", "--compare", "runs/a0", "runs/b", "runs/a1", "runs/a2").stdout)
    assert [group["seeds"] for group in found["groups"]] == [[0, 1, 2], [0]]
    assert found["options"] == {"lr": [0.1, 0.2]}
    assert found["metrics"]["test exit 2"] == [{"mean": 84.0, "deviation": 4.0, "n": 3}, {"mean": 85.0, "deviation": None, "n": 1}]
    assert found["metrics"]["test, best exit on dev"][0]["mean"] == 84.0
    text = kd("runs", "--compare", "runs/a0", "runs/b", "runs/a1", "runs/a2").stdout
    assert "84.0 ± 4.0 (3)" in text and "A: runs/a0, runs/a1, runs/a2 (seeds 0, 1, 2)" in text
    assert "no option differs but the seed" in kd("runs", "--compare", "runs/a0", "runs/a1").stdout


def test_what_a_user_types_wrongly(kd, folder):
    assert "did you mean 'test'" in kd("runs", "--sort", "tests", status=2).stderr
    assert "there is no folder nowhere" in kd("runs", "nowhere", status=2).stderr
    assert "two runs or more" in kd("runs", "--compare", "runs/a", status=2).stderr
    assert "is not finished" in kd("runs", "--compare", "runs/a", "runs/c", status=2).stderr
    assert "kd runs --compare runs/a runs/c" in kd("runs", "runs/a", "runs/c", status=2).stderr
    Path("empty").mkdir()
    assert "there is no run in empty yet" in kd("runs", "empty").stdout


def test_it_imports_no_torch(folder):
    code = "import sys\nfrom kdcli.main import kd\ntry:\n    kd.main(['runs'], prog_name='kd')\nfinally:\n    print(sorted({'torch', 'numpy', 'pydantic'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]", done.stdout + done.stderr


def test_runs_that_can_teach_and_whom_they_taught(kd, folder):
    deep = make("runs/reproduce/teachers/big", test=(70.0, 91.0))
    for path in (folder / "a", folder / "demo-1/b", deep):
        (path / "student.safetensors").touch()
    for pupil, teacher in (("p1", deep), ("p2", deep / "student.safetensors"), ("p3", folder / "a")):
        config = make(f"runs/x/{pupil}") / "config.toml"
        config.write_text(config.read_text() + f'teacher = "{teacher.resolve().as_posix()}"\n')
    rows = json.loads(kd("runs", "--teachers", "--json").stdout)
    assert [(row["run"], row["test"], row["taught"]) for row in rows] == [
        ("demo-1/b", 99.0, 0),
        ("reproduce/teachers/big", 91.0, 2),
        ("a", 88.0, 1),
    ]
    said = kd("runs", "teachers").stdout
    assert "reproduce/teachers/big" in said and "--teacher runs/demo-1/b" in said
    assert "no run in empty is finished" in (Path("empty").mkdir() or kd("runs", "--teachers", "empty").stdout)

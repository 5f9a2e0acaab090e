"""`kd compare` on cells of an epoch. The engine runs them in this process here; the worker processes have `tests/test_comparison_engines.py`."""

import json
import shutil
import tomllib
from pathlib import Path

import pytest

METHODS = '''
from kdcore import CE, KL, Method, Term, deepest, hookimpl, linear

def soft(*, alpha: float = 1.0) -> Method:
    """Learns from its deepest exit."""
    return Method(exits=linear, sources={"deepest": deepest}, terms={"ce": Term(CE()), "kl": Term(KL(), source="deepest", weight=alpha)})

@hookimpl
def methods():
    return {"soft": soft}
'''


@pytest.fixture(autouse=True)
def inline(monkeypatch):
    """The engine in this process. Gives the list of cells that it has run."""
    from kdcore.comparison import run, worker

    ran = []

    def engine(cells, *, threads, by, **_):
        for cell in cells:
            ran.append(str(cell))
            yield cell, worker.run_cell(cell.path, cell.settings, threads=threads, by=by)

    monkeypatch.setattr(run, "run_local", engine)
    return ran


@pytest.fixture
def short(npz):
    return ["test_resnet_32px", "--data", npz("set.npz"), "--epochs", "1", "-b", "32", "--amp", "none", "--threads", "1"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return tmp_path_factory.mktemp("finished")


@pytest.fixture
def done(kd, finished, tmp_path, inline):
    """A finished comparison of two rows and one seed in ./c, made once."""
    if not any(finished.iterdir()):
        import numpy as np

        rng = np.random.default_rng(0)
        images = {f"{split}_images": rng.integers(0, 256, (40, 16, 16), dtype=np.uint8) for split in ("train", "test")}
        np.savez(finished / "set.npz", **images, train_labels=np.arange(40) % 4, test_labels=np.arange(40) % 4)
        line = ["test_resnet_32px", "--data", finished / "set.npz", "--epochs", 1, "-b", 32, "--amp", "none", "--threads", 1]
        kd("compare", *line, "--seeds", 1, "--dir", finished / "c")
        inline.clear()
    shutil.copytree(finished / "c", tmp_path / "c")
    return tmp_path / "c"


def config(cell):
    return tomllib.loads((Path(cell) / "config.toml").read_text())


def test_rows_cells_and_tables(kd, short, inline):
    Path("mine.py").write_text(METHODS)
    said = kd(
        "compare", *short, "-p", "mine.py", "--method", "mine.soft:alpha=3:--epochs=2", "--seeds", "4,", "-o", "ce.label_smoothing=0.1"
    )
    folder = Path("runs/compare-1")
    names = ["plain", "deep-supervision", "mine.soft:alpha=3:--epochs=2"]
    assert inline == [f"{name}, seed 4" for name in names]
    cells = {
        name: config(folder / "cells" / f"{slug}-s4")
        for name, slug in zip(names, ["plain", "deep-supervision", "mine.soft-alpha=3---epochs=2"], strict=True)
    }
    assert [cell["epochs"] for cell in cells.values()] == [1, 1, 2]
    assert all(cell["options"]["ce.label_smoothing"] == 0.1 and cell["seed"] == 4 and cell["test_every_epoch"] for cell in cells.values())
    assert cells[names[2]]["options"]["alpha"] == 3
    assert "3 cells: 3 rows x 1 seed; about " in said.stderr and "[3/3] mine.soft:alpha=3:--epochs=2, seed 4: dev " in said.stderr
    assert all(name in (folder / "table.md").read_text() for name in names)
    assert "optimistic" in said.stdout and "kd runs runs/compare-1/cells" in said.stdout
    assert (folder / "plugins/mine.py").exists()


def test_finished_cells_are_never_run_again(kd, done, inline, monkeypatch):
    before = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in (done / "cells").rglob("*") if path.is_file()}
    tables = {name: (done / name).read_bytes() for name in ("table.csv", "table.md", "table.tex", "comparison.json", "plot.png")}
    from kdcore.comparison import composing

    monkeypatch.setattr(composing, "compose_rows", None)
    said = kd("compare", "--dir", done, "--resume")
    assert inline == [] and "all 2 cells are finished" in said.stderr
    assert before == {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in (done / "cells").rglob("*") if path.is_file()}
    assert tables == {name: (done / name).read_bytes() for name in tables}


@pytest.fixture
def nothing_runs(monkeypatch):
    from kdcore.comparison import worker
    from kdcore.comparison.cells import Outcome

    monkeypatch.setattr(worker, "run_cell", lambda *_, **__: Outcome("failed", "not today"))


def test_seeds_and_rows_are_added(kd, done, inline, nothing_runs):
    said = kd("compare", "--dir", done, "--seeds", "2", "--method", "plain:--no-aug", status=1)
    assert inline == ["plain:--no-aug, seed 0", "plain, seed 1", "deep-supervision, seed 1", "plain:--no-aug, seed 1"]
    assert "6 cells: 3 rows x 2 seeds, 2 done; about" in said.stderr
    grid = tomllib.loads((done / "compare.toml").read_text())
    assert (grid["seeds"], [row["name"] for row in grid["rows"]]) == ([0, 1], ["plain", "deep-supervision", "plain:--no-aug"])
    assert grid["rows"][2]["settings"] == {"aug": False}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--dir c --epochs 7", "--epochs 7: c was begun with 1 and not it"),
        ("--dir c --threads 2", "--threads 2: c was begun with 1"),
        ("--dir c --method plain:--aug=1", "--aug takes no value"),
        ("--dir c --seeds none", "--seeds none"),
        ("--dir nothing --resume", "there is no comparison in nothing"),
        ("--resume", "--resume needs the comparison's folder"),
        ("", "there is nothing to compare"),
        ("--method plain", "BACKBONE is missing"),
        ("resnet18", "--data is missing"),
        ("resnet18 --data digits --minutes 3", "--minutes 3 would give"),
        ("resnet18 --data digits --amp try", "--amp try may choose otherwise"),
        ("--runs nowhere", "there is no folder "),
        ("resnet18 --data digits --device cuda:0,cpu", "several devices"),
    ],
)
def test_refusals_are_one_line_and_make_nothing(kd, done, inline, line, said):
    before = (done / "compare.toml").read_bytes()
    text = kd("compare", *line.split(), status=2).stderr
    assert said in text and text.startswith("kd: ") and text.count("\n") == 1
    assert inline == [] and not Path("runs").exists() and (done / "compare.toml").read_bytes() == before


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--method", "plain,mine.sfot"], "row 'mine.sfot': plugin 'mine' (mine.py ) has no method 'mine.sfot'; did you mean 'mine.soft'?"),
        (["--method", "mine.soft:alhpa=2"], "row 'mine.soft:alhpa=2': method 'mine.soft' (mine.py ) has no option 'alhpa'"),
        (["--method", "mine.soft", "-o", "alhpa=2"], "-o alhpa=2: no row of this comparison has that option; did you mean 'alpha'?"),
        (["-o", "kl.temperature=2"], "-o kl.temperature=2: no row of this comparison has that option"),
        (["--teacher", "other"], "--teacher other: no row of this comparison uses a teacher"),
        (["--loss", "kl@deepest:shallow"], "make it one: --method 'mine=deep-supervision:--loss=\"kl@deepest:shallow\"'"),
        (["--method", "plain:--img-size=8:--crop-pct=0.5"], "row 'plain:--img-size=8:--crop-pct=0.5': --crop-pct 0.5"),
    ],
)
def test_a_slip_in_any_row_is_said_before_the_first_cell(kd, short, inline, more, said):
    Path("mine.py").write_text(METHODS)
    text = kd("compare", *short, "-p", "mine.py", *more, status=2).stderr
    assert said.replace(" )", ")") in text.replace(" )", ")") and inline == [] and not Path("runs").exists()


def test_options_go_to_the_rows_that_know_them(kd, short, monkeypatch):
    from kdcore.comparison.arms import parse_arms
    from kdcore.comparison.composing import route
    from kdcore.comparison.grid import Grid

    Path("mine.py").write_text(METHODS)
    shared = {"data": "digits", "plugin": ["mine.py"], "loss": ["ce:deepest=0.1"], "teacher": "run"}
    grid = Grid(seeds=[0], shared={**shared, "options": {"alpha": 0.5, "kl.temperature": 3, "ce.label_smoothing": 0.2}})
    grid.add_rows(["test_resnet"], parse_arms(["plain,mine.soft,mine.soft:alpha=5,kd,plain:--smoothing=0.1"]))
    found = route(grid)
    assert [settings["options"] for settings in found.values()] == [
        {"ce.label_smoothing": 0.2},
        {"alpha": 0.5, "kl.temperature": 3, "ce.label_smoothing": 0.2},
        {"alpha": 5, "kl.temperature": 3, "ce.label_smoothing": 0.2},
        {"alpha": 0.5, "kl.temperature": 3, "ce.label_smoothing": 0.2},  # its part `kl` too
        {"ce.label_smoothing": 0.2},
    ]
    assert [settings.get("loss") for settings in found.values()] == [None, *[["ce:deepest=0.1"]] * 4]
    assert [settings.get("teacher") for settings in found.values()] == [None, None, None, "run", None]


def test_a_teacher_stays_away_from_a_row_whose_weight_moves_without_one(short):
    from kdcore.comparison.arms import parse_arms
    from kdcore.comparison.composing import route
    from kdcore.comparison.grid import Grid

    moving = METHODS.replace("import CE", "import CE, Linear").replace("weight=alpha", "weight=Linear(0, alpha)")
    Path("mine.py").write_text(moving)
    grid = Grid(seeds=[0], shared={"data": "digits", "plugin": ["mine.py"], "teacher": "run"})
    grid.add_rows(["test_resnet"], parse_arms(["mine.soft,kd"]))
    assert [settings.get("teacher") for settings in route(grid).values()] == [None, "run"]


def test_without_the_baselines_is_said_aloud(kd, short, inline):
    said = kd("compare", *short, "--no-baselines", "--method", "plain", "--seeds", "1")
    assert inline == ["plain, seed 0"]
    assert "without the baseline deep-supervision" in said.stderr and "without the baseline deep-supervision" in said.stdout


def test_a_failed_cell_is_told_and_the_others_go_on(kd, done, inline, monkeypatch):
    from kdcore import training

    real = training.train

    def breaks(*args, run, **settings):
        return real(*args, run=run, **settings) if run.name != "plain-s1" else 1 // 0

    monkeypatch.setattr(training, "train", breaks)
    said = kd("compare", "--dir", done, "--seeds", "2", "--json", status=1)
    reason = "ZeroDivisionError: integer division or modulo by zero"
    assert json.loads(said.stdout)["failed"] == {"plain, seed 1": reason}
    assert f"[3/4] plain, seed 1: failed: {reason}" in said.stderr and "[4/4] deep-supervision, seed 1: dev " in said.stderr
    assert "plain has no run of seed 1" in (done / "table.md").read_text()
    assert "Traceback" in (done / "cells/plain-s1.log").read_text()
    monkeypatch.setattr(training, "train", real)
    inline.clear()
    kd("compare", "--dir", done, "--resume")
    assert inline == ["plain, seed 1"] and not (done / "cells/plain-s1.log").exists()


def test_runs_that_are_there_join_the_table(kd, done, inline, finished):
    line = ["test_resnet_32px", "--data", finished / "set.npz", "-b", 32, "--amp", "none", "--method", "plain", "--quiet"]
    kd("train", *line, "--epochs", 1, "--seed", 5, "--run", "old/a")
    kd("train", *line, "--epochs", 1, "--seed", 0, "--run", "old/b")
    kd("train", *line, "--epochs", 2, "--seed", 5, "--run", "old/c")
    Path("old/d/checkpoints").mkdir(parents=True)
    said = kd("compare", "--dir", done, "--runs", "old", "--json")
    rows = {row["row"]: row["seeds"] for row in json.loads(said.stdout)["rows"]}
    assert rows == {"plain": [0, 5], "deep-supervision": [0], "plain:--epochs=2": [5]}
    assert "old/d is not finished, and left out" in said.stderr
    assert "old/b has the settings and the seed of c/cells/plain-s0, and is left out" in said.stderr.replace(str(Path.cwd()) + "/", "")
    alone = kd("compare", "--runs", "old/[ac]", "--runs", "c/cells", "--json")
    assert {row["row"]: row["seeds"] for row in json.loads(alone.stdout)["rows"]} == {
        "plain:--epochs=1": [0, 5],
        "deep-supervision": [0],
        "plain:--epochs=2": [5],
    }
    assert inline == [] and Path("runs/compare-1/table.csv").exists()
    shutil.rmtree("old")
    gone = kd("compare", "--dir", done, "--resume", "--json")
    assert "of an earlier command, is gone" in gone.stderr and len(json.loads(gone.stdout)["rows"]) == 2
    kd("compare", "--dir", done, "--runs", "old", status=2)


def test_several_backbones(kd, short, inline, nothing_runs):
    line = ["test_resnet_32px,test_resnet", *short[1:], "--img-size", "16", "--seeds", "1", "--no-baselines", "--method", "plain"]
    said = kd("compare", *line, status=2)
    assert inline == ["test_resnet_32px plain, seed 0", "test_resnet plain, seed 0"]
    assert "no cell of runs/compare-1 was finished: not today" in said.stderr


def test_stopped_says_how_to_go_on(kd, short, monkeypatch):
    from kdcore.comparison import run

    def engine(cells, **_):
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(run, "run_local", engine)
    said = kd("compare", *short, "--seeds", "1", "--quiet", status=130)
    assert said.stderr.strip().endswith("To go on: kd compare --dir runs/compare-1 --resume")


def test_ray_that_is_missing_is_one_line(kd, short, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    text = kd("compare", *short, "--seeds", "1", "--engine", "ray", status=2).stderr
    assert 'kd: --engine ray needs Ray: pip install "kdcore[ray]"' in text

import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kdcore.config import read_config
from kdcore.errors import FileError, KdError
from kdcore.runs import Run


@pytest.fixture
def run(tmp_path) -> Run:
    return Run.create(tmp_path / "run", stem="unused")


def one_line(error, status: int = 74) -> str:
    line = str(error.value)
    assert "\n" not in line and error.value.exit_status == status
    return line


def test_importing_it_imports_no_torch():
    check = "import sys, kdcore.runs; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], timeout=60).returncode == 0


def test_numbered_runs_take_the_first_free_number(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Run.create(None, stem="resnet18-byot").path == Path("runs/resnet18-byot-1")
    (tmp_path / "runs/resnet18-byot-2").write_text("in the way")
    assert Run.create(None, stem="resnet18-byot").path == Path("runs/resnet18-byot-3")
    assert Run.create(None, stem="cifar/resnet20").path == Path("runs/cifar-resnet20-1")


def test_no_two_processes_share_a_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with ThreadPoolExecutor(16) as pool:
        paths = list(pool.map(lambda _: Run.create(None, stem="x").path, range(40)))
    assert len(set(paths)) == 40

    def explicit(_):
        try:
            return Run.create("mine", stem="x")
        except KdError:
            return None

    with ThreadPoolExecutor(16) as pool:
        assert sum(made is not None for made in pool.map(explicit, range(40))) == 1


def test_a_folder_with_something_in_it_is_left_alone(tmp_path):
    run = Run.create(tmp_path / "a/b", stem="x")
    run.write_config({"epochs": 1})
    with pytest.raises(KdError) as error:
        Run.create(tmp_path / "a/b", stem="x")
    assert one_line(error, 2) == f"{tmp_path}/a/b already holds a run; add --resume to continue it, or choose another --run"
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/cat.jpg").write_text("cat")
    with pytest.raises(KdError) as error:
        Run.create(tmp_path / "photos", stem="x")
    assert one_line(error, 2) == f"{tmp_path}/photos is not empty, and holds no run; choose another --run"
    assert os.listdir(tmp_path / "photos") == ["cat.jpg"]
    (tmp_path / "empty").mkdir()
    assert Run.create(tmp_path / "empty", stem="x").path == tmp_path / "empty"


def test_a_run_that_did_not_get_as_far_as_its_configuration_is_not_to_be_resumed(tmp_path):
    """The disk was full, say: there is nothing to go on from."""
    Run.create(tmp_path / "run", stem="x")
    for claim in (lambda: Run.create(tmp_path / "run", stem="x"), lambda: Run.check_free(tmp_path / "run")):
        with pytest.raises(KdError) as error:
            claim()
        assert "choose another --run, or remove it" in one_line(error, 2) and "--resume" not in str(error.value)


def test_settings_that_were_read_back_are_written_the_same(tmp_path):
    """Else a resumed run would differ from one that was not, where runs are compared."""
    run = Run.create(tmp_path / "run", stem="x")
    run.write_config(read_config({"model": "resnet18", "data": "digits"}).model_dump(exclude_none=True))
    before = (run.path / "config.toml").read_text()
    run.write_config(read_config(run.config()).model_dump(exclude_none=True))
    assert (run.path / "config.toml").read_text() == before


def test_where_no_folder_can_be_made(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file/run", tmp_path / "file/deep/run"):
        with pytest.raises(FileError) as error:
            Run.create(path, stem="x")
        assert "is in the way, and is not a folder" in one_line(error)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").write_text("mine")
    with pytest.raises(FileError) as error:
        Run.create(None, stem="x")
    assert "runs is in the way" in one_line(error)
    assert (tmp_path / "file").read_text() == (tmp_path / "runs").read_text() == "mine"

    def denied(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", denied)
    with pytest.raises(FileError) as error:
        Run.create("elsewhere", stem="x")
    assert one_line(error) == "cannot make a run at elsewhere: Permission denied"


def test_open_takes_run_folders_only(tmp_path, run):
    with pytest.raises(FileError) as error:
        Run.open(tmp_path / "none")
    assert one_line(error) == f"there is no run folder {tmp_path}/none"
    with pytest.raises(FileError) as error:
        Run.open(run.path)
    assert one_line(error) == f"{run.path} is not a run folder: it has no config.toml"
    run.write_config({})
    assert Run.open(str(run.path)) == run


def test_the_config_comes_back_without_what_is_none(run):
    run.write_config({"lr": 0.1, "taps": None, "data": Path("a/b"), "exits": {"byot": {"k": (1, 2), "x": None}}, "name": 'größe "x"\n'})
    assert run.config() == {"lr": 0.1, "data": "a/b", "exits": {"byot": {"k": [1, 2]}}, "name": 'größe "x"\n'}
    (run.path / "config.toml").write_text("= 3")
    with pytest.raises(FileError) as error:
        run.config()
    assert "not TOML" in one_line(error)


def test_the_environment_keeps_what_a_resumed_run_began_with(run, monkeypatch):
    import json

    plugins = [{"name": "byot", "distribution": "kdcore-byot", "version": "0.1.0"}]
    for argv in (["/bin/kd", "train", "a b"], ["/bin/kd", "train", "--resume"], ["/bin/kd", "x"]):
        monkeypatch.setattr(sys, "argv", argv)
        run.write_environment(plugins)
    written = json.loads((run.path / "environment.json").read_text())
    assert written["command"] == "kd x" and written["plugins"] == plugins
    assert [former["command"] for former in written["earlier"]] == ["kd train 'a b'", "kd train --resume"]
    assert all(written["versions"][name] for name in ("torch", "timm", "safetensors", "numpy", "kdcore"))
    assert {"date", "python", "platform", "cpu", "gpu"} <= set(written)


def test_metrics_survive_a_torn_line(run):
    assert run.metrics() == []
    records = [{"epoch": k, "loss": 1 / (k + 1), "name": "ä"} for k in range(3)]
    for record in records:
        run.append(record)
    assert run.metrics() == records
    path = run.path / "metrics.jsonl"
    whole = path.read_bytes()
    last = whole.rstrip(b"\n").rindex(b"\n") + 1
    for end in range(last, len(whole) - 1):
        path.write_bytes(whole[:end])
        assert run.metrics() == records[:2]
        run.append({"epoch": 9})
        assert run.metrics() == [*records[:2], {"epoch": 9}]
    path.write_bytes(whole[:-1])  # only the end of the line is missing
    run.append({"epoch": 9})
    assert run.metrics() == [*records, {"epoch": 9}]


def test_metrics_hold_no_nan(run):
    run.append({"loss": math.nan, "terms": {"ce": math.inf, "kl": [1.0, -math.inf]}})
    assert run.metrics() == [{"loss": None, "terms": {"ce": None, "kl": [1.0, None]}}]


def test_metrics_after_the_checkpoint_are_dropped(run):
    run.truncate_metrics(lambda record: False)
    assert not (run.path / "metrics.jsonl").exists()
    for epoch in range(5):
        run.append({"epoch": epoch})
    with open(run.path / "metrics.jsonl", "a") as file:
        file.write('{"epo')
    run.truncate_metrics(lambda record: record["epoch"] < 3)
    assert (run.path / "metrics.jsonl").read_text() == '{"epoch": 0}\n{"epoch": 1}\n{"epoch": 2}\n'


def test_results(run):
    assert run.results() is None
    run.write_results({"top1": 93.5})
    assert run.results() == {"top1": 93.5}


def test_paths_within_the_run(run, tmp_path, monkeypatch):
    assert run.relative(run.checkpoint("main/last")) == "checkpoints/main/last"
    assert run.absolute("checkpoints/main/last") == run.checkpoint("main/last")
    monkeypatch.chdir(tmp_path)
    here = Run(Path("run"))
    assert here.relative("run/checkpoints/x") == here.relative(tmp_path / "run/checkpoints/x") == "checkpoints/x"
    assert here.absolute("checkpoints/x") == tmp_path / "run/checkpoints/x"
    with pytest.raises(KdError, match="not within the run"):
        run.relative(tmp_path / "other")


def test_a_run_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("mine")
    run = Run(tmp_path / "file")
    for write in (lambda: run.append({}), lambda: run.write_results({}), lambda: run.write_config({}), lambda: run.write_environment([])):
        with pytest.raises(FileError) as error:
            write()
        assert "file" in one_line(error)

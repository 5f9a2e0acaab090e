import os

# No test asks the network for weights, and networks this small are slower on two threads than on one.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
from click.testing import CliRunner

from kdcore.experiments.pace import Pace

TINY = ["test_resnet_32px", "--data", "digits", "--img-size", "16", "--labels-per-class", "13", "--epochs", "1", "--amp", "none"]
TINY += ["--no-channels-last"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Every test stands in an empty folder of its own."""
    monkeypatch.delenv("KD_TRACEBACK", raising=False)
    monkeypatch.setenv("KDCORE_CACHE", str(tmp_path.parent / f"{tmp_path.name}-cache"))  # beside it: some look at all that is written
    monkeypatch.setattr("kdcore.experiments.pace.timed", lambda: Pace(image=1e-3, mac=1e-11))  # no test waits for the machine to be timed
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def kd():
    """Runs `kd` in this process: `kd("plan", "resnet18").stdout`. An exception that no user should see fails the test."""
    from kdcli.main import kd

    def invoke(*args, status=0):
        done = CliRunner().invoke(kd, [str(arg) for arg in args])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == status, done.output
        return done

    return invoke


@pytest.fixture
def train(kd):
    """A tiny run: `train("--method", "byot")`."""
    return lambda *args, **more: kd("train", *TINY, *args, **more)


@pytest.fixture
def npz(tmp_path):
    """Writes an .npz with MedMNIST's keys; random grey images of 16 pixels."""

    def write(name, classes=10, count=40):
        rng = np.random.default_rng(0)
        arrays = {}
        for split in ("train", "test"):
            arrays[f"{split}_images"] = rng.integers(0, 256, (count, 16, 16), dtype=np.uint8)
            arrays[f"{split}_labels"] = np.arange(count) % classes
        path = tmp_path / name
        np.savez_compressed(path, **arrays)
        return str(path)

    return write


@pytest.fixture
def distribution(tmp_path, monkeypatch):
    """Puts a distribution with a plugin on the path, as pip would, and takes it away after the test."""
    place = tmp_path / "site"
    place.mkdir()
    monkeypatch.syspath_prepend(str(place))

    def install(dist, plugin, code, *, keywords="kdcore:method,kdcore-api:1"):
        module = dist.replace("-", "_")
        (place / f"{module}.py").write_text(code)
        info = place / f"{module}-1.2.dist-info"
        info.mkdir()
        about = f"Metadata-Version: 2.1\nName: {dist}\nVersion: 1.2\nSummary: a plugin\nKeywords: {keywords}\n"
        (info / "METADATA").write_text(about + "Requires-Dist: kdcore>=0.1\n")
        (info / "entry_points.txt").write_text(f"[kdcore]\n{plugin} = {module}\n")

    return install

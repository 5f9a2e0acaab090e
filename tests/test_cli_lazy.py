"""`kd --help`, `kd plugins` and the help of every command import nothing heavy, and answer at once."""

import json
import subprocess
import sys
import time

import pytest

from kdcore.experiments import pace

HEAVY = ("torch", "torchvision", "timm", "numpy")
CODE = """
import json, sys
from kdcli.main import kd
try:
    kd.main(sys.argv[1:], prog_name="kd")
finally:
    print(json.dumps(sorted(sys.modules)), file=sys.stderr)
"""


def modules_after(*args):
    done = subprocess.run([sys.executable, "-c", CODE, *args], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout
    return set(json.loads(done.stderr.splitlines()[-1]))


@pytest.mark.parametrize("line", ["--help", "--version", "plugins", "plugins --json"])
def test_neither_torch_nor_pydantic(line):
    assert not modules_after(*line.split()) & {*HEAVY, "pydantic"}


@pytest.mark.parametrize("command", ["train", "plan", "eval", "demo", "methods", "show", "compare", "tune", "analyze", "runs", "reproduce"])
def test_help_imports_no_torch(command):
    assert not modules_after(command, "--help") & set(HEAVY)


def test_the_papers_tables_are_listed_without_torch(monkeypatch, tmp_path):
    """Where the machine was timed before."""
    monkeypatch.setenv("KDCORE_CACHE", str(tmp_path))
    monkeypatch.setattr(pace, "timed", lambda: pace.Pace(image=1e-3, mac=1e-11))
    pace.pace_here()
    assert not modules_after("reproduce") & set(HEAVY)


@pytest.mark.parametrize("line", ["--help", "plugins"])
def test_it_answers_at_once(line):
    """Within half a second: .1 to .2 s on an idle machine, and the best of several on a busy one."""
    took = []
    for _ in range(8):
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-m", "kdcli", *line.split()], capture_output=True, check=True, timeout=60)
        took.append(time.perf_counter() - begin)
        if took[-1] < 0.5:
            return
        time.sleep(0.3)
    pytest.fail(f"{min(took):.2f} s at best")

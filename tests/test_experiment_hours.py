"""Hours of an experiment on this machine: its cost in the file, and the machine's pace, timed once."""

import json
import subprocess
from pathlib import Path

import pytest

from kdcore.errors import KdError
from kdcore.experiments import pace
from kdcore.experiments.costs import hours_estimated
from kdcore.experiments.finding import experiments
from kdcore.experiments.pace import Pace, pace_here
from kdcore.files import cache_folder

TEXT = """
title = "squares"
paper = "Someone, A title, 2020"
url = "https://example.org"
table = "table 1"
checkpoint = "last"
seeds = 4

[cost]
images = 1800
macs = 3.6e6

[data]
get = "get it"
classes = 2
image_size = 8
name = "digits"

[[rows]]
name = "one"
model = "test_resnet_32px"
method = "plain"
"""


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """The cache in a folder of its own, and a pace that is counted instead of timed."""
    monkeypatch.setenv("KDCORE_CACHE", str(tmp_path / "cache"))
    times = []
    monkeypatch.setattr(pace, "timed", lambda: times.append(1) or Pace(image=2.0, mac=1e-3))
    return times


def test_hours_are_of_all_seeds(asked, carried):
    carried(TEXT)
    assert hours_estimated(experiments()["squares/t"].read(), pace_here) == pytest.approx(4 * (1800 * 2.0 + 3.6e6 * 1e-3) / 3600)


def test_hours_are_unknown_where_the_cost_is(asked, carried):
    carried(TEXT.replace("[cost]\nimages = 1800\nmacs = 3.6e6\n", ""))
    assert hours_estimated(experiments()["squares/t"].read(), pace_here) is None and not asked


def test_a_cost_is_checked(carried):
    file = carried(TEXT.replace("macs =", "mac ="))
    with pytest.raises(KdError, match=r"there is no key 'cost\.mac'; did you mean 'macs'"):
        experiments()["squares/t"].read()
    file.write_text(TEXT.replace("1800", "0"))
    with pytest.raises(KdError, match=r"cost\.images 0: it should be greater than 0"):
        experiments()["squares/t"].read()


def test_the_machine_is_timed_once(asked, tmp_path):
    said = []
    assert pace_here(said.append) == pace_here(said.append) == Pace(2.0, 1e-3)
    assert len(asked) == len(said) == 1
    for damaged in ("{", "[]", json.dumps(dict.fromkeys(json.loads((tmp_path / "cache/pace.json").read_text()), 3))):
        (tmp_path / "cache/pace.json").write_text(damaged)
        assert pace_here() == Pace(2.0, 1e-3)
    assert len(asked) == 4


def test_other_machines_keep_theirs(asked, tmp_path, monkeypatch):
    """Several may share a home, and one may be asked with its GPUs and without."""
    pace_here()
    monkeypatch.setattr("platform.node", lambda: "elsewhere")
    pace_here()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    pace_here()
    monkeypatch.undo()
    monkeypatch.setenv("KDCORE_CACHE", str(tmp_path / "cache"))
    pace_here()
    assert len(asked) == len(json.loads((tmp_path / "cache/pace.json").read_text())) == 3


def test_a_cache_that_cannot_be_written_costs_time_alone(asked, tmp_path):
    (tmp_path / "cache").write_text("a file")
    assert pace_here() == pace_here() == Pace(2.0, 1e-3) and len(asked) == 2


@pytest.mark.parametrize(
    ("code", "printed", "error"),
    [(1, "", "Traceback\nOSError: no room\n"), (0, "nonsense\n", "OSError: no room"), (0, "[1]", "OSError: no room")],
)
def test_a_pace_that_cannot_be_timed_is_told_in_one_line(code, printed, error, monkeypatch, tmp_path):
    monkeypatch.setenv("KDCORE_CACHE", str(tmp_path))
    monkeypatch.setattr(subprocess, "run", lambda *args, **_: subprocess.CompletedProcess(args, code, printed, error))
    said = []
    assert pace_here(said.append) is None
    assert said[1:] == ["the pace of this machine was not measured: OSError: no room; so no hours"]


def test_what_a_library_prints_is_no_pace(monkeypatch, tmp_path):
    monkeypatch.setenv("KDCORE_CACHE", str(tmp_path))
    printed = 'hello\n{"image": 0.5, "mac": 0.25}\n'
    monkeypatch.setattr(subprocess, "run", lambda *args, **_: subprocess.CompletedProcess(args, 0, printed, ""))
    assert pace_here() == Pace(0.5, 0.25)


def test_a_user_without_a_home_has_a_cache(monkeypatch):
    monkeypatch.delenv("KDCORE_CACHE")
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: Path("~/.cache") / name)
    assert cache_folder().is_absolute()


@pytest.mark.parametrize("name", sorted(name for name, found in experiments().items() if found.distribution.startswith("kdcore-")))
def test_every_table_whose_images_are_known_says_its_cost(name):
    """That it is what the dry run counts is in the slow tier (test_experiments.py)."""
    experiment = experiments()[name].read()
    assert (experiment.cost is not None) == (experiment.data.train is not None)


@pytest.mark.slow
def test_the_pace_of_this_machine():
    """A network of two hundred times the multiply-adds takes longer, and no machine does a multiply-add in less than a femtosecond."""
    found = pace.timed()
    assert 0 <= found.image < 1 and 1e-15 < found.mac < 1e-6

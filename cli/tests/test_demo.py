"""`kd demo`, cut short."""

import statistics
from pathlib import Path

import pytest


def test_the_demo(kd, monkeypatch):
    monkeypatch.setattr("kdcli.demo.METHODS", ("plain", "deep-supervision"))
    done = kd("demo", "--seeds", 2, "--epochs", 1)
    for word in ("plain", "deep-supervision", "exit 4 (last)", "ensemble", "±", "minutes on", "kd demo --seeds 2 --epochs 1"):
        assert word in done.stdout
    assert "plain, seed 1: " in done.stderr
    assert {path.name for path in Path("runs/demo-1").iterdir()} >= {"plain-0", "plain-1", "deep-supervision-0", "deep-supervision-1"}


def test_the_demo_without_the_plugin(monkeypatch):
    from kdcli.demo import available

    monkeypatch.setattr("kdcore.plugins.installed", lambda: [])
    assert available() == (["plain", "deep-supervision"], "BYOT was left out: pip install kdcore-byot adds it")


def test_means_and_deviations():
    from kdcli.demo import spread, summary

    assert spread([90.0]) == "90.0"
    assert spread([90.0, 92.0]) == f"91.0 ± {statistics.stdev([90, 92]):.1f}"
    exits = {"exit 1": 50.0, "exit 2": 60.0, "last": 60.0, "ensemble": 70.0}
    table = summary({"plain": [{"exit 1": 80.0, "last": 80.0}], "deep": [exits]})
    assert [column.header for column in table.columns] == ["method", "exit 1", "exit 2 (last)", "ensemble"]
    assert [list(column.cells) for column in table.columns] == [["plain", "deep"], ["-", "50.0"], ["80.0", "60.0"], ["-", "70.0"]]


@pytest.mark.parametrize("seeds", [0, "many"])
def test_seeds_out_of_range(kd, seeds):
    assert kd("demo", "--seeds", seeds, status=2).stderr.startswith("kd: Invalid value for '--seeds'")

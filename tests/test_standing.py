"""How long the rest of a comparison takes, as it is told while it runs."""

import time
from pathlib import Path

import pytest

from kdcore.comparison import standing
from kdcore.comparison.cells import Cell, Outcome
from kdcore.comparison.standing import Standing

CELLS = [Cell("plain", 0, Path("a"), {"epochs": 4}), Cell("plain", 1, Path("b"), {"epochs": 4})]


@pytest.fixture
def at(monkeypatch):
    """`at(2)`: a standing ten seconds after it began with cells that had two of four epochs behind them, one of which has ended since."""

    def make(epochs, seconds):
        monkeypatch.setattr(standing, "where", lambda path: (epochs, 4, None))
        found = Standing(2, CELLS, seconds, 1, by="", begin=time.monotonic() - 10)
        found.ended[CELLS[0]] = Outcome("finished")
        return found

    return make


def test_the_rest_goes_as_fast_as_what_is_done(at):
    assert at(2, {"plain": 30.0}).left() == pytest.approx(10, abs=0.5)  # one of two cells took the ten seconds


def test_cells_that_lack_their_reports_alone_have_nothing_left(at):
    """Killed between its last epoch and its results: nothing to weigh, and nothing to divide by."""
    assert at(4, {"plain": 30.0}).left() == 0


def test_without_an_estimate_nothing_is_said(at):
    assert at(2, {}).left() is None and at(2, {}).expected is None

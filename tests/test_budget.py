"""`--minutes` and `--patience`: decided once, written down, and the same after a resume."""

import pytest

import kdcore
from kdcore import KdError
from kdcore.estimate import Estimate, PhaseTime
from kdcore.phase_run import PhaseState
from kdcore.session import Watch
from kdcore.stopping import Budget, out_of_patience

SMALL = {"img_size": 16, "labels_per_class": 6, "batch_size": 32, "device": "cpu", "method": "plain"}
ACCURACIES = [50.0, 60.0, 55.0, 60.0, 58.0, 90.0, 95.0]


class Notes(Watch):
    def __init__(self, stop_after: int = 0) -> None:
        self.notes: list[str] = []
        self.stop_after = stop_after

    def note(self, text):
        self.notes.append(text)

    def epoch(self, record):
        if record["epoch"] == self.stop_after:
            raise KeyboardInterrupt


def train(run, **settings):
    return kdcore.train("test_resnet_32px", "digits", run=run, **{**SMALL, **settings})


@pytest.fixture
def accuracies(monkeypatch):
    """Dev top-1 by decree: best in epoch 2 until epoch 6."""
    monkeypatch.setattr(
        PhaseState, "evaluate", lambda state: {"top1": ACCURACIES[state.run.metrics()[-1]["epoch"] if state.run.metrics() else 0]}
    )


@pytest.fixture
def seconds(monkeypatch):
    """An epoch takes ten seconds by decree, and the end five."""
    expected = Estimate((PhaseTime("main", 30, True, 10.0, 0.0),), 5.0)
    monkeypatch.setattr(
        "kdcore.starting.estimate", lambda prepared, *rest: expected.of(prepared.composition.phases, prepared.config.epochs)
    )


def test_patience_ends_a_phase_and_says_so(tmp_path, accuracies):
    watch = Notes()
    trained = train(tmp_path / "run", epochs=7, patience=3, watch=watch)
    why = "no better dev top-1 for 3 epochs (best: 60.0 % in epoch 2)"
    assert trained.results["stopped"] == [{"phase": "main", "epoch": 5, "epochs": 7, "stop": why}]
    assert f"phase 'main' stops after epoch 5 of 7: {why}" in watch.notes
    assert trained.results["last"]["epoch"] == 5 and trained.results["best"]["epoch"] == 2
    assert trained.run.config()["patience"] == 3


@pytest.mark.parametrize("stop_after", [4, 5])
def test_patience_is_the_same_after_a_resume(tmp_path, accuracies, stop_after):
    """Also where the process died just after the epoch that was the last."""
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", epochs=7, patience=3, watch=Notes(stop_after))
    trained = kdcore.train(run=tmp_path / "run", resume=True)
    assert trained.results["last"]["epoch"] == 5 and trained.results["stopped"][0]["epoch"] == 5


def test_patience_that_is_never_out(tmp_path, accuracies):
    assert "stopped" not in train(tmp_path / "run", epochs=3, patience=3).results


def test_out_of_patience():
    assert out_of_patience(None, 9, 1, 50.0) is None and out_of_patience(3, 4, 2, 50.0) is None
    assert out_of_patience(1, 3, 2, 50.0) == "no better dev top-1 for an epoch (best: 50.0 % in epoch 2)"


@pytest.mark.parametrize(
    ("minutes", "epochs", "says"),
    [(0.5, 2, "--minutes 0.5: 2 of 30 epochs fit"), (0.1, 1, "--minutes 0.1: not even 1 epoch will fit, and that is the least")],
)
def test_as_many_epochs_as_fit_are_written_down(tmp_path, seconds, minutes, epochs, says):
    watch = Notes()
    trained = train(tmp_path / "run", minutes=minutes, watch=watch)
    assert says in watch.notes and trained.results["last"]["epoch"] == epochs
    config = trained.run.config()
    assert config["epochs"] == epochs and "minutes" not in config
    rates = [record["lr"] for record in trained.run.metrics()]
    assert rates == [
        record["lr"] for record in kdcore.train(run=tmp_path / "again", **config).run.metrics()
    ]  # the schedule ends where training ends


def test_all_epochs_may_fit(tmp_path, seconds):
    watch = Notes()
    assert train(tmp_path / "run", epochs=2, minutes=5, watch=watch).results["last"]["epoch"] == 2
    assert "--minutes 5: all 2 epochs fit" in watch.notes


def test_warm_up_that_leaves_nothing(tmp_path, seconds):
    with pytest.raises(KdError, match=r"--minutes 0\.5: 2 epochs would fit, and --warmup-epochs 5 leaves nothing of that"):
        train(tmp_path / "run", minutes=0.5, warmup_epochs=5)
    assert not (tmp_path / "run").exists()


def test_an_epoch_that_would_pass_the_budget_is_not_begun(tmp_path, seconds, monkeypatch):
    """The estimate promised 10 s an epoch; by this clock they take 20, so that the third would end beyond the budget of half a minute."""
    monkeypatch.setattr(Budget, "over", lambda self, epoch, rest: "another epoch would pass --minutes 0.7" if rest == 5.0 else None)
    watch = Notes()
    trained = train(tmp_path / "run", minutes=0.7, watch=watch)
    assert trained.results["last"]["epoch"] == 1 and trained.results["stopped"][0]["epochs"] == 3
    assert "phase 'main' stops after epoch 1 of 3: another epoch would pass --minutes 0.7" in watch.notes


def test_the_budget(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("kdcore.stopping.time.monotonic", lambda: now[0])
    budget = Budget(1.0, begin=100.0)
    assert budget.over(50.0, 16.0) is None
    now[0] = 130.0
    assert budget.over(20.0, 16.0) is None
    assert budget.over(20.0, 16.1) == "another epoch would pass --minutes 1 (0.5 min are over)"

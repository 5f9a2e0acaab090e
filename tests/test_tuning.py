"""`kdcore.tuning`: the search space, what is refused before the first trial, pruning, going on after a kill, and the file of the best settings."""

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from decimal import Decimal
from types import SimpleNamespace

import pytest

import kdcore
from kdcore import KdError
from kdcore.ending import why_stopped
from kdcore.errors import DataError, Diverged
from kdcore.runs import Run
from kdcore.tuning import TuneWatch, tune
from kdcore.tuning.objectives import Objective, metrics_of
from kdcore.tuning.space import grid_of, laid_on, read_space, size_of, typed

SMALL = {
    "lr": 0.1,
    "epochs": 2,
    "img_size": 16,
    "labels_per_class": 10,
    "batch_size": 16,
    "amp": "none",
    "channels_last": False,
    "device": "cpu",
}


class Said(TuneWatch):
    def __init__(self) -> None:
        self.remarks, self.rows, self.epochs = [], [], 0

    def remark(self, text):
        self.remarks.append(text)

    def ended(self, row, best):
        self.rows.append(row)

    def epoch(self, record):
        self.epochs += 1


def search(folder, *space, data="digits", **more):
    return tune("test_resnet_32px", data, search=space, folder=folder, **{**SMALL, "method": "plain", **more})


@pytest.fixture
def pretended(monkeypatch):
    """Runs that train nothing: their dev top-1 is 100 times the learning rate. Gives the settings of each."""
    seen = []

    def train(model, data, *, run, watch, **settings):
        if settings["warmup_epochs"] >= settings["epochs"]:
            raise KdError("--warmup-epochs leaves nothing")
        seen.append({"model": model, "data": data, **settings})
        run = Run.create(run, stem="run")
        run.write_config({"model": model, "data": data, **settings})
        watch.epoch({"epoch": 1, "epochs": 1, "dev": {}})
        exit = {"exit": 1, "top1": 100 * settings["lr"] + settings["seed"], "nll": 1.0}
        return SimpleNamespace(run=run, results={"best": {"epoch": 1, "dev": {"exits": [exit], "ensembles": {}}}})

    monkeypatch.setattr("kdcore.tuning.trial.train", train)
    return seen


# -- the space ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lr", "write NAME=LOW..HIGH[:log][:STEP] or NAME=A,B,C, e.g. lr=0.01..1:log or opt=sgd,adamw"),
        ("=1..2", "write NAME=LOW..HIGH"),
        ("lr=", "write NAME=LOW..HIGH"),
        ("lr=0.1..", "'0.1..' is no range"),
        ("lr=a..b", "'a..b' is no range"),
        ("lr=1..0.1", "1 is not below 0.1"),
        ("lr=1..1", "1 is not below 1"),
        ("lr=0..1:log", "a logarithmic range begins above 0"),
        ("lr=0.1..1:log:0.1", "a logarithmic range has no step; leave out one of them"),
        ("lr=0.1..1:fast", "':fast' is neither :log nor a step"),
        ("lr=0.1..1:0.1:0.2", "is neither :log nor a step"),
        ("lr=0.1..1:2", "a step of 2 does not fit between 0.1 and 1"),
        ("lr=0.1..1:0", "a step of 0 does not fit"),
        ("lr=0.1", "one value is nothing to choose from; set it (--lr 0.1)"),
        ("byot.hint.mask=true", "one value is nothing to choose from; set it (-o byot.hint.mask=true)"),
        ("opt=sgd,adamw,sgd", "sgd stands there twice"),
        ("seed=1,2", "--seeds 3 takes the mean over three"),
        ("dev-fraction=0.1..0.3", "trials are compared on one dev split, which it would change"),
        ("minutes=1..2", "--timeout limits them all"),
        ("options=1,2", "write the option's own name"),
        ("setting.alpha=1,2", "there is no setting 'alpha'"),
    ],
)
def test_a_slip_of_the_pen_is_one_line(text, said):
    with pytest.raises(KdError) as error:
        read_space([text])
    assert str(error.value).startswith("--search ") and said in str(error.value)


def test_nothing_and_one_name_twice():
    with pytest.raises(KdError, match="nothing to search: add --search"):
        read_space([])
    with pytest.raises(KdError, match="names alpha twice"):
        read_space(["alpha=1,2", "option.alpha=3,4"])


def test_what_a_space_says():
    lr, step, opt, scale = read_space(["lr=.01..1:log", "momentum=0.5..0.95:0.1", "opt=sgd, adamw", "scale=[0.3,1],[0.5,1]"])
    assert (lr.low, lr.high, lr.log) == (Decimal(".01"), Decimal(1), True)
    assert step.points() == [0.5, 0.6, 0.7, 0.8, 0.9], "the last step that fits is the end"
    assert opt.choices == ("sgd", "adamw") and scale.choices == ("[0.3,1]", "[0.5,1]")
    assert lr.value(0.123456789) == 0.1235 and lr.value(1.0) == 1.0
    assert size_of([step, opt]) == 10 and size_of([lr, opt]) == float("inf")
    assert grid_of([step, opt])[1] == {"momentum": 0.5, "opt": "adamw"}
    with pytest.raises(KdError, match=r"--strategy grid cannot walk through --search lr=0.01\.\.1:log: add a step"):
        grid_of([lr])


def test_whole_numbers_where_the_type_is_one():
    (rounds,) = read_space(["epochs=10..30:10"])
    assert typed(rounds, int, "int", "--epochs").points() == [10, 20, 30]
    (width,) = read_space(["byot.bottleneck.width=64..256:log"])
    found = typed(width, int | str, "int", "x")
    assert found.whole and found.value(100) == 100 and isinstance(found.value(100), int)
    with pytest.raises(KdError, match="--epochs takes whole numbers"):
        typed(read_space(["epochs=1..3:0.5"])[0], int, "int", "--epochs")
    with pytest.raises(KdError, match="--opt takes no numbers"):
        typed(read_space(["opt=1..3"])[0], str, "str", "--opt")


def test_where_drawn_values_go():
    import dataclasses

    names = read_space(
        ["lr=0.1..1", "clip-grad=none,1", "alpha=1..2", "byot.hint.mask=true,false", "loss=kl@deepest,mse@deepest", "aa=none,rand-m9"]
    )
    space = [dataclasses.replace(d, place="setting") if d.place == "open" else d for d in names]
    drawn = {"lr": 0.5, "clip_grad": "none", "alpha": 1.5, "byot.hint.mask": "true", "loss": "kl@deepest", "aa": "none"}
    found = laid_on({"options": {"beta": 1}, "loss": ["ce"], "clip_grad": 3.0}, space, drawn)
    options = {"beta": 1, "alpha": 1.5, "byot.hint.mask": True}
    assert found == {"options": options, "loss": ["ce", "kl@deepest"], "lr": 0.5, "aa": "none"}


@pytest.mark.parametrize("name", ["depest", "exit:0", "exit:x", "test"])
def test_objectives_that_are_none(name):
    with pytest.raises(KdError, match=f"--objective {name}: there is deepest, exit:N, ensemble, best-exit, nll"):
        Objective.read(name)


def test_objectives_read_an_epoch_and_a_report_alike():
    exits = [{"exit": k, "top1": top1, "nll": 1.0 / k} for k, top1 in ((1, 50.0), (2, 80.0), (3, 70.0))]
    found = metrics_of({"exits": exits, "ensembles": {"mean_logits": {"top1": 75.0}}})
    values = {name: Objective.read(name).of(found) for name in ("deepest", "exit:1", "ensemble", "best-exit", "nll")}
    assert values == {"deepest": 70.0, "exit:1": 50.0, "ensemble": 75.0, "best-exit": 80.0, "nll": 1 / 3}
    assert Objective("deepest").of(found, frozen=True) == 65.0, "where the deepest is frozen, what train selects by"


# -- refused before the first trial -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("space", "more", "said"),
    [
        (
            ["alpha=0.5..1.5"],
            {"method": "byot"},
            r"--search alpha=1.5: method 'byot' \(kdcore-byot .*alpha=1.5 is refused.*float >= 0 <= 1",
        ),
        (["temprature=1..4"], {"method": "byot"}, r"method 'byot' .* has no option 'temprature'; did you mean 'temperature'"),
        (["byot.hint.mask=1..4"], {"method": "byot"}, r"byot.hint.* takes no numbers \(mask: bool, default False\); write choices"),
        (["ce.label_smoothing=0.5..1.5"], {}, r"--search ce.label_smoothing=1.5: .*label_smoothing=1.5 is refused"),
        (["kl.form=a,b"], {}, "this run has no part 'kl'"),
        (["momentum=0.5..1.5"], {}, "--search momentum=1.5: --momentum 1.5 is refused"),
        (["opt=sgd,addamw"], {}, "--search opt=addamw: .*addamw"),
        (["method=plain,byoot"], {}, "--search method=byoot: .*byoot"),
        (["lr=0.1..1"], {"objective": "exit:3"}, "--objective exit:3: this run has the exits 1"),
        (["lr=0.1..1"], {"objective": "ensemble"}, "--objective ensemble: this run has one exit"),
        (["lr=0.1..1"], {"strategy": "annealing"}, "--strategy annealing: there is tpe, random, grid"),
        (["lr=0.1..1"], {"strategy": "grid"}, "--strategy grid cannot walk through"),
        (["lr=0.1..1"], {"pruner": "median:x"}, "--pruner median:x: there is median, hyperband, none"),
        (["lr=0.1..1"], {"minutes": 1.0}, "--minutes would give trials of different lengths"),
        (["lr=0.1..1"], {"trials": 0}, "--trials 0: it is at least 1"),
    ],
)
def test_refused_at_once(tmp_path, space, more, said):
    with pytest.raises(KdError, match=said):
        search(tmp_path / "s", *space, **more)
    assert not (tmp_path / "s").exists(), "nothing was written"


def test_a_dev_split_is_needed(tmp_path):
    with pytest.raises(DataError, match="trials are compared on the dev split, and digits has none here: add --dev-fraction"):
        search(tmp_path / "s", "lr=0.1..1", dev_fraction=0.0)


def test_a_name_that_is_a_setting_and_an_option(tmp_path, pretended):
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        "from kdcore import CE, Method, Term, hookimpl\n\ndef both(*, smoothing: float = 0.0) -> Method:\n"
        "    return Method(terms={'ce': Term(CE(label_smoothing=smoothing))})\n\n@hookimpl\ndef methods():\n    return {'both': both}\n"
    )
    settings = {"plugin": [str(plugin)], "method": "mine.both"}
    with pytest.raises(KdError, match=r"write option\.smoothing=0,0\.1 or setting\.smoothing=0,0\.1"):
        search(tmp_path / "s", "smoothing=0,0.1", **settings)
    found = search(tmp_path / "s", "option.smoothing=0.1,0.2", "setting.drop=0,0.1", trials=1, strategy="grid", **settings)
    assert found.best["settings"] == {"option.smoothing": 0.1, "setting.drop": 0}
    assert pretended[0]["options"] == {"smoothing": 0.1} and pretended[0]["drop"] == 0
    best = tomllib.loads((tmp_path / "s/best.toml").read_text())
    assert best["plugin"] == ["trials/000/plugins/mine.py"] and (tmp_path / "s" / best["plugin"][0]).is_file()


def test_without_optuna(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(KdError, match=r"^kd tune needs Optuna: pip install 'kdcore\[tune\]'$"):
        search(tmp_path / "s", "lr=0.1..1")


def test_importing_it_imports_neither_torch_nor_optuna():
    code = "import kdcore.tuning, kdcore.tuning.space, sys; print(*{'torch', 'optuna', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and not done.stdout.strip(), done.stderr


# -- studies, with runs that train nothing ------------------------------------------------------------------------------------


def test_seeds_are_paired_and_their_mean_counts(tmp_path, pretended):
    found = search(tmp_path / "s", "lr=0.1,0.3", strategy="grid", seeds=2, seed=3)
    assert [(row["values"], row["value"]) for row in found.trials] == [([13.0, 14.0], 13.5), ([33.0, 34.0], 33.5)]
    assert [(run["lr"], run["seed"]) for run in pretended] == [(0.1, 3), (0.1, 4), (0.3, 3), (0.3, 4)]
    best = tomllib.loads((tmp_path / "s/best.toml").read_text())
    assert (best["lr"], best["seed"]) == (0.3, 3) and "(mean of 2 seeds; this is the first)" in (tmp_path / "s/best.toml").read_text()


def test_settings_that_do_not_go_together_fail_and_the_rest_goes_on(tmp_path, pretended):
    found = search(tmp_path / "s", "warmup_epochs=0,1", "epochs=2,1", strategy="grid")
    assert [row["state"] for row in found.trials] == ["finished", "finished", "finished", "failed"]
    assert found.trials[3]["why"] == "--warmup-epochs leaves nothing"


def test_a_loss_that_is_not_finite_is_a_bad_value_and_a_part_that_fails_is_none(tmp_path, monkeypatch):
    def train(*_, lr, **__):
        raise Diverged("the loss is nan") if lr > 0.1 else KdError("loss 'mine.own' failed: IndexError")

    monkeypatch.setattr("kdcore.tuning.trial.train", train)
    found = search(tmp_path / "s", "lr=0.3,0.1", strategy="grid")
    assert [(row["state"], row["why"]) for row in found.trials] == [
        ("diverged", "the loss is nan"),
        ("failed", "loss 'mine.own' failed: IndexError"),
    ]


def test_where_every_trial_fails_there_is_no_use_in_going_on(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise KdError("never")

    monkeypatch.setattr("kdcore.tuning.trial.train", refuse)
    with pytest.raises(KdError, match="the first 3 trials failed, the last with: never"):
        search(tmp_path / "s", "lr=0.1..1", trials=9)


def test_the_same_settings_are_not_run_twice(tmp_path, pretended):
    said = Said()
    found = search(tmp_path / "s", "lr=0.1,0.3", strategy="random", trials=6, watch=said)
    assert len(found.trials) == 6 and len(pretended) == 2 == sum(row["same_as"] is None for row in found.trials)
    assert any("the search has 2 points and there are 6 trials: --strategy grid" in text for text in said.remarks)
    again = next(row for row in found.trials if row["same_as"] is not None)
    first = found.trials[again["same_as"]]
    assert (again["value"], again["run"]) == (first["value"], first["run"])


def test_drawn_as_without_the_interruption_and_towards_what_is_good(tmp_path, pretended):
    def drawn(found):
        return [row["settings"] for row in found.trials]

    space = ("lr=0.001..1:log", "momentum=0.5..0.9")
    whole = search(tmp_path / "whole", *space, trials=14)
    search(tmp_path / "s", *space, trials=5)
    again = search(tmp_path / "s", *space, trials=14)
    assert tune(folder=tmp_path / "s", resume=True).total == 14, "as it was said last"
    assert drawn(again) == drawn(whole) and len({str(settings) for settings in drawn(whole)}) == 14
    assert drawn(search(tmp_path / "other", *space, trials=2, seed=1)) != drawn(whole)[:2]
    assert next(iter(whole.importance)) == "lr" and sum(whole.importance.values()) == pytest.approx(1, abs=1e-3)
    assert whole.pictures == ["history.png", "importance.png"]


def test_where_the_length_is_searched_nothing_is_pruned(tmp_path, pretended):
    said = Said()
    search(tmp_path / "s", "epochs=1,2", strategy="grid", watch=said)
    assert any(text.startswith("nothing is pruned: --epochs is searched") for text in said.remarks)


def test_one_at_a_time(tmp_path, pretended):
    from kdcore.tuning.plan import alone

    search(tmp_path / "s", "momentum=0.5,0.9", strategy="grid", trials=1)
    with alone(tmp_path / "s"), pytest.raises(KdError, match="another kd tune is at work in"):
        tune(folder=tmp_path / "s", resume=True)


def test_one_at_a_time_on_windows_too(tmp_path, monkeypatch):
    import filelock  # noqa: F401 - before fcntl is gone

    from kdcore.tuning.plan import alone

    monkeypatch.setitem(sys.modules, "fcntl", None)
    with alone(tmp_path) as lock, pytest.raises(KdError, match="another kd tune is at work in"), alone(tmp_path):
        assert lock is None
    with alone(tmp_path):
        pass


def test_a_torn_journal_is_mended(tmp_path, pretended):
    before = search(tmp_path / "s", "momentum=0.5,0.9", strategy="grid")
    with open(tmp_path / "s/journal.log", "a") as file:
        file.write('{"op_code": 4, "wor')
    (tmp_path / "s/journal.log.lock").touch()
    begin = time.monotonic()
    assert tune(folder=tmp_path / "s", resume=True).trials == before.trials
    assert time.monotonic() - begin < 10, "it does not wait for a lock that nobody holds"


def test_folders_that_hold_something_else(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(KdError, match="is not empty, and holds no study of kd tune: choose another --dir"):
        search(tmp_path, "lr=0.1,0.2")
    with pytest.raises(KdError, match=r"holds no study of kd tune: it has no study\.json"):
        tune(folder=tmp_path, resume=True)


# -- studies that train -------------------------------------------------------------------------------------------------------

GRID = {"space": "lr=0.1,0.000001,1e38", "strategy": "grid", "pruner": "median:1", "epochs": 3}


def go(folder, *, space=GRID["space"], **more):
    return search(folder, space, **{**{name: value for name, value in GRID.items() if name != "space"}, **more})


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Three points: one learns, one learns nothing, one diverges. Gives the folder, what came of it, what was said, and the sizes of splits that were read."""
    from kdcore.data.batches import Batches

    folder, said, read = tmp_path_factory.mktemp("study") / "s", Said(), set()
    make = Batches.__init__

    def watched(self, split, *args, **more):
        read.add(len(split))
        make(self, split, *args, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Batches, "__init__", watched)
        found = go(folder, watch=said)
    return folder, found, said, read


def test_pruning_stops_a_run(study):
    folder, found, said, _ = study
    assert [row["state"] for row in found.trials] == ["finished", "pruned", "diverged"]
    assert found.trials[2]["why"].startswith("the loss is ")
    run = Run.open(folder / "trials/001")
    done = len(run.metrics())
    assert done < 3 and said.epochs == sum(row["epochs"] for row in found.trials) and run.results() is None
    assert why_stopped(run).startswith(f"pruned by kd tune after epoch {done}, at dev top-1 ")
    assert found.trials[1]["why"] == why_stopped(run) and found.trials[1]["value"] is None


def test_no_trial_sees_the_test_split(study):
    folder, _, _, read = study
    results = Run.open(folder / "trials/000").results()
    assert "test" not in results["best"] and "test" not in results["last"] and "dev" in results["best"]
    assert read == {100, 80}, "training and dev images; digits has 1000 for test"
    assert "test" in json.loads((folder / "trials/000/data.json").read_text())["splits"], "kd eval finds the data as it was"


def test_the_best_is_what_train_selects_and_its_file_repeats_it(study, tmp_path):
    folder, found, _, _ = study
    results = Run.open(folder / found.best["run"]).results()
    assert found.best["value"] == results["best"]["dev"]["exits"][-1]["top1"] == max(row["value"] or 0 for row in found.trials)
    settings = tomllib.loads((folder / "best.toml").read_text())
    again = kdcore.train(run=tmp_path / "again", **settings).results
    assert again["best"]["dev"] == results["best"]["dev"] and "test" in again["best"]


def test_results_and_picture(study):
    folder, found, _, _ = study
    told = json.loads((folder / "results.json").read_text())
    assert told == json.loads(json.dumps(found.to_json())) and told["best"]["number"] == found.best["number"]
    assert (folder / "history.png").read_bytes().startswith(b"\x89PNG")


def test_finished_trials_never_run_again(study):
    folder, found, _, _ = study
    said = Said()
    assert go(folder, watch=said).trials == found.trials
    assert tune(folder=folder, resume=True, watch=said).trials == found.trials and not said.epochs


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            {"space": "lr=0.4,0.2"},
            "was begun with --search lr=0.1,0.000001,1e38, not lr=0.4,0.2: choose another --dir, or go on with kd tune --dir",
        ),
        ({"epochs": 4}, "was begun with --epochs 3, not 4"),
        ({"objective": "nll"}, "was begun with --objective deepest, not nll"),
        ({"seeds": 2}, "was begun with --seeds 1, not 2"),
    ],
)
def test_another_study_in_the_same_folder(study, more, said):
    with pytest.raises(KdError) as error:
        go(study[0], **more)
    assert said in str(error.value)


class Stop(KeyboardInterrupt):
    pass


class Killed(Said):
    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after

    def epoch(self, record):
        super().epoch(record)
        if self.epochs == self.after:
            raise Stop


def values(found):
    return [(row["number"], row["state"], row["value"], row["settings"], row["epochs"]) for row in found.trials]


def test_interrupted_it_comes_to_the_same(study, tmp_path):
    _, whole, once, _ = study
    with pytest.raises(Stop):
        go(tmp_path / "s", watch=Killed(2))
    assert go(tmp_path / "s", timeout=1e-9).trials[0]["state"] == "unfinished", "the time is over after its last epoch"
    said = Said()
    assert values(go(tmp_path / "s", watch=said)) == values(whole)
    assert said.epochs == once.epochs - 3, "the first trial's epochs are not trained again"


def test_only_the_delivered_phase_is_judged(tmp_path):
    plugin = tmp_path / "two.py"
    plugin.write_text(
        "from kdcore import CE, Method, Phase, Term, hookimpl\n\ndef phases(context):\n    yield Phase('first', epochs=1)\n"
        "    return (yield Phase('second'))\n\ndef both() -> Method:\n    return Method(terms={'ce': Term(CE())}, schedule=phases)\n\n"
        "@hookimpl\ndef methods():\n    return {'both': both}\n"
    )
    found = go(tmp_path / "s", space="lr=0.1,0.000001", plugin=[str(plugin)], method="two.both")
    state, pruned = found.trials[0]["state"], found.trials[1]
    assert (state, found.trials[0]["epochs"], pruned["state"]) == ("finished", 3, "pruned")
    assert len(Run.open(tmp_path / "s/trials/001").metrics()) == 1 + pruned["epochs"], "that of the first phase, and those of the second"


COMMAND = """
import kdcore.tuning
kdcore.tuning.tune("test_resnet_32px", "digits", search=["momentum=0.1..0.9"], folder={folder!r}, trials=3, pruner="none", **{settings!r})
"""


@pytest.mark.slow
def test_killed_outright(tmp_path):
    settings = {**SMALL, "epochs": 12, "method": "plain"}
    whole = tune("test_resnet_32px", "digits", search=["momentum=0.1..0.9"], folder=tmp_path / "w", trials=3, pruner="none", **settings)
    folder = tmp_path / "s"
    metrics = folder / "trials/001/metrics.jsonl"
    process = subprocess.Popen([sys.executable, "-c", COMMAND.format(folder=str(folder), settings=settings)])
    while process.poll() is None and not (metrics.exists() and metrics.read_text().count("\n") > 2):
        time.sleep(0.02)
    assert process.poll() is None, "it was to be killed within its second trial"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert Run.open(folder / "trials/001").results() is None
    said = Said()
    found = tune(folder=folder, resume=True, trials=3, watch=said)
    assert values(found) == values(whole) and said.epochs < 24


@pytest.mark.slow
def test_side_by_side_and_one_is_killed(tmp_path, monkeypatch):
    killed = []
    start = subprocess.Popen

    def started(command, **more):
        process = start(command, **more)
        if command[command.index("kdcore.tuning.workers") + 2] == "1" and not killed:
            killed.append(process.pid)
            process.kill()
        return process

    monkeypatch.setattr("kdcore.tuning.workers.subprocess.Popen", started)
    said = Said()
    found = search(tmp_path / "s", "momentum=0.1..0.4:0.1", strategy="grid", jobs=2, watch=said)
    assert [row["state"] for row in found.trials] == ["finished"] * 4 and len(killed) == 1
    assert any("trial 1: its process was killed (signal 9); it goes on" in text for text in said.remarks)

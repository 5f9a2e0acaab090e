"""Experiments: files found without an import, read strictly, scaled, judged. What runs them has `cli/tests/test_reproduce.py`."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kdcore.comparison.aggregate import Comparison, Row, Value
from kdcore.comparison.measures import DEEPEST, Measure
from kdcore.comparison.statistics import spread
from kdcore.errors import KdError
from kdcore.experiments import finding
from kdcore.experiments.claims import judge
from kdcore.experiments.finding import experiments, find_experiment
from kdcore.experiments.outcome import Line, cells_of, csv_text, markdown, outcome
from kdcore.experiments.planning import Choices, Facts, make_plan, scaled
from kdcore.experiments.reading import read_experiment

TEXT = """
title = "grey squares"
paper = "Doe, Squares, 2020"
url = "https://example.org"
table = "table 7"
checkpoint = "last"
seeds = 3
open = ["the rate: .1 is ours"]
[data]
get = "squares, as .npz"
classes = 4
image_size = 16
channels = 1
train = 40
test = 40
[settings]
epochs = 100
sched = "multistep"
warmup_epochs = 5
[teachers.big]
model = "test_resnet"
method = "plain:--epochs=200"
paper = { deepest = 60 }
[[rows]]
name = "S"
model = "test_resnet_32px"
method = "deep-supervision:--decay-milestones=[50,75]"
paper = { "1" = 50.0, deepest = 61.5, ensemble = 62.25, deviation = 0.5 }
[[rows]]
name = "KD"
model = "test_resnet_32px"
method = "kd:temperature=2"
teacher = "big"
[[rows]]
name = "FitNet"
needs = "a plugin for FitNet"
paper = { deepest = 58.1 }
[[claims]]
text = "it beats plain training"
kind = "better"
row = "S"
than = "plain"
[[claims]]
text = "deeper is better"
kind = "increasing"
row = "S"
exits = ["1", "deepest", "ensemble"]
[[claims]]
text = "it beats FitNet"
kind = "better"
row = "S"
than = "FitNet"
"""
ABOUT = "'squares/t' (kdcore-squares 1.2)"


@pytest.fixture
def write(tmp_path):
    def write(*changes):
        text = TEXT
        for old, new in changes:
            assert old in text
            text = text.replace(old, new, 1)
        path = tmp_path / "t.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def experiment(write):
    return read_experiment(write(), ABOUT)


def plan_of(experiment, place=Path("x"), **chosen):
    facts = Facts("digits", 4, 16, 40, 40, limit=chosen.pop("limit", None), single=chosen.pop("single", []))
    return make_plan(experiment, Choices(**chosen), facts, place)


def test_a_file_says_rows_teachers_and_numbers(experiment):
    assert [row.name for row in experiment.runnable] == ["S", "KD"] and experiment.authors == "Doe"
    row = experiment.rows[0]
    assert row.numbers == {"1": 50.0, "deepest": 61.5, "ensemble": 62.25}
    assert (row.deviation("ensemble"), row.deviation("deepest")) == (0.5, None)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("table =", "tabel =", "there is no key 'tabel'; did you mean 'table'?"),
        ("channels = 1", "chanels = 1", "there is no key 'data.chanels'; did you mean 'channels'?"),
        ('needs = "a plugin for FitNet"', 'need = "x"', "there is no key 'rows[3].need'; did you mean 'needs'?"),
        ("deepest = 58.1", "depest = 58.1", "rows[3].paper"),
        ("seeds = 3", 'seeds = "3"', "seeds '3': it should be a valid integer"),
        ('title = "grey squares"\n', "", "the key 'title' is missing"),
        ('checkpoint = "last"', 'checkpoint = "first"', "checkpoint 'first'"),
        ("epochs = 100", "epohcs = 100", "[settings]: there is no setting 'epohcs'; did you mean 'epochs'?"),
        ("epochs = 100", "epochs = 0", "[settings]: --epochs 0"),
        ("epochs = 100", 'data = "digits"', "[settings]: 'data' is no setting of all rows: it stands in [data]"),
        ('method = "kd:temperature=2"', 'method = "kd:--epohcs=2"', "rows[2]: --method kd:--epohcs=2: there is no setting --epohcs"),
        ('teacher = "big"', 'teacher = "bgi"', "rows[2]: there is no teacher 'bgi' in [teachers]; did you mean 'big'?"),
        ('name = "KD"', 'name = "S"', "rows[2]: two rows are called 'S'"),
        ('needs = "a plugin for FitNet"', "", "rows[3]: a row has either a method or needs"),
        ('than = "FitNet"', 'than = "FitNett"', "claims[3]: there is no row 'FitNett'; did you mean 'FitNet'?"),
        ('than = "FitNet"', "", "claims[3]: better needs `than`"),
        ("epochs = 100", "epochs = = 100", "is not TOML"),
    ],
)
def test_a_slip_is_one_line_with_file_key_and_distribution(write, old, new, said):
    path = write((old, new))
    with pytest.raises(KdError) as caught:
        read_experiment(path, ABOUT)
    text = str(caught.value)
    assert said in text and str(path) in text and ABOUT in text and "\n" not in text


def test_the_file_in_the_docs_is_a_whole_one(tmp_path):
    page = (Path(__file__).parents[1] / "docs/reproducing.md").read_text(encoding="utf-8")
    path = tmp_path / "t.toml"
    path.write_text(page.partition("```toml\n")[2].partition("```")[0], encoding="utf-8")
    found = read_experiment(path, ABOUT)
    assert [row.name for row in found.rows] == ["plain", "KD", "FitNet"] and found.claims[0].than == "plain"
    assert [row.name for row in plan_of(found).rows] == ["deep-supervision", "plain", "KD"]


@pytest.fixture
def plugin(carried):
    """The file of the experiment squares/t, of an installed distribution whose package must not be imported."""
    return carried(TEXT)


def test_found_without_importing(plugin):
    found = find_experiment("squares/t")
    assert found.distribution == "kdcore-squares 1.2" and found.read().title == "grey squares"
    with pytest.raises(KdError, match=r"there is no experiment 'squares/tt'; did you mean 'squares/t'\?"):
        find_experiment("squares/tt")
    with pytest.raises(KdError, match=r"'squares' has 1 experiments, name one: squares/t"):
        find_experiment("squares")


def test_two_distributions_of_one_name_are_both_named(plugin, tmp_path, monkeypatch):
    one = next(info for info in finding.installed() if info.name == "squares")
    (tmp_path / "other/experiments").mkdir(parents=True)
    (tmp_path / "other/__init__.py").write_text("")
    (tmp_path / "other/experiments/t.toml").write_text(TEXT)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(finding, "installed", lambda: [one, one.__class__("squares", "kdcore-other", "2", "other")])
    with pytest.raises(KdError, match=r"kdcore-squares 1\.2 and kdcore-other 2"):
        experiments()


def test_listing_imports_neither_torch_nor_plugins():
    code = "import sys; from kdcore.experiments.finding import experiments; from kdcore.experiments import costs\n"
    code += "for one in experiments().values(): costs.size_of(one.read())\nprint(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "kdcore.experiments.costs" in modules
    assert not [name for name in modules if name in ("torch", "timm", "numpy") or (name.startswith("kdcore_"))]


def test_the_plan_has_rows_teachers_and_baselines(experiment, tmp_path):
    plan = plan_of(experiment, tmp_path)
    assert [row.name for row in plan.rows] == ["plain", "S", "KD"]  # deep-supervision is there: the paper's row S
    assert plan.rows[2].settings == {"teacher": str(tmp_path / "teachers/big")} and plan.rows[2].options == {"temperature": 2}
    assert [(row.name, row.folder, row.settings) for row in plan.teachers] == [("teacher big", "big", {"epochs": 200})]
    assert plan.shared["epochs"] == 100 and plan.shared["test_every_epoch"] and plan.shared["data"] == "digits"
    assert [row.name for row in plan_of(experiment, baselines=False).rows] == ["S", "KD"]
    assert [row.name for row in plan_of(experiment, rows=["S"]).rows] == ["plain", "S"]
    assert not plan_of(experiment, rows=["S"]).teachers


def test_fewer_epochs_scale_what_counts_in_epochs(experiment):
    plan = plan_of(experiment, epochs=10)
    assert plan.shared["epochs"] == 10 and plan.shared["warmup_epochs"] == 1  # round(0.5) is 0: at least 1
    assert plan.shared["decay_milestones"] == [9, 18, 27]  # the setting's defaults, which multistep uses
    rows = {row.name: row.settings for row in plan.rows}
    assert rows["S"] == {"decay_milestones": [5, 8]} and plan.teachers[0].settings == {"epochs": 20}
    assert "epochs 100 -> 10" in plan.said and "S: decay_milestones 50,75 -> 5,8" in plan.said
    assert "teacher big: epochs 200 -> 20" in plan.said
    row = experiment.rows[1].model_copy(update={"method": "kd:x.teacher_epochs=50"})
    longer = experiment.model_copy(update={"rows": [experiment.rows[0], row]})
    plan = plan_of(longer, epochs=10)
    assert plan.rows[2].options == {"x.teacher_epochs": 5} and "KD: -o x.teacher_epochs 50 -> 5" in plan.said


def test_options_that_count_epochs_and_warm_up():
    said = []
    found = scaled(
        {"epochs": 100, "warmup_epochs": 90, "options": {"teacher_epochs": 50, "k": 8, "x.milestones": [30, 60]}}, {}, 0.01, "", said
    )
    assert found == {"epochs": 1, "warmup_epochs": 0, "options": {"teacher_epochs": 1, "k": 8, "x.milestones": [1]}}
    assert "-o teacher_epochs 50 -> 1" in said


def test_a_smoke_test_is_tiny(experiment):
    plan = plan_of(experiment, smoke=True)
    assert (plan.shared["epochs"], plan.shared["batch_size"], plan.shared["pretrained"]) == (1, 16, False)
    assert plan.teachers[0].settings["epochs"] == 1


def test_a_smoke_test_has_small_images_where_every_network_takes_them(experiment):
    from kdcore.experiments.smoke import side_for

    assert side_for(["test_resnet_32px", "cifar/wrn_16_1"], 1) == 16
    assert side_for(["test_resnet_32px", "resnet18"], 3) == 32  # its last map would be a pixel
    assert side_for(["vgg11"], 3) == 32  # it has no map left to pool
    larger = experiment.model_copy(update={"settings": {"img_size": 64}})
    for side in (16, 32):
        facts = Facts("digits", 4, 16, 40, 40, side=side)
        assert make_plan(larger, Choices(smoke=True), facts, Path("x")).shared["img_size"] == side


def test_other_data_has_other_splits(experiment, tmp_path):
    (tmp_path / "other.npz").touch()
    other = experiment.model_copy(update={"settings": {"epochs": 2, "test_split": "val", "data_dir": "/photos"}})
    assert plan_of(other).shared["test_split"] == "val"
    shared = plan_of(other, data=str(tmp_path / "other.npz")).shared
    assert shared["epochs"] == 2 and "test_split" not in shared and "data_dir" not in shared


def test_a_teacher_of_a_smoke_test_knows_its_images(experiment, tmp_path):
    """A run from those weights is right far more often than guessing: there are methods that ask."""
    from kdcore.experiments.smoke import knowing_weights, random_images
    from kdcore.training import evaluate, train

    random_images(experiment.data, tmp_path / "s.npz")
    weights = knowing_weights("test_resnet_32px", tmp_path / "s.npz", tmp_path)
    small = {"epochs": 1, "batch_size": 8, "lr": 1e-6, "dev_fraction": 0.0, "amp": "none", "channels_last": False, "aug": False}
    train("test_resnet_32px", str(tmp_path / "s.npz"), method="plain", init=str(weights), run=tmp_path / "run", **small)
    with np.load(tmp_path / "s.npz") as images:
        again = {f"{split}_{kind}": images[f"train_{kind}"] for split in ("train", "test") for kind in ("images", "labels")}
    np.savez(tmp_path / "again.npz", **again)
    found = evaluate(tmp_path / "run", str(tmp_path / "again.npz"))
    assert found["test"]["exits"][0]["top1"] > 60


# -- numbers ------------------------------------------------------------------------------------------------------------------


def comparison(**rows):
    """rows: by exit, a list of values by seed."""
    values, about = [], []
    for row, exits in rows.items():
        count = len(next(iter(exits.values())))
        about.append(
            Row(row, {seed: f"cells/{row}" for seed in range(count)}, [{"exit": k} for k in range(1, len(exits))] or [{"exit": 1}], None)
        )
        for exit, numbers in exits.items():
            what = {"deepest": (DEEPEST, ""), "ensemble": ("ensemble", "mean_logits")}.get(exit, ("exit", exit))
            measure = Measure("last", "test", *what, "top1")
            values.append(Value(row, measure, spread(numbers), dict(enumerate(numbers)), None, exit))
    return Comparison(about, values, None, [])


def test_claims_are_held_or_not_or_cannot_be_tested(experiment):
    found = comparison(
        S={"1": [50.0, 51.0, 52.0], "deepest": [60.0, 61.0, 63.0], "ensemble": [60.5, 60.9, 62.0]}, plain={"deepest": [58.0, 59.5, 60.5]}
    )
    better, increasing, other = judge(experiment, found)
    assert (better.verdict, better.statistic) == ("held", "S - plain at deepest") and better.measured == "deepest +2.00 [0.76, 3.24]"
    assert (
        increasing.verdict == "not held"
        and "deepest - 1 +10.33" in increasing.measured
        and "within the noise at ensemble - deepest" in increasing.remark
    )
    assert (other.verdict, other.remark) == ("not testable here", "FitNet needs a plugin for FitNet")
    assert judge(experiment, None)[0].remark == "no finished run of S"
    one_seed = judge(experiment, comparison(S={"1": [50.0], "deepest": [60.0], "ensemble": [61.0]}, plain={"deepest": [58.0]}))[0]
    assert one_seed.remark == "n 1, which says nothing of the noise" and one_seed.measured == "deepest +2.00"


def test_the_table_sets_the_paper_beside_what_was_measured(experiment, tmp_path):
    plan = plan_of(experiment, tmp_path, epochs=10, subset=0.5, limit=20)
    found = comparison(S={"1": [50.0, 51.0], "deepest": [60.0, 61.0], "ensemble": [62.0, 62.5]}, plain={"deepest": [58.0, 59.0]})
    facts = Facts("other.npz", 4, 8, 40, 40, held_out=4, limit=20)
    came = outcome("squares/t", experiment, Choices(data="other.npz", epochs=10, subset=0.5), facts, plan, [0, 1], found, tmp_path)
    lines = {(line.row, line.exit): line for line in came.lines}
    assert list(lines) == [
        ("teacher big", "deepest"),
        ("plain", "deepest"),
        ("S", "1"),
        ("S", "deepest"),
        ("S", "ensemble"),
        ("KD", "deepest"),
        ("FitNet", "deepest"),
    ]
    assert lines["S", "deepest"].difference == -1.0 and lines["S", "ensemble"].paper_deviation == 0.5
    assert cells_of(lines["S", "ensemble"]) == ("S", "ensemble", "62.25 ± 0.50", "62.250 ± 0.354 (2)", "+0.00", "")
    assert lines["KD", "deepest"].note == "no finished run" and lines["FitNet", "deepest"].note == "needs a plugin for FitNet"
    differs = "\n".join(came.differs)
    for text in (
        "--data other.npz in place of squares, as .npz",
        "20 of 40 training images",
        "4 of 40 training images are held out",
        "--epochs 10 of 100, and in proportion: epochs 100 -> 10",
        "2 seeds and not 3",
        "images of 8 pixels and not 16",
        "open in the paper: the rate: .1 is ours",
    ):
        assert text in differs
    assert "| S | deepest | 61.50 | 60.500 ± 0.707 (2) | -1.00 |  |" in markdown(came)
    assert "S,deepest,61.5,,60.5,0.707107,2,-1.0," in csv_text(came)


def test_a_smoke_test_claims_nothing(experiment, tmp_path):
    plan = plan_of(experiment, tmp_path, smoke=True, rows=["S"])
    found = comparison(S={"1": [50.0], "deepest": [60.0]}, plain={"deepest": [58.0]})
    came = outcome("squares/t", experiment, Choices(smoke=True, rows=["S"]), Facts("s", 4, 16, 40, 40), plan, [0], found, tmp_path)
    assert all(line.measured is None for line in came.lines) and not came.claims
    assert [line.note for line in came.lines if line.row in ("S", "KD")][:2] == ["ran", ""]
    assert Line("KD", "deepest", note="not run by --smoke") in came.lines


def test_rows_that_were_not_asked_for_say_so(experiment, tmp_path):
    chosen = Choices(rows=["S"])
    came = outcome("squares/t", experiment, chosen, Facts("s", 4, 16, 40, 40), plan_of(experiment, rows=["S"]), [0, 1, 2], None, tmp_path)
    assert "1 of 2 rows (--row)" in came.differs and Line("KD", "deepest", note="not asked for (--row)") in came.lines


def test_a_network_that_this_machine_cannot_train_composes_without_memory():
    """ResNet-50, its baselines and OSAKD on Tiny ImageNet: shapes alone, on the meta device."""
    from kdcore.experiments.rehearsing import dry_run

    planned = dry_run("osakd/table1-tiny-imagenet", rows=["base", "8NN"])
    assert [(one.row, one.device) for one in planned.fits] == [("deep-supervision", "meta"), ("base", "meta"), ("8NN", "meta")]
    assert [one.exits for one in planned.fits] == [4, 1, 1] and planned.fits[1].parameters == 23_917_832


LOOKS = """
from kdcore import Method, Term, hookimpl
def looking(step, targets):
    loss = step.outputs.logits[-1].square().mean()
    return loss if float(loss.detach()) > 0 else 0 * loss
@hookimpl
def methods():
    return {"looks": lambda: Method(terms={"looks": Term(looking, None)})}
"""


def test_a_part_that_looks_at_values_is_composed_on_the_cpu(tmp_path, carried):
    """And what is wrong there is said as it is, not that the meta device has no values."""
    from kdcore.experiments.rehearsing import dry_run

    (tmp_path / "mine.py").write_text(LOOKS)
    carried(
        TEXT.replace('method = "deep-supervision', 'method = "mine.looks').replace(
            "epochs = 100", f'epochs = 100\nplugin = ["{tmp_path}/mine.py"]', 1
        )
    )
    planned = dry_run("squares/t", rows=["S"], baselines=False)
    assert [(one.row, one.device) for one in planned.fits] == [("S", "cpu")]
    (tmp_path / "mine.py").write_text(LOOKS.replace("> 0 else", "> no else"))
    with pytest.raises(KdError, match=r"row 'S': .*NameError: name 'no' is not defined"):
        dry_run("squares/t", rows=["S"], baselines=False)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", list(experiments()))
def test_every_experiment_composes_as_the_paper_has_it(name):
    """Every row of every table fits together, without data or weights, whatever this machine could train; and costs what its file says."""
    from kdcore.experiments.rehearsing import dry_run

    planned, said = dry_run(name), experiments()[name].read().cost
    assert {one.device for one in planned.fits} == {"meta"}
    assert planned.cost == (said and pytest.approx(said.model_dump(), rel=0.006))

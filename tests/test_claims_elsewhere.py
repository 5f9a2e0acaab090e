"""The papers' claims judged on comparisons: which rows stand for the paper's, and what is said of the difference."""

from types import SimpleNamespace

import pytest

from kdcore.comparison.aggregate import Comparison, Value
from kdcore.comparison.aggregate import Row as Counted
from kdcore.comparison.grid import Grid, Row
from kdcore.comparison.measures import DEEPEST, Measure
from kdcore.comparison.statistics import spread
from kdcore.experiments import elsewhere
from kdcore.experiments.elsewhere import claims_on, comparisons
from kdcore.experiments.reading import ClaimOf, DataOf, Experiment, RowOf


def row(model, name, method, **settings):
    return Row(f"{model} {name}", name, model, method, settings.pop("options", {}), settings)


@pytest.fixture
def judged(monkeypatch):
    """`judged(rows, numbers, paper_rows, claims)`: the claims on a comparison of these rows; numbers: by row, a list of values by seed for each exit."""

    def judge(rows, numbers, paper, claims):
        experiment = Experiment(
            title="t", paper="Doe, Squares, 2020", url="https://example.org", table="table 1", checkpoint="over_epochs", seeds=1,
            data=DataOf(get="squares", classes=4, image_size=8),
            rows=[RowOf(name=name, model=model, method=method) for name, (model, method) in paper.items()],
            claims=[ClaimOf(**claim) for claim in claims],
        )  # fmt: skip
        about, values = [], []
        for name, exits in numbers.items():
            seeds = len(next(iter(exits.values())))
            about.append(
                Counted(
                    name, dict.fromkeys(range(seeds), ""), [{"exit": 1}] * max(1, len([one for one in exits if one != "ensemble"])), None
                )
            )
            for exit, found in exits.items():
                what = {"deepest": (DEEPEST, ""), "ensemble": ("ensemble", "mean_logits")}.get(exit, ("exit", exit))
                values.append(Value(name, Measure("best", "test", *what, "top1"), spread(found), dict(enumerate(found)), None, exit))
        monkeypatch.setattr(elsewhere, "read_grid", lambda place: Grid(rows, [0, 1], {"data": "digits", "epochs": 3}))
        monkeypatch.setattr(elsewhere, "stored_comparison", lambda place: ([0, 1], Comparison(about, values, None, [])))
        monkeypatch.setattr(elsewhere, "experiments", lambda: {"squares/t": SimpleNamespace(name="squares/t", read=lambda: experiment)})
        return claims_on("anywhere")

    return judge


BETTER = {"kind": "better", "row": "R18 KD", "than": "R18 base", "exits": ["1", "2", "3", "deepest"]}
PAPER = {"R18 base": ("resnet18", "plain"), "R18 KD": ("resnet18", "kd:temperature=4")}


def test_a_paper_s_sentence_is_judged_on_another_network_and_says_so(judged):
    rows = [row("vgg", "plain", "plain"), row("vgg", "kd", "kd")]  # 4 is the default of kd's temperature
    numbers = {"vgg plain": {"1": [50.0, 51.0], "deepest": [60.0, 61.0]}, "vgg kd": {"1": [49.0, 49.5], "deepest": [63.0, 65.0]}}
    (one,) = judged(rows, numbers, PAPER, [{"text": "R18: a teacher helps", **BETTER}])
    assert one["experiment"] == "squares/t" and one["runs"] == "4 finished runs, 2 seeds, data digits, epochs 3"
    (claim,) = one["claims"]
    assert claim["text"] == "a teacher helps" and claim["verdict"] == "not held"
    assert claim["statistic"] == "vgg kd - vgg plain at 1, deepest"  # of two exits, the second is the deepest
    assert "1 -1.25" in claim["measured"] and "deepest +3.50" in claim["measured"]
    assert "on vgg, in the paper resnet18" in claim["remark"]


def test_a_row_with_other_options_does_not_stand_for_the_paper_s(judged):
    numbers = {"vgg plain": {"deepest": [60.0]}, "vgg kd": {"deepest": [63.0]}}
    rows = [row("vgg", "plain", "plain"), row("vgg", "kd", "kd", options={"temperature": 1})]
    assert judged(rows, numbers, PAPER, [{"text": "a teacher helps", **BETTER}]) == []


def test_other_parts_are_said(judged):
    rows = [row("vgg", "plain", "plain", exits="linear"), row("vgg", "kd", "kd")]
    numbers = {"vgg plain": {"deepest": [60.0]}, "vgg kd": {"deepest": [63.0]}}
    (one,) = judged(rows, numbers, PAPER, [{"text": "a teacher helps", **BETTER}])
    assert one["claims"][0]["remark"].endswith("vgg plain for plain")


def test_one_claim_of_several_networks_stands_once(judged):
    rows = [row("vgg", "plain", "plain"), row("vgg", "kd", "kd")]
    numbers = {"vgg plain": {"deepest": [60.0]}, "vgg kd": {"deepest": [63.0], "ensemble": [64.0]}}
    paper = PAPER | {"R50 base": ("resnet50", "plain"), "R50 KD": ("resnet50", "kd:temperature=4")}
    claims = [
        {"text": "R18: a teacher helps", **BETTER},
        {"text": "R50: a teacher helps", **BETTER, "row": "R50 KD", "than": "R50 base"},
        {"text": "R18: the ensemble is better", "kind": "increasing", "row": "R18 KD", "exits": ["deepest", "ensemble"]},
    ]
    (one,) = judged(rows, numbers, paper, claims)
    assert [(claim["text"], claim["verdict"]) for claim in one["claims"]] == [
        ("a teacher helps", "held"),
        ("the ensemble is better", "held"),
    ]


def test_comparisons_are_found_and_reproductions_are_not_among_them(tmp_path):
    for folder in ("a", "sub/b", "r"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "compare.toml").touch()
    (tmp_path / "r" / "experiment.json").touch()
    assert comparisons(tmp_path) == [tmp_path / "a", tmp_path / "sub/b"] and comparisons(tmp_path / "a") == [tmp_path / "a"]

"""Analyses: what they are handed, what becomes of what they return, and that no earlier one is ever lost."""

import base64
import csv
import json
import re
import shutil

import pytest

import kdcore
from kdcore import KdError
from kdcore.analysis import Analysis, as_csv, available, trained
from kdcore.errors import FileError
from kdcore.plugins import Plugins
from kdcore.runs import Run

PLUGIN = """
from typing import Annotated, Literal
from annotated_types import Ge
from matplotlib.figure import Figure
from kdcore import Analysis, hookimpl

def curve(run, *, split: Literal["dev", "test"] = "dev", power: Annotated[int, Ge(1)] = 1):
    rows = [{"epoch": r["epoch"], "top-1": r[split]["top1"] ** power, "none": None} for r in run.metrics()]
    figure = Figure()
    figure.subplots().plot([row["top-1"] for row in rows])
    more = {"second": rows} if power == 1 else {}
    return Analysis({"curve": rows, **more}, {"curve": figure}, f"{len(rows)} epochs of {run.path.name}")

def both(runs, folder, note, *, names: list[str] | None = None):
    note(f"{len(runs)} runs in {folder.name}")
    (folder / "kept.txt").write_text("so far")
    return Analysis({"runs": [{"run": run.path.name} for run in runs]})

def table(one, *, unit: str = "percent"):
    return {"title": f"in {unit}", "columns": ["a", "b"], "rows": [[1, float("nan")], [2, None]]}

def wrong(run, device):
    return Analysis()

def nothing(run):
    return None

def raising(run):
    raise ValueError("no such column")

def named(run):
    return Analysis({"../out": []})

@hookimpl
def analyses():
    return {"curve": curve, "both": both, "table": table, "wrong": wrong, "nothing": nothing, "raising": raising, "named": named}
"""


@pytest.fixture
def plugins(tmp_path):
    path = tmp_path / "study.py"
    path.write_text(PLUGIN)
    return Plugins([str(path)])


@pytest.fixture
def run(tmp_path):
    return make(tmp_path / "runs" / "one", (50.0, 60.0))


def make(path, tops):
    path.mkdir(parents=True)
    (path / "config.toml").write_text('model = "resnet18"\ndata = "digits"\n')
    (path / "metrics.jsonl").write_text("".join(json.dumps({"epoch": k, "dev": {"top1": top}}) + "\n" for k, top in enumerate(tops, 1)))
    return path


def test_tables_and_figures_become_files(run, plugins):
    done = kdcore.analyze("study.curve", run, plugins=plugins)
    assert done.folder == run / "analyses" / "study.curve" and done.analysis.text == "2 epochs of one"
    assert sorted(path.name for path in done.folder.iterdir()) == sorted([*done.files, "analysis.json"])
    assert {"curve.csv", "curve.json", "curve.png", "curve.svg", "second.csv", "text.txt"} <= set(done.files)
    rows = list(csv.DictReader((done.folder / "curve.csv").read_text().splitlines()))
    assert rows == [{"epoch": "1", "top-1": "50.0", "none": ""}, {"epoch": "2", "top-1": "60.0", "none": ""}]
    assert json.loads((done.folder / "curve.json").read_text()) == [dict(row) for row in done.analysis.tables["curve"]]
    assert (done.folder / "curve.png").read_bytes().startswith(b"\x89PNG") and (done.folder / "curve.svg").read_text().startswith("<svg")
    about = json.loads((done.folder / "analysis.json").read_text())
    assert about["analysis"] == "study.curve" and about["options"] == {"split": "dev", "power": 1} and about["runs"] == ["../.."]


def test_only_the_same_with_the_same_options_is_written_over(run, plugins):
    first = kdcore.analyze("study.curve", run, plugins=plugins)
    (first.folder / "curve.csv").write_text("stale")
    assert kdcore.analyze("study.curve", run, {"power": 1}, plugins=plugins).folder == first.folder  # the default, typed
    assert (first.folder / "curve.csv").read_text() != "stale"
    second = kdcore.analyze("study.curve", run, {"power": 2}, plugins=plugins)
    assert second.folder.name == "study.curve-2" and json.loads((first.folder / "curve.json").read_text())[0]["top-1"] == 50
    assert kdcore.analyze("study.curve", run, {"power": 2}, plugins=plugins).folder == second.folder
    assert kdcore.analyze("study.curve", run, {"power": 3}, plugins=plugins).folder.name == "study.curve-3"


def test_what_somebody_else_put_there_is_left_alone(run, plugins, tmp_path):
    folder = run / "analyses" / "study.curve"
    folder.mkdir(parents=True)
    (folder / "mine.txt").write_text("notes")
    assert kdcore.analyze("study.curve", run, plugins=plugins).folder.name == "study.curve-2"
    assert [path.name for path in folder.iterdir()] == ["mine.txt"]
    with pytest.raises(KdError, match="choose another folder"):
        kdcore.analyze("study.curve", run, out=folder, plugins=plugins)
    assert kdcore.analyze("study.curve", run, out=tmp_path / "out", plugins=plugins).folder == tmp_path / "out"
    kdcore.analyze("study.curve", run, out=tmp_path / "out", plugins=plugins)


def test_files_that_are_no_longer_written_go(run, plugins, monkeypatch):
    done = kdcore.analyze("study.curve", run, plugins=plugins)
    part = plugins.part("analyses", "study.curve")
    monkeypatch.setattr(part.target, "__code__", (lambda run, *, split="dev", power=1: Analysis({"curve": []})).__code__)
    part.target.__globals__["Analysis"] = Analysis
    assert kdcore.analyze("study.curve", run, plugins=plugins).files == ["curve.csv", "curve.json"]
    assert not (done.folder / "second.csv").exists() and not (done.folder / "text.txt").exists()


def test_several_runs_a_folder_and_a_voice(run, plugins, tmp_path):
    other, said = make(tmp_path / "runs" / "two", (1.0,)), []
    done = kdcore.analyze("study.both", [run, other], plugins=plugins, note=said.append)
    assert done.folder == run / "analyses" / "study.both" and said == ["2 runs in study.both"]
    assert done.analysis.tables["runs"] == [{"run": "one"}, {"run": "two"}] and (done.folder / "kept.txt").exists()
    assert kdcore.analyze("study.both", [run], plugins=plugins).folder.name == "study.both-2"
    with pytest.raises(KdError, match="takes one run, and 2 are named"):
        kdcore.analyze("study.curve", [run, other], plugins=plugins)


def test_a_moved_run_keeps_its_analyses(run, plugins):
    kdcore.analyze("study.curve", run, plugins=plugins)
    moved = run.rename(run.with_name("elsewhere"))
    assert kdcore.analyze("study.curve", moved, plugins=plugins).folder == moved / "analyses" / "study.curve"


def test_one_table_alone_will_do(run, plugins):
    done = kdcore.analyze("study.table", run, plugins=plugins)
    assert done.to_json()["tables"] == {"table": [{"a": 1, "b": None}, {"a": 2, "b": None}]} and done.analysis.text == "in percent"


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("study.curve", {"splt": "dev"}, r"analysis 'study.curve' .* has no option 'splt'; did you mean 'split'"),
        ("study.curve", {"power": 0}, "power=0 is refused"),
        ("study.curv", {}, "has no analysis 'study.curv'; did you mean 'study.curve'"),
        ("curve", {}, r"did you mean 'study\.curve'"),
        ("study.wrong", {}, "asks for 'device', and analyses are handed run, runs, folder, note"),
        ("study.nothing", {}, "must return a kdcore.analysis.Analysis, not NoneType"),
        ("study.raising", {}, r"study\.raising' .* failed: ValueError: no such column"),
        ("study.named", {}, "cannot be the name of a table"),
    ],
)
def test_refusals_are_one_line(run, plugins, monkeypatch, name, options, says):
    monkeypatch.setattr(plugins, "infos", {"study": plugins.infos["study"]})
    with pytest.raises(KdError, match=says) as caught:
        kdcore.analyze(name, run, options, plugins=plugins)
    assert "\n" not in str(caught.value)
    assert not (run / "analyses").exists()  # nothing is left of what found nothing


def test_no_run_and_no_name(run, plugins, tmp_path):
    with pytest.raises(KdError, match="none is named"):
        kdcore.analyze("study.curve", [], plugins=plugins)
    with pytest.raises(FileError, match="there is no run folder"):
        kdcore.analyze("study.curve", tmp_path / "nowhere", plugins=plugins)


def test_a_broken_plugin_does_not_hide_the_others(plugins, tmp_path):
    from kdcore.plugins import PluginInfo

    plugins.infos["broken"] = [PluginInfo("broken", "broken-dist", "1", "no_such_module_at_all")]
    found, broken = available(plugins)
    assert "study.curve" in {part.name for part in found} and "broken-dist" in broken["broken"]


def test_columns_are_those_of_all_rows():
    assert as_csv([{"a": 1}, {"b": "x,y", "a": None}]) == 'a,b\n1,\n,"x,y"\n'


def test_what_is_trained_goes_on_and_is_not_trained_twice(tmp_path):
    from kdcore.training import Watch

    class Stop(KeyboardInterrupt):
        pass

    class Killed(Watch):
        def epoch(self, record):
            raise Stop

    settings = {"model": "test_resnet_32px", "data": "digits", "labels_per_class": 6, "epochs": 2, "device": "cpu", "method": "plain"}
    with pytest.raises(Stop):
        kdcore.train(**settings, run=tmp_path / "student", watch=Killed())
    said = []
    run = trained(tmp_path / "student", said.append, **settings)
    assert [record["epoch"] for record in run.metrics()] == [1, 2] and len(said) == 1
    before = (run.path / "results.json").stat().st_mtime_ns
    assert trained(run.path, said.append, **settings) == Run(run.path)
    assert (run.path / "results.json").stat().st_mtime_ns == before and len(said) == 1


# -- in a run's report ------------------------------------------------------------------------------------------------------


@pytest.fixture
def unfinished(tmp_path):
    """As much of a run as a report asks for."""
    path = make(tmp_path / "runs" / "one", ())
    record = {"phase": "main", "phase_number": 1, "epochs": 3, "train": {"loss": 1.0}}
    lines = [{**record, "epoch": epoch, "dev": {"top1": 50.0, "exit1/top1": 50.0}} for epoch in (1, 2)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def shown(run):
    from kdcore.report.write import write

    return write(run, images=False).path.read_text()


def test_a_report_shows_text_pictures_tables_and_where_the_files_are(unfinished, plugins, tmp_path):
    from kdcore.report.check import check

    other = make(tmp_path / "runs" / "two", (1.0,))
    kdcore.analyze("study.curve", unfinished, plugins=plugins)
    kdcore.analyze("study.both", [unfinished, other], {"names": ["<b>"]}, plugins=plugins)
    page = shown(unfinished)
    assert "<h2>Analyses</h2>" in page and "<h3>study.curve</h3>" in page and "<p>2 epochs of one</p>" in page
    png = (unfinished / "analyses" / "study.curve" / "curve.png").read_bytes()
    assert base64.b64encode(png).decode() in page and 'alt="study.curve: curve"' in page
    assert '<table data-table="analyses/study.curve/curve"' in page and '<td class="number">50</td>' in page and ">–</td>" in page
    assert "Files: analyses/study.curve; options: split=dev, power=1" in page
    assert "options: names=[&#x27;&lt;b&gt;&#x27;]; runs: this run, two" in page and "<b>" not in page
    assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', page) and check(unfinished) == []
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_the_check_follows_an_analysis_to_its_files(unfinished, plugins):
    from kdcore.report.check import check

    done = kdcore.analyze("study.curve", unfinished, plugins=plugins)
    page = shown(unfinished)
    kdcore.analyze("study.table", unfinished, plugins=plugins)
    assert check(unfinished) == []  # it is newer than the page
    table = done.folder / "curve.json"
    table.write_text(table.read_text().replace("50.0", "51.0"))
    assert check(unfinished) and (unfinished / "report.html").read_text() == page
    shutil.rmtree(done.folder)
    assert any("it shows analyses/study.curve, which the run does not hold" in line for line in check(unfinished))


def test_what_is_not_finished_or_not_ours_is_passed_over(unfinished, plugins):
    done = kdcore.analyze("study.curve", unfinished, plugins=plugins)
    about = json.loads((done.folder / "analysis.json").read_text())
    (unfinished / "analyses" / "begun").mkdir()
    (unfinished / "analyses" / "begun" / "analysis.json").write_text(json.dumps({**about, "files": []}))
    (unfinished / "analyses" / "mine").mkdir()
    (unfinished / "secret.json").write_text('[{"a": "of another folder"}]')
    (done.folder / "analysis.json").write_text(json.dumps({**about, "files": [*about["files"], "../../secret.json"]}))
    page = shown(unfinished)
    assert page.count("<h3>") == 1 and "of another folder" not in page
    (done.folder / "curve.png").unlink()
    with pytest.raises(FileError, match=r"curve\.png"):
        shown(unfinished)


def test_a_long_table_is_cut_and_says_so(unfinished, plugins):
    done = kdcore.analyze("study.curve", unfinished, plugins=plugins)
    (done.folder / "curve.json").write_text(json.dumps([{"k": k} for k in range(250)]))
    page = shown(unfinished)
    assert "curve: 200 of 250 rows, all of them in curve.csv" in page and '<td class="number">199</td>' in page
    assert '<td class="number">200</td>' not in page

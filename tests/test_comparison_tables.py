"""The statistics and the tables of a comparison, on numbers worked out by hand and on run folders written by hand."""

import csv
import io
import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import kdcore
from kdcore.comparison.aggregate import aggregate
from kdcore.comparison.entries import Entry
from kdcore.comparison.measures import Measure, measured
from kdcore.comparison.sheets import accuracies, details, differences, lines_of, sheets, signed
from kdcore.comparison.side_by_side import compare
from kdcore.comparison.statistics import Difference, Spread, paired, spread
from kdcore.comparison.tables import COLUMNS, latex, markdown, write_tables
from kdcore.errors import FileError, KdError

ROOT = Path(__file__).resolve().parents[1]
SAME = ("table.csv", "table.md", "table.tex", "comparison.json", "plot.png", "plot.svg", "plot.pdf")


def entry_of(top1):
    return {
        "top1": top1,
        "nll": round((100 - top1) / 10, 3),
        "ece": 2.5,
        "recall": {"cat": top1, "dog": None},
        "confusion": [[1, 0], [0, 1]],
    }


def report(tops):
    exits = [{"exit": k, **entry_of(top)} for k, top in enumerate(tops, start=1)]
    mean = sum(tops) / len(tops)
    ensembles = {
        "mean_logits": entry_of(mean),
        "mean_probabilities": entry_of(mean + 1),
        "fitted": {**entry_of(mean + 2), "weights": [1.0]},
    }
    return {"exits": exits, "ensembles": ensembles if len(tops) > 1 else {}, "samples": 2}


def make(path, tops, *, seed=0, dev=None, last=None, over=None, minutes=1.0, epochs=2, train="a", **settings) -> Path:
    """A finished run. tops: test top-1 of each exit at the best epoch on dev; dev: those on dev; last: on test at the last epoch."""
    path.mkdir(parents=True)
    values = {
        "model": "resnet18",
        "data": "/photos/road",
        "method": "byot",
        "seed": seed,
        "lr": 0.1,
        "epochs": 2,
        "mean": [0.1 * seed],
        **settings,
    }
    (path / "config.toml").write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items()))
    best = {"epoch": 1, **({"dev": report(dev or tops)} if dev != () else {}), "test": report(tops)}
    at_end = {**best, "epoch": 2, "test": report(last or tops)}
    costs = [{"exit": k, "parameters": 1000 * k, "macs": 10**6 * k} for k in range(1, len(tops) + 1)]
    results = {"best": best, "last": at_end, "minutes": minutes, "costs": costs}
    if over:
        highest = [{"exit": k, "top1": top, "epoch": 1} for k, top in enumerate(over, start=1)]
        results["over_epochs"] = {"label": "optimistic", "epochs": 2, "exits": highest, "ensembles": {}}
    (path / "results.json").write_text(json.dumps(results))
    records = [{"phase_number": 1, "epoch": k + 1, "epochs": epochs, "dev": {}} for k in range(epochs)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (path / "environment.json").write_text(
        json.dumps({"cpu": "A CPU", "python": "3.11", "command": "kd train", "versions": {"torch": "2.15"}})
    )
    (path / "data.json").write_text(json.dumps({"splits": {"train": {"count": 2, "samples": f"{train}{seed}", "labels": "x"}}}))
    return path


@pytest.fixture
def entries(tmp_path) -> list[Entry]:
    """plain against byot over the seeds 0 to 2; the differences of the deepest exits are 1, 2 and 3 points."""
    found = []
    for seed in range(3):
        plain = make(tmp_path / "cells" / f"plain-{seed}", (80.0,), seed=seed, method="plain", over=(82.0,))
        byot = make(
            tmp_path / "cells" / f"byot-{seed}",
            (70.0, 90.0 + seed, 81.0 + seed),
            seed=seed,
            last=(60.0, 61.0, 62.0),
            over=(95.0, 96.0, 97.0),
        )
        found += [Entry("plain", seed, plain), Entry("byot", seed, byot)]
    return found


# -- statistics -------------------------------------------------------------------------------------------------------------------


def test_spread_has_the_deviation_of_the_sample():
    assert spread([80.0, 84.0, 88.0]) == Spread(84.0, 4.0, 3)
    assert spread([80.0]) == Spread(80.0, None, 1) and spread([]) is None


def test_paired_differences_by_hand():
    """d = 1, 2, 3: mean 2, s = 1, t(0.975; 2) = 4.302653, half = t / sqrt 3. d = 1, 3: s = sqrt 2, t(0.975; 1) = 12.706205, half = t."""
    base = {0: 80.0, 1: 70.0, 2: 60.0, 9: 1.0}
    half = 4.302653 / math.sqrt(3)
    found = paired({0: 81.0, 1: 72.0, 2: 63.0, 7: 99.0}, base)
    assert found.n == 3 and found.mean == 2.0 and (found.low, found.high) == pytest.approx((2 - half, 2 + half), abs=2e-6)
    two = paired({0: 81.0, 1: 73.0}, base)
    assert (two.mean, two.n) == (2.0, 2) and (two.low, two.high) == pytest.approx((2 - 12.706205, 2 + 12.706205), abs=2e-6)
    assert paired({1: 75.0}, base) == Difference(5.0, None, None, 1)
    assert paired({5: 75.0}, base) is None
    assert paired({0: 80.5, 1: 70.5}, base) == Difference(0.5, 0.5, 0.5, 2)


def test_a_zero_has_no_sign():
    assert [signed(value) for value in (0.284, -0.104, 0.001, -0.001, 0.0)] == ["+0.28", "−0.10", "0.00", "0.00", "0.00"]


# -- numbers ----------------------------------------------------------------------------------------------------------------------


def test_the_best_exit_is_chosen_on_dev_at_each_checkpoint(tmp_path):
    results = json.loads((make(tmp_path / "run", (70.0, 90.0), dev=(99.0, 1.0)) / "results.json").read_text())
    results["last"]["dev"] = report((1.0, 99.0))
    found = measured(results)
    assert found[Measure("best", "test", "best exit on dev", "", "top1")] == 70.0
    assert found[Measure("last", "test", "best exit on dev", "", "top1")] == 90.0
    assert found[Measure("best", "test", "deepest exit", "", "nll")] == 1.0
    assert not any(measure.metric in ("exit", "weights", "recall", "epoch", "samples") for measure in found)


def test_everything_is_there_and_labelled(entries, tmp_path):
    found = write_tables(entries, tmp_path / "out")
    deepest = found.find("byot", "best", "test", "deepest exit")
    assert deepest.spread == Spread(82.0, 1.0, 3) and deepest.difference == paired({0: 1.0, 1: 2.0, 2: 3.0}, {0: 0.0, 1: 0.0, 2: 0.0})
    chosen = found.find("byot", "best", "test", "best exit on dev")
    assert chosen.spread.mean == 91.0 and chosen.exits == "2" and chosen.difference.mean == 11.0
    assert found.find("byot", "last", "test", "deepest exit").difference.mean == -18.0
    assert found.find("byot", "over_epochs", "test", "deepest exit").spread.mean == 97.0
    document = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert document == json.loads(json.dumps(found.to_json()))
    assert "optimistic" in document["checkpoints"]["over_epochs"] and document["rows"][1]["seeds"] == [0, 1, 2]
    own = next(
        v for v in document["values"] if (v["row"], v["checkpoint"], v["split"], v["what"]) == ("byot", "best", "test", "deepest exit")
    )
    assert own["seeds"] == {"0": 81.0, "1": 82.0, "2": 83.0}
    with open(tmp_path / "out" / "table.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert tuple(lines[0]) == COLUMNS
    (line,) = [
        one
        for one in lines
        if (one["row"], one["checkpoint"], one["split"], one["what"], one["exit"], one["metric"])
        == ("byot", "best epoch on dev", "test", "ensemble", "fitted", "top1")
    ]
    assert (float(line["mean"]), line["n"], line["pairs"]) == (pytest.approx(83.0), "3", "3")
    assert float(line["low"]) < float(line["difference"]) < float(line["high"])
    assert {"nll", "ece"} <= {one["metric"] for one in lines} and {one["split"] for one in lines} == {"dev", "test"}


def test_exits_stand_in_their_columns(entries):
    found = aggregate(entries, baseline="plain")
    sheet = accuracies(found, "best")
    assert sheet.headings[:6] == ["", "n", "exit 1", "exit 2", "exit 3, deepest", "best exit on dev"]
    plain, byot = ([" ".join(lines_of(cell)) for cell in row] for row in sheet.rows)
    assert plain == ["plain", "3", "", "", "80.00 ± 0.00", "", "", "", ""]
    assert byot[:6] == ["byot", "3", "70.00 ± 0.00", "91.00 ± 1.00", "82.00 ± 1.00", "91.00 ± 1.00 (exit 2)"]
    (row,) = differences(found, "best").rows
    assert " ".join(lines_of(row[2])) == "+2.00 [−0.48, +4.48]"
    assert details(found).rows[0][:6] == ["plain", "1", "1 k", "1 M", "80.00 ± 0.00", "2.000 ± 0.000"]


def test_one_table_where_the_last_epoch_is_the_best(tmp_path):
    found = aggregate([Entry("plain", 0, make(tmp_path / "a", (80.0,)))], baseline="plain")
    titles = [sheet.title for sheet in sheets(found)]
    assert titles[0] == "Test top-1 in percent, last epoch, in every run the best on dev" and len(titles) == 2


# -- bytes ------------------------------------------------------------------------------------------------------------------------


def test_the_same_runs_give_the_same_bytes(entries, tmp_path):
    """In another order, elsewhere, and with other minutes."""
    write_tables(entries, tmp_path)
    shutil.copytree(tmp_path / "cells", tmp_path / "again" / "cells")
    other = [Entry(e.row, e.seed, tmp_path / "again" / e.run.relative_to(tmp_path)) for e in entries]
    for e in other:
        results = json.loads((e.run / "results.json").read_text())
        (e.run / "results.json").write_text(json.dumps({**results, "minutes": 77.0}))
    write_tables(sorted(other, key=lambda e: (e.row != "plain", -e.seed)), tmp_path / "again")
    for name in SAME:
        assert (tmp_path / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name
    costs = json.loads((tmp_path / "again" / "costs.json").read_text())
    assert costs["minutes"]["byot"] == {"0": 77.0, "1": 77.0, "2": 77.0} and costs["machines"] == ["A CPU, torch 2.15, Python 3.11"]
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG") and b"<svg" in (tmp_path / "plot.svg").read_bytes()
    text = (tmp_path / "plot.svg").read_text() + (tmp_path / "plot.pdf").read_bytes().decode("latin-1")
    assert not re.search(r"CreationDate|<dc:date|20\d\d-\d\d-\d\d", text)


def test_what_latex_and_markdown_would_take_for_their_own(tmp_path):
    name = r"a_b|50% & #1 {x} ~^\ $5 <y> *"
    found = aggregate([Entry(name, 0, make(tmp_path / "a", (80.0,))), Entry("plain", 0, make(tmp_path / "b", (79.0,)))], baseline="plain")
    text = latex(found)
    assert (
        r"a\_b\textbar{}50\% \& \#1 \{x\} \textasciitilde{}\textasciicircum{}\textbackslash{} \$5 \textless{}y\textgreater{} * & 1 & 80.00 \\"
        in text
    )
    tabulars = re.findall(r"\\begin\{tabular\}\{@\{\}(l?r+|lr+)@\{\}\}.*?\\end\{tabular\}", text, flags=re.DOTALL)
    assert len(tabulars) == text.count(r"\begin{table}") == text.count(r"\bottomrule") == 3
    for tabular in re.findall(r"\\toprule\n(.*?)\\bottomrule", text, flags=re.DOTALL):
        counts = {len(re.findall(r"(?<!\\)&", line)) for line in tabular.splitlines() if line.endswith(r"\\")}
        assert len(counts) == 1
    for line in markdown(found).splitlines():
        if line.startswith("| a"):
            assert r"a_b\|50% & #1" in line and r"\<y> \*" in line and len(re.findall(r"(?<!\\)\|", line)) > 2


# -- notes and refusals -----------------------------------------------------------------------------------------------------------


def test_tables_and_pictures_import_no_torch():
    code = "import sys, kdcore.comparison.tables, kdcore.comparison.plot, kdcore.comparison.run; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_missing_seeds_and_pairs_are_told(entries, tmp_path):
    few = [e for e in entries if not (e.row == "byot" and e.seed == 2)] + [Entry("late", 7, make(tmp_path / "late", (50.0,), seed=7))]
    found = aggregate(few, baseline="plain")
    assert found.find("byot", "best", "test", "deepest exit").spread.n == 2
    assert found.find("late", "best", "test", "deepest exit").difference is None
    notes = "\n".join(found.notes)
    assert "byot has no run of seeds 2, 7" in notes and "late has no run of seeds 0, 1, 2" in notes
    assert "late and plain have no seed in common: no difference" in notes
    assert "significant" not in markdown(found).lower()
    single = aggregate([e for e in entries if e.seed == 0], baseline="plain")
    assert single.find("byot", "best", "test", "deepest exit").difference == Difference(1.0, None, None, 1)
    assert "±" not in re.sub(r"± is the .*", "", markdown(single))


def test_without_the_baseline_there_are_no_differences(entries, tmp_path):
    own = [e for e in entries if e.row == "byot"]
    found = aggregate(own, baseline="plain")
    assert found.baseline is None and "there is no row 'plain': no differences" in found.notes
    assert all(value.difference is None for value in found.values) and differences(found, "best") is None
    assert not aggregate(own, baseline=None).notes


def test_every_backbone_is_paired_with_its_own_baseline(tmp_path):
    made = []
    for model, top in (("A", 80.0), ("B", 60.0)):
        made.append(Entry(f"{model} plain", 0, make(tmp_path / f"{model}-plain", (top,), model=model, method="plain")))
        made.append(Entry(f"{model} byot", 0, make(tmp_path / f"{model}-byot", (top, top + 3), model=model)))
    found = aggregate(made, baseline="plain")
    assert [found.find(f"{model} byot", "best", "test", "deepest exit").difference.mean for model in "AB"] == [3.0, 3.0]
    assert len(differences(found, "best").rows) == 2 and not any(note.startswith("model") for note in found.notes)


def test_a_backbone_that_was_added_later_is_paired_with_its_own_too(tmp_path):
    """The first one's rows have no backbone in their names."""
    names = {"plain": ("A", 80.0), "byot": ("A", 81.0), "./B plain": ("/x/B", 60.0), "./B byot": ("/x/B", 63.0)}
    made = [
        Entry(name, 0, make(tmp_path / name.replace("/", ""), (top,), model=model, method=name.split()[-1]))
        for name, (model, top) in names.items()
    ]
    found = aggregate(made, baseline="plain")
    assert [row.baseline for row in found.rows] == ["plain", "plain", "./B plain", "./B plain"]
    assert found.find("./B byot", "best", "test", "deepest exit").difference.mean == 3.0
    assert {row.baseline for row in aggregate(made, baseline="./B plain").rows} == {"./B plain"}


def test_a_backbone_without_a_baseline_of_its_own_has_no_differences(tmp_path):
    plain = Entry("plain", 0, make(tmp_path / "plain", (80.0,), model="A", method="plain"))
    byot = Entry("B byot", 0, make(tmp_path / "byot", (60.0,), model="B"))
    assert [row.baseline for row in aggregate([plain, byot], baseline="plain").rows] == ["plain", None]


def test_runs_without_a_test_split_are_told(tmp_path):
    made = make(tmp_path / "plain", (80.0,), dev=(70.0,), method="plain")
    results = json.loads((made / "results.json").read_text())
    for which in ("best", "last"):
        results[which].pop("test", None)
    (made / "results.json").write_text(json.dumps(results))
    assert any(note.startswith("no run has a test split") for note in aggregate([Entry("plain", 0, made)], baseline="plain").notes)


def test_what_differs_between_rows_is_told(tmp_path):
    plain = make(tmp_path / "plain", (80.0,), method="plain", epochs=2, train="b")
    byot = make(tmp_path / "byot", (80.0, 81.0), epochs=4, amp="bfloat16", options={}, labels_per_class=5, loss=["kl"])
    text = (byot / "config.toml").read_text().replace("epochs = 2", "epochs = 4")
    (byot / "config.toml").write_text(text.replace("options = {}\n", ""))
    found = aggregate([Entry("plain", 0, plain), Entry("byot", 0, byot)], baseline="plain")
    assert found.notes[:3] == ["labels_per_class: none, byot 5", "epochs: 2, byot 4", "amp: auto, byot bfloat16"]
    assert "epochs trained in all phases: plain 2, byot 4" in found.notes
    assert "byot and plain have other train images at equal seeds: their pairs share the seed alone" in found.notes
    assert "- epochs: 2, byot 4" in markdown(found)


def test_a_row_is_one_experiment(tmp_path):
    a = make(tmp_path / "a", (80.0,), seed=0)
    with pytest.raises(KdError) as error:
        aggregate([Entry("row", 0, a), Entry("row", 1, make(tmp_path / "b", (80.0,), seed=1, lr=0.2))], baseline="plain")
    assert "row 'row' mixes two experiments: lr is 0.1 in" in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(KdError, match="has seed 0 twice"):
        aggregate([Entry("row", 0, a), Entry("row", 0, make(tmp_path / "c", (80.0,), seed=0))], baseline="plain")
    same = make(tmp_path / "d", (80.0,), seed=1, workers=7, device="cuda", amp="bfloat16")  # another machine, and another measured mean
    assert "amp: auto and bfloat16" in aggregate([Entry("row", 0, a), Entry("row", 1, same)], baseline=None).notes
    (same / "results.json").unlink()
    with pytest.raises(KdError, match="is not finished"):
        aggregate([Entry("row", 1, same)], baseline="plain")
    (same / "results.json").write_text('{"best": {"test": 3}, "last": 4}')
    with pytest.raises(FileError, match="is not what kd writes"):
        aggregate([Entry("row", 1, same)], baseline="plain")
    with pytest.raises(KdError, match="no finished run"):
        aggregate([], baseline="plain")


def test_no_dev_split_is_told_and_nothing_is_best_on_it(tmp_path):
    found = aggregate([Entry("plain", 0, make(tmp_path / "a", (80.0, 81.0), dev=()))], baseline="plain")
    assert found.checkpoints() == ["last"] and found.find("plain", "last", "test", "best exit on dev") is None
    assert found.notes == ["no dev split: plain; nothing but the last epoch is chosen without the test set there"]


def test_runs_compared_by_hand_are_grouped_as_rows_are(tmp_path):
    """A mean that is measured on what the seed draws makes no group of its own; one that was typed does."""
    a, b = make(tmp_path / "a", (80.0,), seed=0), make(tmp_path / "b", (82.0,), seed=1)
    typed = make(tmp_path / "c", (82.0,), seed=1, **{"std": [9.0]})
    found = compare([a, b, typed])
    assert [group["seeds"] for group in found["groups"]] == [[0, 1], [1]] and found["options"] == {"std": [None, [9.0]]}
    assert found["metrics"]["test exit 1"][0] == {"mean": 81.0, "deviation": 1.414214, "n": 2}


# -- in the terminal, in the docs, and of a real run ----------------------------------------------------------------------------------


def test_it_fits_a_terminal(tmp_path):
    from rich.console import Console

    from kdcli.comparison_tables import comparison_tables

    made = []
    for seed in range(2):
        made.append(Entry("plain", seed, make(tmp_path / f"p{seed}", (80.0 + 9 * seed,), seed=seed)))
        tops = (11.11 + 70 * seed, 22.22, 33.33 + 9 * seed, 90.0)
        made.append(
            Entry(
                "osakd:temperature=3:--cutout=16",
                seed,
                make(tmp_path / f"o{seed}", tops, seed=seed, dev=tops[:: 1 - 2 * seed], last=tops[::-1], over=tops),
            )
        )
    console = Console(width=100, file=io.StringIO())
    console.print(comparison_tables(aggregate(made, baseline="plain")))
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= 100 and "…" not in text
    for piece in ("46.11", "± 49.50", "exit 4,", "[", "pairs", "optimistic", "minutes a run", "A CPU", "exits"):
        assert piece in text, piece


def test_sections_of_the_docs(entries, tmp_path, monkeypatch):
    from kdcore.comparison.grid import Grid, Row, write_grid

    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.delitem(sys.modules, "results", raising=False)
    import results

    write_tables(entries, tmp_path)
    rows = [Row("plain", "plain", "resnet18", "plain"), Row("byot:preset=final", "byot", "resnet18", "byot")]
    rows.append(Row("light", "light", "resnet18", "byot", {}, {"lr": 0.01}, "light=byot:--lr=0.01"))
    write_grid(
        tmp_path,
        Grid(rows, [0, 1, 2], {"test_every_epoch": True, "data": "/home/me/my.npz", "lr": 0.05, "aug": False, "options": {"a": 1}}),
    )
    page = tmp_path / "page.md"
    page.write_text("# Mine\n<!-- generated: one -->\nold\n<!-- end -->\nkept\n<!-- generated: two -->\n<!-- end -->\n")
    assert results.main([f"one={tmp_path}", "--page", str(page)]) == 0
    text = page.read_text()
    assert (
        "kd compare --model resnet18 --method plain,byot:preset=final,light=byot:--lr=0.01 --seeds 3 --data my.npz --lr 0.05 --no-aug -o a=1\n"
        in text
    )
    assert "6 runs, seeds 0, 1, 2; minutes a run: plain 1.0, byot 1.0; 6 in all. A CPU" in text
    assert "old" not in text and text.startswith("# Mine\n") and text.endswith("kept\n<!-- generated: two -->\n<!-- end -->\n")
    assert (tmp_path / "table.md").read_text() in text
    results.main([f"one={tmp_path}", "--page", str(page)])
    assert page.read_text() == text
    assert results.main([f"three={tmp_path}", "--page", str(page)]) == 2 and page.read_text() == text


def test_a_real_run(tmp_path):
    """The folders above have the shape of a real one."""
    small = {"epochs": 1, "img_size": 8, "labels_per_class": 4, "device": "cpu", "amp": "none", "test_every_epoch": True}
    trained = kdcore.train("test_resnet_32px", "digits", run=tmp_path / "run", **small)
    found = write_tables([Entry("mine", 0, trained.run.path)], tmp_path / "out", baseline="mine")
    own = trained.results["best"]["test"]
    assert found.find("mine", "best", "test", "ensemble", "fitted").seeds == {0: own["ensembles"]["fitted"]["top1"]}
    assert found.find("mine", "over_epochs", "test", "exit", "1").seeds == {0: own["exits"][0]["top1"]}
    assert found.rows[0].exits == trained.results["costs"] and found.costs["minutes"]["mine"]["0"] > 0
    fake = json.loads((make(tmp_path / "fake", (1.0, 2.0), over=(1.0, 2.0)) / "results.json").read_text())
    for key in ("best", "last", "over_epochs"):
        assert fake[key].keys() <= trained.results[key].keys() and fake[key]["exits" if key == "over_epochs" else "test"]
    assert fake["best"]["test"]["exits"][0].keys() <= own["exits"][0].keys()

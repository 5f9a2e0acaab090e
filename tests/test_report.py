"""The report of a run: every number follows from the run's files, the page holds everything, and a full disk loses nothing."""

import dataclasses
import json
import re
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from sklearn.datasets import load_digits

from kdcore.errors import DataError, FileError
from kdcore.report.check import check, page_differences, rebuild
from kdcore.report.details import reliability
from kdcore.report.facts import read_facts
from kdcore.report.figures import confusion, figures, png, style, svg
from kdcore.report.tables import confusion_of, document
from kdcore.report.write import write
from kdcore.runs import Run

SETTINGS = {"img_size": 16, "labels_per_class": 13, "amp": "none", "channels_last": False, "lr": 0.4}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of three epochs, of which the last is not the best, with its report. Not to be changed: `run` is a copy."""
    from kdcore import train

    path = tmp_path_factory.mktemp("runs") / "a run"
    train("test_resnet_32px", "digits", run=path, epochs=3, **SETTINGS)
    write(path)
    return path


@pytest.fixture
def run(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture(scope="module")
def page(finished):
    return (finished / "report.html").read_text()


def change(path, edit):
    path.write_text(edited := edit(path.read_text()))
    return edited


def edit_json(path, edit):
    value = json.loads(path.read_text())
    edit(value)
    path.write_text(json.dumps(value))


# -- the page ---------------------------------------------------------------------------------------------------------------


def test_the_page_has_every_section_and_loads_nothing(page):
    headings = re.findall("<h2>(.*?)</h2>", page)
    assert headings == [
        "Exits and ensembles",
        "Training",
        "Calibration",
        "Classes",
        "The surest mistakes",
        "Where the exits disagree",
        "Data",
        "Settings",
        "Again",
    ]
    assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', page) and "@import" not in page and "url(http" not in page
    assert page.count("<script") == 1 and 'type="application/json"' in page
    for word in ("ensemble, fitted on dev", "which chose nothing", "kd predict", "--run NEW", "test_resnet_32px", "labels_per_class"):
        assert word in page, word
    assert page.count('<img src="data:image/png;base64,') == 24


def test_every_picture_is_well_formed_and_no_id_stands_twice(page):
    pictures = re.findall("<svg.*?</svg>", page, re.DOTALL)
    assert len(pictures) == 5
    for picture in pictures:
        assert "currentColor" in picture and ET.fromstring(picture).attrib["role"] == "img"
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', page)) <= set(ids)


def test_the_same_run_has_the_same_report(run, page):
    """But for the commands, which name its folder."""
    write(run)
    again = (run / "report.html").read_text()
    assert re.sub("<pre>.*?</pre>", "", again, flags=re.DOTALL) == re.sub("<pre>.*?</pre>", "", page, flags=re.DOTALL)


def test_names_are_escaped(run):
    edit_json(run / "predictions.json", lambda value: value["about"]["splits"]["test"].update(names=['<b>&"x'] * 1000))
    write(run, images=False)
    page = (run / "report.html").read_text()
    assert '<b>&"x' not in page and "&lt;b&gt;&amp;&quot;x" in page and check(run) == []


def test_names_that_are_not_utf8_are_written_as_bytes(run):
    def rename(text):
        assert "\\udcff" not in text
        return text.replace('"7"', '"seven\\udcff"')

    for name in ("results.json", "model.json", "predictions.json"):
        change(run / name, rename)
    path = write(run, images=False).path
    assert (
        '<td class="text">seven\\udcff</td>' in path.read_text()
        and "seven" in re.search(r'<figure id="confusion">.*?</figure>', path.read_text(), re.S)[0]
    )
    assert check(run) == []


def test_matplotlib_is_left_as_it_was(finished):
    import matplotlib

    before = dict(matplotlib.rcParams)
    made = figures(document(read_facts(finished)))
    assert all(png(figure).startswith(b"\x89PNG") for figure in made.values())
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("classes", [2, 30, 200])
def test_confusion_of_few_and_many_classes(classes):
    names = [f"class $ {k} 漢" for k in range(classes)]
    matrix = [[50 if k == j else int((k * j) % 97 == 5) for j in range(classes)] for k in range(classes)]
    with style():
        picture = svg(confusion(confusion_of(matrix, names)), "c")
    assert len(picture) < 400_000 and picture.count("class $") == 2 * min(classes, 25)


def test_reliability_by_hand():
    """Two images at 0.95, one right; one at 0.5, right: the bin of (0.933, 1] has 50 %, that of (0.467, 0.533] 100 %."""
    bins = reliability(torch.tensor([0.95, 0.5, 0.95]), torch.tensor([True, True, False]))
    assert bins == [
        {"confidence": 50.0, "accuracy": 100.0, "images": 1},
        {"confidence": pytest.approx(95, abs=1e-3), "accuracy": 50.0, "images": 2},
    ]


def test_reliability_agrees_with_the_calibration_error(finished):
    for entry in document(read_facts(finished))["calibration"]:
        total = sum(one["images"] for one in entry["bins"])
        assert entry["ece"] == pytest.approx(
            sum(b["images"] * abs(b["accuracy"] - b["confidence"]) for b in entry["bins"]) / total, abs=1e-2
        )


def test_mistakes_and_disagreements_are_what_they_say(finished):
    numbers = document(read_facts(finished))
    exit = numbers["exit"]
    sure = [next(a for a in entry["answers"] if a["exit"] == exit) for entry in numbers["mistakes"]["images"]]
    assert all(not answer["right"] for answer in sure)
    assert [a["confidence"] for a in sure] == sorted((a["confidence"] for a in sure), reverse=True)
    different = [len({answer["class"] for answer in entry["answers"]}) for entry in numbers["disagreements"]["images"]]
    assert min(different) > 1 and different == sorted(different, reverse=True)
    for entry in numbers["mistakes"]["images"]:
        assert all(answer["right"] == (answer["class"] == entry["truth"]) for answer in entry["answers"])


# -- what is missing --------------------------------------------------------------------------------------------------------


def test_without_the_data_a_line_says_so_and_the_rest_stands(run):
    change(run / "config.toml", lambda text: text.replace('data = "digits"', 'data = "/gone/photos"'))
    written = write(run)
    page = (run / "report.html").read_text()
    assert "/gone/photos" in written.problem and "The images are not shown" in page and "<img" not in page and "image " in page


def test_other_data_never_stands_in_an_images_place(run):
    change(run / "config.toml", lambda text: text.replace("seed = 0", "seed = 7"))  # another dev split of the same size
    assert write(run).problem == "The images are not shown: digits has changed since: its dev images are others now"
    assert "<img" not in (run / "report.html").read_text()


def test_an_image_of_another_name_is_not_shown(run):
    edit_json(run / "predictions.json", lambda value: value["about"]["splits"]["test"].update(names=["other.jpg"] * 1000))
    assert "has changed since: other.jpg is image" in write(run).problem


def test_an_unfinished_run_has_its_curves(run):
    (run / "results.json").unlink()
    (run / "predictions.json").unlink()
    change(run / "metrics.jsonl", lambda text: text.splitlines()[0] + "\n")
    written = write(run)
    page = (run / "report.html").read_text()
    assert not written.finished and "unfinished: 1 of 3 epochs" in page and "--resume" in page
    assert re.findall("<h2>(.*?)</h2>", page) == ["Training", "Data", "Settings", "Again"] and check(run) == []
    (run / "metrics.jsonl").unlink()
    write(run)
    assert "Not one epoch is finished" in (run / "report.html").read_text()


def test_a_run_without_predictions_has_the_tables_of_its_results(run):
    (run / "predictions.json").unlink()
    write(run)
    page = (run / "report.html").read_text()
    assert "has no stored predictions" in page and "<h2>Calibration" not in page and "ensemble, fitted on dev" in page
    with pytest.raises(DataError, match="has no predictions"):
        check(run)


def test_without_a_dev_split_nothing_is_called_best(tmp_path):
    from kdcore import train

    train("test_resnet_32px", "digits", run=tmp_path / "r", epochs=1, dev_fraction=0.0, method="plain", **SETTINGS)
    write(tmp_path / "r")
    page = (tmp_path / "r" / "report.html").read_text()
    assert "There is no dev split to choose an exit on" in page and "All exits say the same" in page and check(tmp_path / "r") == []


def test_a_run_without_any_split_to_measure_on(tmp_path):
    from kdcore import train
    from kdcore.delivery import evaluate_run

    digits = load_digits()
    images = (digits.images[:100, :, :, None] * 15).astype("uint8")
    np.savez(tmp_path / "train.npz", train_images=images, train_labels=digits.target[:100, None])
    few = {"epochs": 1, "dev_fraction": 0.0, "method": "plain", "img_size": 16, "batch_size": 32}
    train("test_resnet_32px", str(tmp_path / "train.npz"), run=tmp_path / "r", **few)
    write(tmp_path / "r")
    page = (tmp_path / "r" / "report.html").read_text()
    assert "nothing was measured" in page and "made before kd wrote them" not in page
    assert check(tmp_path / "r") == []
    with pytest.raises(
        DataError, match=r"train\.npz has neither a dev nor a test split: name other images with the same classes by --data"
    ):
        evaluate_run(tmp_path / "r")


def test_a_full_disk_leaves_the_run_and_the_former_report(run, monkeypatch):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(FileError, match=r"cannot write .*report\.html: No space left on device"):
        write(run)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


# -- --check ----------------------------------------------------------------------------------------------------------------


def test_an_untouched_run_agrees(finished):
    assert read_facts(finished).results["best"]["epoch"] != 0 and check(finished) == []


TAMPERED = {
    "best.test.exits.0.top1": 99.0,
    "best.dev.exits.3.nll": 0.1,
    "last.test.exits.1.ece": 1.0,
    "best.test.exits.2.recall.7": 12.5,
    "best.test.exits.2.confusion.3.4": 1000,
    "best.test.ensembles.fitted.weights.0": 0.9,
    "last.dev.ensembles.mean_logits.top5": 1.0,
    "best.epoch": 17,
    "last.epoch": 17,
    "samples.dev": 3,
    "class_counts.test.4": 3,
    "minutes": 0.0,
    "costs.0.macs": 1,
}


def test_results_that_were_tampered_with_are_found(run):
    def edit(results):
        for where, value in TAMPERED.items():
            *path, last = [int(word) if (word.isdigit() and "recall" not in where) or word in "0123" else word for word in where.split(".")]
            place = results
            for word in path:
                place = place[word]
            place[last] = value

    edit_json(run / "results.json", edit)
    lines = check(run)
    for where, value in TAMPERED.items():
        cell = re.sub(r"\.(\d)", r"[\1]", where).replace("[7]", ".7")
        assert any(line.startswith(f"results.json: {cell} is {value}, and should be ") for line in lines), (cell, lines)


def test_with_a_frozen_backbone_the_best_epoch_is_that_of_the_other_exits(finished):
    facts = read_facts(finished)
    tops = [(10.0, 20.0), (40.0, 20.0), (30.0, 20.0)]  # of the shallow exits and of the last one, which stands still
    records = [
        {**record, "dev": {**record["dev"], **{f"exit{k}/top1": shallow for k in (1, 2, 3)}, "exit4/top1": last, "top1": last}}
        for record, (shallow, last) in zip(facts.records, tops, strict=True)
    ]
    facts = dataclasses.replace(facts, records=records, config={**facts.config, "freeze": True})
    assert rebuild(facts)["best"]["epoch"] == 2


def test_a_cell_that_was_taken_out_is_found(run):
    page = (run / "report.html").read_text()
    row = re.search(r'<tr[^>]*><td class="text">exit 4</td>(<td class="percent">[\d.]+</td>)', page)
    (run / "report.html").write_text(page[: row.start(1)] + page[row.end(1) :])
    (line,) = check(run)
    assert line == "report.html: the table 'exits', row 'exit 4' has 7 cells, and should have 8"


def test_predictions_that_were_tampered_with_are_found(run):
    file = run / "predictions.safetensors"
    with safe_open(file, framework="pt") as opened:
        tensors, metadata = {name: opened.get_tensor(name) for name in opened.keys()}, opened.metadata()
    tensors["test.logits"][0, 0, 0] += 1e-4
    save_file(tensors, file, metadata=metadata)
    (line,) = [line for line in check(run) if "predictions" in line]
    assert line.startswith("results.json: predictions.test.logits is ") and "should be" in line
    tensors["test.logits"][3, :500] *= -1
    save_file(tensors, file, metadata=metadata)
    lines = check(run)
    assert any("best.test.exits[3].top1 is" in line for line in lines) and any(
        line.startswith("report.html: the table 'exits'") for line in lines
    )


@pytest.mark.parametrize("with_report", [True, False])
def test_metrics_that_were_tampered_with_are_found(run, with_report):
    def edit(text):
        records = [json.loads(line) for line in text.splitlines()]
        for record in records:
            record["dev"]["exit1/top1"] += 1
        return "".join(json.dumps(record) + "\n" for record in records)

    change(run / "metrics.jsonl", edit)
    if not with_report:
        (run / "report.html").unlink()
    lines = check(run)
    assert any(re.match(r"metrics\.jsonl, epoch \d: exit1/top1 is", line) for line in lines)
    assert any(line.startswith("report.html: curves.dev.exit1[0] is") for line in lines) == with_report


def test_a_training_loss_that_was_tampered_with_is_found_by_the_report(run):
    change(run / "metrics.jsonl", lambda text: re.sub(r'"loss": [\d.]+', '"loss": 0.5', text, count=1))
    (line,) = check(run)
    assert line.startswith("report.html: curves.train.loss[0] is") and line.endswith("should be 0.5")


def test_numbers_of_the_page_that_were_tampered_with_are_found(run):
    page = (run / "report.html").read_text()
    row = re.search(r'<tr[^>]*><td class="text">exit 4</td><td class="percent">([\d.]+)', page)
    (run / "report.html").write_text(page[: row.start(1)] + "99.9" + page[row.end(1) :])
    (line,) = check(run)
    assert line == f"report.html: the table 'exits', row 'exit 4', column 'dev top-1' shows 99.9, and should show {row[1]}"
    (run / "report.html").write_text(page.replace('"macs":', '"macs":1', 1))
    (line,) = check(run)
    assert line.startswith("report.html: costs.dev.exits[0].macs is 1")
    (run / "report.html").write_text("<html>")
    with pytest.raises(DataError, match="no report of kd, or damaged"):
        check(run)


@pytest.mark.parametrize(
    ("pattern", "instead"),
    [
        (r"% of the 1,000 test images", "% of the 2,000 test images"),
        (r"right on [\d.]+ %", "right on 81.5 %"),
        (r"3 epochs in", "2 epochs in"),
        (r"on \d+ images of 10 classes", "on 999 images of 10 classes"),
        (r"\d+ test images are wrong", "1 test images are wrong"),
        (r"exit \d: (\w+) \d+ %", r"exit 1: \1 101 %"),
        (r"numbers are images, colours percent of the row", "99 of 100 are right"),
        (r"Delivered: best on dev \(epoch \d\)", "Delivered: best on dev (epoch 9)"),
        (r"</h1>", "</h1><p>It is 99 % right.</p>"),
        (r"<p>The best exit on dev.*?</p>", ""),
    ],
)
def test_sentences_that_were_tampered_with_are_found(finished, page, pattern, instead):
    changed = re.sub(pattern, instead, page, count=1)
    assert changed != page
    (line,) = page_differences("report.html", changed, read_facts(finished))
    assert line.startswith(("report.html: it says '", "report.html: it lacks 'The best exit"))


def test_a_sentence_says_where_it_parts(run):
    page = (run / "report.html").read_text()
    (run / "report.html").write_text(page.replace("the 1,000 test images", "the 2,000 test images"))
    assert check(run) == [
        "report.html: it says '"
        + (said := re.search(r"\S+ % of the ", page[page.index(" dev images and ") :])[0])
        + "2,000 test images, which chose', and should say '"
        + said
        + "1,000 test images, which chose'"
    ]


def test_the_report_of_an_unfinished_run_is_one_line(run, finished):
    for name in ("results.json", "predictions.json"):
        (run / name).unlink()
    write(run)
    assert check(run) == []
    for name in ("results.json", "predictions.json"):
        shutil.copy(finished / name, run)
    assert check(run) == ["report.html: the report is of an unfinished run: write it again with kd report"]


@pytest.mark.parametrize(
    "edit", [lambda r: r.update(best=3), lambda r: r["best"]["dev"].clear(), lambda r: r.update(checkpoints={"last": "x"})]
)
def test_a_file_that_kd_does_not_write_is_one_line(run, edit):
    edit_json(run / "results.json", edit)
    with pytest.raises(FileError, match="is not what kd writes"):
        write(run, images=False)
        check(run)


def test_a_run_with_a_loose_file_may_be_moved(run, tmp_path):
    (run / "plugins").mkdir()
    (run / "plugins" / "mine.py").write_text("# nothing")
    change(run / "config.toml", lambda text: text.replace("plugin = []", 'plugin = ["plugins/mine.py"]'))
    write(run)
    assert '<td class="text long">plugins/mine.py</td>' in (run / "report.html").read_text()
    assert check(run.rename(tmp_path / "moved")) == []


def test_a_report_elsewhere_and_one_that_is_not_there(run, tmp_path):
    write(run, tmp_path / "there" / "r.html", images=False)
    assert check(run, tmp_path / "there" / "r.html") == []
    assert write(run, tmp_path / "there", images=False).path == tmp_path / "there" / "report.html"
    assert check(run, tmp_path / "there") == []
    with pytest.raises(FileError, match=r"cannot read .*gone\.html"):
        check(run, tmp_path / "gone.html")
    with pytest.raises(FileError, match="there is no run folder"):
        write(tmp_path / "none")
    Run.create(tmp_path / "empty", stem="x")
    with pytest.raises(FileError, match="not a run folder"):
        write(tmp_path / "empty")

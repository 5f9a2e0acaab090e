"""The studies on small runs: BYOT, deep supervision and plain training of one seed."""

import pytest
import torch

import kdcore
from kdcore import KdError
from kdcore.errors import DataError
from kdcore.evaluation import collect
from kdcore.plugins import Plugins
from kdcore.runs import Run
from kdcore_byot.studies.reading import opened

STUDIES = {"noise", "gradients", "separability", "cost", "shallow-gain", "ensemble", "gradcam"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for method in ("byot", "deep-supervision", "plain"):
        exits = {"exits": "byot.bottleneck"} if method == "deep-supervision" else {}
        kdcore.train(
            "test_resnet_32px", data="digits", method=method, **exits, img_size=16, train_limit=100, epochs=2, device="cpu", lr_base=0.2,
            run=folder / method,
        )  # fmt: skip
    return folder


def test_they_are_found_by_their_names():
    assert set(Plugins().parts_of("byot", "analyses")) == {f"byot.{name}" for name in STUDIES}


def test_noise(runs):
    done = kdcore.analyze("byot.noise", [runs / "byot", runs / "plain"], {"sigmas": [0.2], "draws": 2, "limit": None})
    rows = {(row["run"], row["sigma"]): row for row in done.analysis.tables["noise"]}
    assert set(rows) == {(name, sigma) for name in ("byot", "plain") for sigma in (0.0, 0.2)}
    found = opened(Run(runs / "byot"))
    batches, numbers = found.some("train", None)
    answered = collect(found.network, batches.epoch(0), num_classes=10)
    untouched = 100 * (answered.logits[-1].argmax(dim=-1) == answered.labels).double().mean().item()
    assert len(numbers) == 100 and rows["byot", 0.0]["accuracy"] == pytest.approx(untouched, abs=1e-9) and rows["byot", 0.0]["draws"] == 1
    assert rows["byot", 0.2]["draws"] == 2 and rows["byot", 0.2]["accuracy"] != untouched
    assert {"noise.csv", "noise.png", "noise.svg", "summary.csv"} <= set(done.files) and "running statistics" in done.analysis.text


def test_gradients_of_one_loss_are_the_same_whatever_else_is_trained(runs):
    """Both runs begin with one backbone and see the same batches: there the deepest exit's cross entropy is plain training's loss."""
    done = kdcore.analyze("byot.gradients", [runs / "byot", runs / "plain"], {"batches": 2, "weights": "initial"})
    rows = done.analysis.tables["gradients"]
    byot, without, alone, plain = list(rows[0])[1:]
    assert (byot, without, alone, plain) == (
        "byot: whole loss", "byot: without soft targets", "byot: deepest exit's cross entropy", "plain: whole loss",
    )  # fmt: skip
    for row in rows:
        assert row[alone] == pytest.approx(row[plain], rel=1e-3)  # 0 within a block that begins as the identity
    assert rows[0][byot] != pytest.approx(rows[0][without], rel=1e-4) and rows[0][without] != pytest.approx(rows[0][alone], rel=1e-2)


def test_gradients_behind_the_last_shallow_exit_are_the_deepest_exits_alone(runs):
    done = kdcore.analyze("byot.gradients", runs / "byot", {"batches": 1})
    for row in done.analysis.tables["gradients"]:
        whole, _, alone = list(row.values())[1:]
        assert (whole == pytest.approx(alone, rel=1e-4)) == row["layer"].startswith("layer4"), row["layer"]
    assert done.analysis.tables["summary"][0]["first over last"] > 0 and "gradients.png" in done.files


def test_separability(runs):
    done = kdcore.analyze("byot.separability", [runs / "byot", runs / "plain"], {"limit": 200})
    rows = done.analysis.tables["separability"]
    assert [(row["run"], row["exit"]) for row in rows] == [("byot", 1), ("byot", 2), ("byot", 3), ("byot", 4), ("plain", 1)]
    for row in rows:
        assert row["SSE / SSB"] == pytest.approx(row["SSE"] / row["SSB"]) and 0 < row["variance in the plane, %"] <= 100
    assert "separability.png" in done.files
    again = kdcore.analyze("byot.separability", runs / "byot", {"limit": 200}, out=runs / "again")
    assert again.analysis.tables["separability"] == rows[:4]


def test_cost(runs):
    done = kdcore.analyze("byot.cost", [runs / "byot", runs / "plain"])
    first = done.analysis.tables["cost"][0]
    results = Run(runs / "byot").results()
    assert first["minutes"] == first["own, minutes"] == results["minutes"] and first["teacher, minutes"] is None
    assert first["test"] == results["best"]["test"]["exits"][-1]["top1"] and "cost.png" in done.files


def test_shallow_gain(runs):
    done = kdcore.analyze("byot.shallow-gain", [runs / "byot", runs / "deep-supervision"])
    one, other = (Run(runs / name).results()["best"]["test"]["exits"] for name in ("byot", "deep-supervision"))
    rows = done.analysis.tables["shallow-gain"]
    assert [row["gain"] for row in rows] == [pytest.approx(a["top1"] - b["top1"]) for a, b in zip(one, other, strict=True)]
    assert done.analysis.tables["trend"][0]["p"] is None and "shallow-gain.png" in done.files
    with pytest.raises(KdError, match="none of the runs is of 'deep-supervision'"):
        kdcore.analyze("byot.shallow-gain", [runs / "byot", runs / "plain"])
    with pytest.raises(KdError, match="all 1 runs are of 'deep-supervision'"):
        kdcore.analyze("byot.shallow-gain", runs / "deep-supervision")


def test_ensemble(runs):
    done = kdcore.analyze("byot.ensemble", runs / "byot")
    report = Run(runs / "byot").results()["best"]["test"]
    rows = {row["who"]: row for row in done.analysis.tables["ensemble"]}
    assert rows["exit 2"]["top-1"] == report["exits"][1]["top1"] and rows["exit 4"]["over the deepest"] == 0
    assert rows["ensemble, fitted"]["top-1"] == report["ensembles"]["fitted"]["top1"]
    assert len(done.analysis.tables["disagreement"]) == 6 and "ensemble.png" in done.files
    with pytest.raises(DataError, match="has one exit"):
        kdcore.analyze("byot.ensemble", runs / "plain")


def test_gradcam(runs):
    done = kdcore.analyze("byot.gradcam", runs / "byot", {"images": [7, 3]})
    rows = done.analysis.tables["gradcam"]
    assert [(row["image"], row["exit"]) for row in rows] == [(7, 1), (7, 2), (7, 3), (7, 4), (3, 1), (3, 2), (3, 3), (3, 4)]
    found = opened(Run(runs / "byot"))
    batches, _ = found.batches("test", torch.tensor([7, 3]))
    answered = collect(found.network, batches.epoch(0), num_classes=10)
    assert [int(row["answer"]) for row in rows] == answered.logits.argmax(dim=-1).T.flatten().tolist()
    assert all(row["correlation with the deepest"] in (None, pytest.approx(1)) for row in rows if row["exit"] == 4)
    assert "gradcam.png" in done.files
    with pytest.raises(KdError, match="test has the images 0 to"):
        kdcore.analyze("byot.gradcam", runs / "byot", {"images": [99999]})


def test_they_land_in_the_report(runs):
    from kdcore.report.check import check
    from kdcore.report.write import write

    kdcore.analyze("byot.ensemble", runs / "byot")
    page = write(runs / "byot", images=False).path.read_text()
    assert "<h3>byot.ensemble</h3>" in page and 'alt="byot.ensemble: ensemble"' in page and "Files: analyses/byot.ensemble" in page
    assert check(runs / "byot") == []

"""The predictions that a run keeps: they are those of its delivered checkpoint, whole or not there."""

import dataclasses

import pytest
import torch

from kdcore.comparing import best_exit
from kdcore.data import load_data
from kdcore.errors import FileError
from kdcore.evaluation import Predictions, report
from kdcore.predictions import read_predictions, relative, write_predictions
from kdcore.runs import Run

DIGITS = load_data("digits")


@pytest.fixture
def run(tmp_path):
    return Run.create(tmp_path / "run", stem="x")


def some(seed=0, split=DIGITS.dev):
    logits = torch.randn(2, len(split), 10, generator=torch.Generator().manual_seed(seed))
    return Predictions(logits, split.labels, [1, 3], torch.arange(len(split)))


def test_what_is_read_is_what_was_written(run):
    found = {"delivered": {"dev": some(0), "test": some(1, DIGITS.test)}, "last": {"dev": some(2), "test": some(3, DIGITS.test)}}
    digests = write_predictions(run, found, DIGITS, "digits")
    stored = read_predictions(run)
    assert stored is not None and stored.class_names == DIGITS.class_names and stored.digests == digests
    for which, got in (("delivered", stored.delivered), ("last", stored.last)):
        for split, predictions in found[which].items():
            assert torch.equal(got[split].logits, predictions.logits) and got[split].logits.dtype == torch.float32
            assert torch.equal(got[split].labels, predictions.labels) and got[split].exits == [1, 3]
            assert report(got[split], DIGITS.class_names) == report(predictions, DIGITS.class_names)
    assert stored.names["dev"] == [DIGITS.dev.name_of(k) for k in range(len(DIGITS.dev))]


def test_the_last_epoch_is_stored_once_where_it_is_the_delivered_one(run):
    digests = write_predictions(run, {"delivered": {"dev": some()}}, DIGITS, "digits")
    stored = read_predictions(run)
    assert set(digests) == {"dev.logits", "dev.labels", "dev.numbers"}
    assert torch.equal(stored.last["dev"].logits, stored.delivered["dev"].logits)


def test_none_before_the_end_and_none_of_a_run_without_splits(run):
    assert read_predictions(run) is None
    assert write_predictions(run, {"delivered": {}}, DIGITS, "digits") == {}
    stored = read_predictions(run)  # there, so that nobody takes it for a run of an older version
    assert stored.delivered == {} and stored.class_names == DIGITS.class_names


def test_damage_is_one_line(run):
    write_predictions(run, {"delivered": {"dev": some()}}, DIGITS, "digits")
    file = run.path / "predictions.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(FileError, match=r"predictions is damaged: predictions\.safetensors is missing, cut off"):
        read_predictions(run)


def test_a_full_disk_leaves_the_former_predictions(run, monkeypatch):
    write_predictions(run, {"delivered": {"dev": some(0)}}, DIGITS, "digits")

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(FileError, match="No space left on device"):
            write_predictions(run, {"delivered": {"dev": some(1)}}, DIGITS, "digits")
    assert torch.equal(read_predictions(run).delivered["dev"].logits, some(0).logits)


def test_paths_are_relative_to_the_data_where_they_lie_in_it(tmp_path):
    assert relative(str(tmp_path / "test" / "cat" / "1.jpg"), str(tmp_path)) == "test/cat/1.jpg"
    assert relative("/elsewhere/1.jpg", str(tmp_path)) == "/elsewhere/1.jpg"
    assert relative("image 3", "digits") == "image 3"


def test_the_best_exit_is_chosen_on_dev_and_of_equals_the_cheapest():
    def split(*tops):
        return {"exits": [{"exit": k, "top1": top} for k, top in enumerate(tops, start=1)], "ensembles": {}}

    assert best_exit({"best": {"dev": split(50, 80, 70), "test": split(99, 1, 1)}}) == 2
    assert best_exit({"best": {"dev": split(80, 70, 80)}}) == 1
    costs = [{"exit": 1, "macs": 9}, {"exit": 2, "macs": 1}, {"exit": 3, "macs": 5}]
    assert best_exit({"best": {"dev": split(80, 70, 80)}, "costs": costs}) == 3
    assert best_exit({"best": {"test": split(99, 1, 1)}}) == 3
    assert best_exit({"best": {}}) == -1


def test_a_trained_run_keeps_those_of_its_checkpoints(tmp_path):
    from kdcore import train

    trained = train(
        "test_resnet_32px",
        "digits",
        run=tmp_path / "r",
        epochs=2,
        img_size=16,
        labels_per_class=13,
        amp="none",
        channels_last=False,
        lr=0.4,
    )
    stored, results = read_predictions(trained.run), trained.results
    names = stored.class_names
    for which, found in (("best", stored.delivered), ("last", stored.last)):
        for split, predictions in found.items():
            assert report(predictions, names, dev=found["dev"]) == results[which][split]
    assert results["bad_images"] == 0 and results["class_counts"]["train"] == [13] * 10
    assert [dataclasses.asdict(p)["exits"] for p in stored.delivered.values()] == [[1, 2, 3, 4]] * 2

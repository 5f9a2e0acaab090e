"""A run knows its data again: what changed in between is said before anything is trained or measured on it."""

import json
import os
import shutil
import time

import numpy as np
import pytest
import torch
from PIL import Image

import kdcore
from kdcore import run_data
from kdcore.config import read_config
from kdcore.data import Data
from kdcore.data.splits import Split
from kdcore.data.stores import Encoded
from kdcore.errors import DataError, FileError
from kdcore.runs import Run
from kdcore.starting import make_ready
from kdcore.training import Watch, evaluate

SMALL = {"epochs": 2, "img_size": 32, "batch_size": 8, "amp": "none", "channels_last": False, "device": "cpu", "dev_fraction": 0.25}


class Stop(Watch):
    def epoch(self, record):
        raise KeyboardInterrupt


def photos(folder):
    """Two classes of 12 images, and four of each for the test."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 4)):
        for name in ("cat", "dog"):
            (folder / split / name).mkdir(parents=True)
            for k in range(count):
                Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / split / name / f"{k:02d}.png")
    return folder


def begin(run, data, **settings):
    with pytest.raises(KeyboardInterrupt):
        kdcore.train("test_resnet_32px", str(data), run=run, watch=Stop(), **{**SMALL, **settings})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run that was stopped after its first epoch, one that is finished, and their data."""
    place = tmp_path_factory.mktemp("made")
    data = photos(place / "photos")
    begin(place / "half", data)
    shutil.copytree(place / "half", place / "whole")
    kdcore.train(run=place / "whole", resume=True)
    return place


@pytest.fixture
def here(made, tmp_path):
    """The same in a place where the data may be changed: the runs name it there."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    for run in ("half", "whole"):
        config = tmp_path / run / "config.toml"
        config.write_text(config.read_text().replace(str(made.resolve()), str(tmp_path.resolve())))
    return tmp_path


def resume(here):
    return kdcore.train(run=here / "half", resume=True)


def test_unchanged_data_passes_wherever_it_lies(here, made):
    assert resume(here).results["best"] == json.loads((made / "whole" / "results.json").read_text())["best"]
    assert evaluate(here / "whole")["test"] == json.loads((made / "whole" / "results.json").read_text())["best"]["test"]


def delete(photos):
    for k in range(4):
        (photos / "train" / "cat" / f"{k:02d}.png").unlink()


def add(photos):
    shutil.copy(photos / "test" / "cat" / "00.png", photos / "train" / "cat" / "zz.png")


def move(photos):
    (photos / "train" / "cat" / "00.png").rename(photos / "train" / "dog" / "zz.png")
    (photos / "train" / "dog" / "00.png").rename(photos / "train" / "cat" / "zz.png")


def rename_class(photos):
    for split in ("train", "test"):
        (photos / split / "cat").rename(photos / split / "crow")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (delete, "began: train has 15 images and had 18, dev has 5 images and had 6; put"),
        (add, "began: train has 19 images and had 18"),
        (move, "began: train has other images"),
        (rename_class, "began: class 0 is 'crow' and was 'cat', train has other images"),
    ],
)
def test_changed_data_is_said(here, change, said):
    before = (here / "half" / "metrics.jsonl").read_bytes()
    change(here / "photos")
    with pytest.raises(DataError) as error:
        resume(here)
    assert said in str(error.value) and str(error.value).startswith(f"{here.resolve() / 'photos'} has changed since {here / 'half'} began")
    assert str(error.value).endswith(f"put it back, or begin a new run: kd train --config {here / 'half'}/config.toml --run NEW")
    assert (here / "half" / "metrics.jsonl").read_bytes() == before
    with pytest.raises(DataError, match=r"put it back, or name other images with the same classes by --data$") as error:
        evaluate(here / "whole")
    assert said in str(error.value)


def test_the_plan_of_a_resumed_run_says_it_too(here):
    delete(here / "photos")
    run = Run.open(here / "half")
    with pytest.raises(DataError, match="train has 15 images and had 18"):
        make_ready(read_config(run.config()), run=run)


def test_data_that_is_gone(here):
    (here / "photos").rename(here / "elsewhere")
    with pytest.raises(DataError, match=r"half was at .*/photos and is gone: put it back, or begin a new run"):
        resume(here)
    with pytest.raises(DataError, match=r"whole was at .*/photos and is gone: put it back, or name other images"):
        evaluate(here / "whole")
    assert evaluate(here / "whole", str(here / "elsewhere"))["test"]


def test_other_data_is_not_compared(here, tmp_path):
    other = shutil.copytree(here / "photos", tmp_path / "other")
    move(other)
    delete(here / "photos")
    assert evaluate(here / "whole", str(other))["test"]


def test_a_run_without_an_epoch_takes_the_data_as_it_is(here):
    class AtOnce(Watch):
        def phase(self, *_):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kdcore.train("test_resnet_32px", str(here / "photos"), run=here / "none", watch=AtOnce(), **SMALL)
    delete(here / "photos")
    with pytest.raises(KeyboardInterrupt):
        kdcore.train(run=here / "none", resume=True, watch=Stop())
    assert json.loads((here / "none" / "data.json").read_text())["splits"]["train"]["count"] == 15


@pytest.mark.parametrize("text", ["{", "[]", '{"class_names": 3, "splits": {}}', '{"class_names": [], "splits": [1]}'])
def test_a_damaged_record_is_one_line(here, text):
    (here / "half" / "data.json").write_text(text)
    with pytest.raises(FileError, match=r"data\.json is (damaged|not what kd writes)"):
        resume(here)


@pytest.fixture
def again(tmp_path):
    """Writes down a set as a new run does; what it gives reads it again."""

    def begun(data, **settings):
        config = read_config({"model": "test_resnet_32px", "data": str(data), **settings})
        run = Run.create(tmp_path / "run", stem="x")
        run_data.write_down_data(run, run_data.load_config_data(config), config)
        return lambda: run_data.load_own_data(run, config)

    return begun


def test_a_run_that_is_older_than_the_check_is_not_checked(tmp_path, again):
    data = photos(tmp_path / "photos")
    read = again(data)
    add(data)
    with pytest.raises(DataError, match="train has 23 images and had 22"):
        read()
    (tmp_path / "run" / "data.json").unlink()
    assert len(read().train) == 23


def test_test_images_may_change_until_they_are_used(tmp_path, again):
    data = photos(tmp_path / "photos")
    read = again(data)
    (data / "test" / "cat" / "00.png").unlink()
    assert read().notes[-1] == "since this run began, its test images have changed (test has 7 images and had 8): it has not used any"
    Run(tmp_path / "run").write_results({})
    with pytest.raises(DataError, match="began: test has 7 images and had 8; put it back"):
        read()


def test_skipped_images_are_no_change_and_one_more_is(tmp_path, again):
    data = photos(tmp_path / "photos")
    (data / "train" / "cat" / "03.png").write_bytes(b"no image")
    read = again(data, skip_bad_images=True)
    assert len(read().bad) == 1
    (data / "train" / "dog" / "00.png").write_bytes(b"no image either")
    with pytest.raises(DataError, match="train has 20 images and had 21"):
        read()


def write_npz(path, pixel=0, label=0):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (24, 32, 32), dtype=np.uint8), np.arange(24) % 2
    images[3, 0, 0], labels[4] = pixel, label
    np.savez(path, train_images=images, train_labels=labels, val_images=images, val_labels=np.arange(24) % 2)


@pytest.mark.parametrize(("change", "said"), [({"pixel": 1}, "images"), ({"label": 1}, "labels")])
def test_arrays_are_known_by_their_pixels(tmp_path, again, change, said):
    write_npz(tmp_path / "set.npz")
    read = again(tmp_path / "set.npz")
    write_npz(tmp_path / "set.npz", **change)
    with pytest.raises(DataError, match=f"train has other {said}"):
        read()
    write_npz(tmp_path / "set.npz")
    read()


def test_a_table_whose_labels_changed(tmp_path, again):
    photos(tmp_path / "photos")
    lines = [f"photos/train/{name}/{k:02d}.png,{name}" for name in ("cat", "dog") for k in range(12)]
    table = tmp_path / "table.csv"
    table.write_text("path,label\n" + "\n".join(lines) + "\n")
    read = again(table, dev_fraction=0)
    read()
    table.write_text("path,label\n" + "\n".join(lines).replace("dog/05.png,dog", "dog/05.png,cat") + "\n")
    with pytest.raises(DataError, match="train has other"):
        read()


def test_pictures_in_a_store_are_known_by_their_names_or_numbers():
    class Nameless(list):
        pass

    def described(items, chosen):
        split = Split(torch.arange(4) % 2, items=items).take(torch.tensor(chosen))
        return run_data.describe(Data("x", ["a", "b"], 3, None, train=split), config)["splits"]["train"]["samples"]

    config = read_config({"model": "resnet18", "data": "digits"})
    one, other = (Encoded([b"", b"", b"", b""], ["a", "b", name, "d"]) for name in ("c", "x"))
    assert described(one, [0, 2]) == described(Encoded([b""] * 4, list("abcd")), [0, 2]) != described(other, [0, 2])
    assert described(one, [0, 1]) == described(other, [0, 1]) != described(one, [1, 0])
    assert described(Nameless("abcd"), [0, 1]) == described(Nameless("abcd"), [0, 1]) != described(Nameless("abcd"), [0, 3])


def test_moved_with_all_that_it_names_it_is_the_same(made, tmp_path):
    config = read_config({"model": "test_resnet_32px", "data": str(made / "photos"), "dev_fraction": 0.25})
    moved = shutil.copytree(made / "photos", tmp_path / "photos")
    there = config.model_copy(update={"data": str(moved)})
    assert run_data.describe(run_data.load_config_data(config), config) == run_data.describe(run_data.load_config_data(there), there)


def test_it_costs_next_to_nothing():
    paths = [os.path.join(os.sep, "photos", "train", f"class-{k % 100}", f"{k:06d}.jpg") for k in range(100_000)]
    data = Data("x", ["a", "b"], 3, None, train=Split(torch.arange(100_000) % 2, paths=paths))
    begin = time.process_time()
    run_data.describe(data, read_config({"model": "resnet18", "data": "/photos"}))
    assert time.process_time() - begin < 1

"""Images that stay decoded in memory: the same pixels as from the loader, opened once, and only where they fit."""

import gc
import json
import multiprocessing

import numpy as np
import pytest
import torch
from PIL import Image

import kdcore
from kdcore import KdError, timing
from kdcore.config import read_config
from kdcore.data import Augmentation, Batches, Preprocessing, Split, load_data, resident
from kdcore.data.photos import PhotoLoader
from kdcore.data.resident import Resident, gigabytes, is_resident
from kdcore.errors import DataError
from kdcore.precision import Precision
from kdcore.preparing import prepare

pytestmark = pytest.mark.filterwarnings("error", r"ignore:.*fork\(\):DeprecationWarning")

TOGETHER = Augmentation(crop_pad=2, hflip=0.5, vflip=0.5, rotation=40, cutout=5, reprob=0.5)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    rng, root = np.random.default_rng(0), tmp_path_factory.mktemp("photos")
    for split, count in (("train", 10), ("val", 3), ("test", 2)):
        for name in ("a", "b"):
            (root / split / name).mkdir(parents=True)
            for k in range(count):
                Image.fromarray(rng.integers(0, 256, (20 + k, 24, 3), dtype=np.uint8)).save(root / split / name / f"{k}.png")
    return root


@pytest.fixture
def opened(monkeypatch):
    """The numbers of the pictures that this process opens."""
    numbers: list[int] = []
    real = Split.open
    monkeypatch.setattr(Split, "open", lambda self, number: numbers.append(number) or real(self, number))
    return numbers


def pre(channels: int = 3, size: tuple[int, int] = (16, 12)) -> Preprocessing:
    return Preprocessing(size, (0.4,) * channels, (0.3,) * channels, "bicubic", 0.9, channels)


def by_number(batches: Batches, epoch: int = 0) -> dict[int, torch.Tensor]:
    return {int(n): image for images, _, index in batches.epoch(epoch) for n, image in zip(index, images, strict=True)}


def same(one: dict[int, torch.Tensor], other: dict[int, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def settings(tree, **more):
    asked = {"model": "test_resnet_32px", "data": str(tree), "img_size": 16, "scale": [0.0], "batch_size": 8, "epochs": 1}
    return {**asked, "amp": "none", "channels_last": False, "device": "cpu", "workers": 0, **more}


# -- the same pixels ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("augmentation", [TOGETHER, Augmentation(rotation=20), None])
def test_memory_and_the_loader_give_the_same_pixels(tree, channels, augmentation, monkeypatch):
    monkeypatch.setattr(resident, "_DECODED_AT_ONCE", 4)  # so that the workers take part
    split = load_data(str(tree)).train

    def make(budget, batch_size=6, **options):
        return Batches(split, pre(channels), batch_size=batch_size, augmentation=augmentation, resident_gb=budget, **options)

    kept, read = make(2.0, workers=1), make(0.0)
    assert isinstance(kept._source, Resident) and isinstance(read._source, PhotoLoader)
    for epoch in (1, 4):
        assert same(by_number(kept, epoch), by_number(read, epoch))
    assert same(by_number(make(2.0, 5, shuffle=True)), by_number(make(0.0, 7, workers=1)))
    assert same(by_number(kept), by_number(make(0.0, rank=0, world=2)) | by_number(make(2.0, rank=1, world=2)))


def test_arrays_that_a_worker_augments_are_cut_out_as_all_others():
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (12, 3, 16, 12), dtype=torch.uint8, generator=generator)
    split = Split(torch.zeros(12, dtype=torch.int64), images=images)
    plain, one_by_one = (
        by_number(Batches(split, pre(), batch_size=5, augmentation=Augmentation(crop_pad=2, cutout=6, rotation=9, auto_augment=policy)))
        for policy in (None, "rand-m9-p0")
    )
    assert same(plain, one_by_one)


def test_a_whole_run_is_the_same(tree, tmp_path):
    asked = settings(tree, method="plain", rotation=15.0, cutout=6, crop_pad=2)
    runs = [kdcore.train(run=tmp_path / f"run-{budget:g}", **{**asked, "resident_gb": budget}) for budget in (2.0, 0.0)]
    first, second = ({**json.loads((run.run.path / "results.json").read_text())} for run in runs)
    for name in ("last", "best", "samples"):
        assert first[name] == second[name]
    assert any(note == "images decoded once: 20 train, 6 dev, 4 test (23.0 kB)" for note in first["notes"])
    one, other = ((run.run.path / "student.safetensors").read_bytes() for run in runs)
    assert one == other
    assert runs[0].run.config()["cutout"] == 6


# -- once, and only where they fit ----------------------------------------------------------------------------------------------


def test_a_photo_is_opened_once_for_all_epochs_and_phases(tree, opened):
    split = load_data(str(tree)).train
    for batches in (Batches(split, pre(), batch_size=8), Batches(split, pre(), batch_size=4, augmentation=TOGETHER, shuffle=True)):
        for epoch in range(2):
            assert len(by_number(batches, epoch)) == 20
    assert sorted(opened) == list(range(20))
    by_number(Batches(split, pre(size=(8, 8)), batch_size=8))  # another size is another decoding
    assert len(opened) == 40
    by_number(Batches(split, pre(), batch_size=8, resident_gb=0))
    assert len(opened) == 60


def test_nothing_is_opened_before_the_first_epoch(tree, opened):
    batches = Batches(load_data(str(tree)).train, pre(), batch_size=8)
    assert len(batches) == 3 and batches.order(0).tolist() == list(range(20)) and opened == []
    batches.ready()
    assert len(opened) == 20 and len(by_number(batches)) == 20 == len(opened)
    Batches(load_data(str(tree)).train, pre(), batch_size=8, resident_gb=0).ready()  # files are opened epoch by epoch
    assert len(opened) == 20


def test_the_budget_is_of_decoded_images_at_the_models_size(tree):
    data = load_data(str(tree))
    assert gigabytes(data.train, pre()) == 20 * 3 * 16 * 12 / 1e9 and gigabytes(data.train, pre(1)) == 20 * 16 * 12 / 1e9
    need = gigabytes(data.train, pre())
    assert is_resident(data.train, pre(), TOGETHER, need) and not is_resident(data.train, pre(), TOGETHER, need * 0.99)
    for one_by_one in ({"scale": (0.5, 1.0)}, {"color_jitter": 0.4}, {"auto_augment": "augmix-m3-w3"}):
        assert not is_resident(data.train, pre(), Augmentation(**one_by_one), 9.0)
    arrays = Split(torch.zeros(4), images=torch.zeros(4, 3, 8, 8, dtype=torch.uint8))
    assert is_resident(arrays, pre(), None, 0.0) and not is_resident(arrays, pre(), Augmentation(scale=(0.1, 1)), 9.0)


def test_arrays_that_do_not_fit_the_device_stay_with_the_host():
    split = Split(torch.zeros(9, dtype=torch.int64), images=torch.zeros(9, 3, 16, 12, dtype=torch.uint8))
    homes = []
    for budget in (2.0, 0.0):
        batches = Batches(split, pre(), batch_size=4, augmentation=TOGETHER, device="meta", resident_gb=budget)
        assert [(tuple(images.shape), images.device.type, index.device.type) for images, _, index in batches.epoch(0)] == [
            ((size, 3, 16, 12), "meta", "meta") for size in (4, 4, 1)
        ]
        homes.append(batches._source.images().device.type)
    assert homes == ["meta", "cpu"]


def test_workers_end_when_all_is_decoded_and_images_are_freed_with_their_split(tree, monkeypatch):
    monkeypatch.setattr(resident, "_DECODED_AT_ONCE", 4)
    gc.collect()
    before, children = len(resident._kept), set(multiprocessing.active_children())
    split = load_data(str(tree)).train
    batches = Batches(split, pre(), batch_size=8, workers=2)
    assert len(by_number(batches)) == 20 and set(multiprocessing.active_children()) <= children
    assert len(resident._kept) == before + 1
    del batches, split
    gc.collect()
    assert len(resident._kept) == before


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_photo_is_named_before_the_first_batch(tmp_path, workers, monkeypatch):
    monkeypatch.setattr(resident, "_DECODED_AT_ONCE", 2)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for k in range(3):
            Image.new("RGB", (20, 20), (k, 9, 9)).save(tmp_path / name / f"{k}.png")
    split = load_data(str(tmp_path), dev_fraction=0).train
    (tmp_path / "b" / "2.png").write_bytes(b"no image")
    batches = Batches(split, pre(), batch_size=1, workers=workers)
    with pytest.raises(DataError, match=r"b.2\.png: ") as raised:
        next(batches.epoch(0))
    assert "\n" not in str(raised.value)
    Image.new("RGB", (20, 20)).save(tmp_path / "b" / "2.png")
    assert len(by_number(batches)) == 6  # what failed is not kept


# -- what a run says ------------------------------------------------------------------------------------------------------------


def test_a_run_says_what_it_keeps(tree):
    def said(**more):
        return [note for note in prepare(read_config(settings(tree, **more))).notes if "decoded" in note]

    assert said() == ["images decoded once: 20 train, 6 dev, 4 test (23.0 kB)"]
    assert said(scale=[0.3, 1.0]) == ["images decoded once: 6 dev, 4 test (7.7 kB)"]  # a crop of the photo itself needs the photo
    assert said(resident_gb=0.0) == [] and said(resident_gb=1e-5, scale=[0.3, 1.0]) == ["images decoded once: 6 dev, 4 test (7.7 kB)"]
    assert said(data="digits", labels_per_class=9, scale=None) == []


def test_cutout_is_said_and_written_and_must_fit(tree):
    ready = prepare(read_config(settings(tree, cutout=8)))
    assert "training images: flip 0.5, cutout 8" in ready.notes and ready.config.cutout == 8
    assert prepare(read_config(settings(tree))).config.cutout == 0
    prepare(read_config(settings(tree, cutout=16)))
    with pytest.raises(KdError, match="--cutout 17 is larger than the images, which have 16x16 pixels: half of a side is usual"):
        prepare(read_config(settings(tree, cutout=17)))


# -- how long it takes ----------------------------------------------------------------------------------------------------------


def test_an_estimate_decodes_a_few_and_counts_all(tree, opened, monkeypatch):
    monkeypatch.setattr(timing, "_LOOKED_AT", 4)
    asked = prepare(read_config(settings(tree, epochs=3, workers=2)))
    found = timing.estimate(asked, Precision())
    assert len(opened) <= 3 * 10  # of the train, dev and test images, which are read three times an epoch otherwise
    monkeypatch.setattr(timing, "_reading", lambda prepared: 10.0)
    slow = timing.estimate(asked, Precision())
    assert slow.phases[0].begin - found.phases[0].begin == pytest.approx((20 + 6) * 10 / 2, abs=5)
    assert slow.phases[0].epoch < 5 and slow.end - found.end == pytest.approx(4 * 10 / 2, abs=5)
    read = timing.estimate(prepare(read_config(settings(tree, epochs=3, workers=2, resident_gb=0.0))), Precision())
    assert read.phases[0].epoch > 30 and read.phases[0].begin < 5

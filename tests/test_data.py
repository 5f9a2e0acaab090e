"""Data: what is read, what is refused, how it is split, and that a sample's pixels depend on (seed, epoch, number) alone."""

import os
import pickle
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from kdcore.data import (
    Augmentation,
    Batches,
    Data,
    Preprocessing,
    Split,
    default_augmentation,
    default_preprocessing,
    load_data,
    open_image,
)
from kdcore.data.photos import Photos, photo_transform
from kdcore.data.splits import stratified
from kdcore.errors import DataError, FileError, KdError
from kdcore.seeds import draws, seed_of

pytestmark = pytest.mark.filterwarnings("error", r"ignore:.*fork\(\):DeprecationWarning")

NOISE = np.random.default_rng(0)
EVERYTHING = Augmentation(
    crop_pad=2, hflip=0.5, vflip=0.3, scale=(0.3, 1.0), color_jitter=0.4, auto_augment="rand-m9-mstd0.5-n2-t3a", reprob=0.5
)
RESIDENT = Augmentation(crop_pad=3, hflip=0.5, vflip=0.4)


def pixels(count: int, *shape: int) -> np.ndarray:
    return NOISE.integers(0, 256, (count, *shape), dtype=np.uint8)


def resident(count: int = 50, channels: int = 3, size: tuple[int, int] = (9, 7)) -> Split:
    return Split(torch.arange(count) % 5, images=torch.from_numpy(pixels(count, channels, *size)))


def plain(size: tuple[int, int] = (9, 7), chans: int = 3, **options) -> Preprocessing:
    return Preprocessing(size, (0.4,) * chans, (0.3,) * chans, in_chans=chans, **options)


def by_number(batches: Batches, epoch: int = 0) -> dict[int, torch.Tensor]:
    return {int(n): image for images, _, numbers in batches.epoch(epoch) for image, n in zip(images, numbers, strict=True)}


def same(a: dict[int, torch.Tensor], b: dict[int, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


def rows(split: Split) -> set[bytes]:
    return {image.numpy().tobytes() for image in split.images}


def save_npz(path, **arrays) -> str:
    np.savez(path, **arrays)
    return str(path)


def save_tree(root, classes: dict[str, int], size: tuple[int, int] = (12, 10)):
    for name, count in classes.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(pixels(1, *size, 3)[0]).save(root / name / f"{i:03}.png")
    return root


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos")
    save_tree(root / "train", {"cat": 8, "dog": 6})
    save_tree(root / "validation", {"cat": 2, "dog": 2})
    save_tree(root / "test", {"cat": 3, "dog": 1})
    return root


# Reading


def test_digits():
    data = load_data("digits")
    assert (data.name, data.num_classes, data.in_chans, data.image_size) == ("digits", 10, 1, (8, 8))
    assert [len(data.train), len(data.dev), len(data.test)] == [717, 80, 1000]
    assert data.train.images.dtype == torch.uint8 and data.train.images.shape == (717, 1, 8, 8) and int(data.train.images.max()) == 255
    assert data.train.labels.dtype == torch.int64
    other = load_data("digits", seed=1, dev_fraction=0)
    assert other.dev is None and len(other.train) == 797
    assert torch.equal(other.test.images, data.test.images)
    assert torch.bincount(data.test.labels).tolist() == pytest.approx([100] * 10, abs=4)


def test_npz(tmp_path):
    arrays = {"train_images": pixels(40, 6, 5), "train_labels": np.arange(40, dtype=np.uint8)[:, None] % 4}
    data = load_data(save_npz(tmp_path / "grey.npz", **arrays, class_names=np.array(["a", "b", "c", "d"])))
    assert (data.name, data.class_names, data.in_chans, data.image_size) == ("grey", ["a", "b", "c", "d"], 1, (6, 5))
    assert (len(data.train), len(data.dev), data.test) == (36, 4, None)
    assert any("no test split" in note for note in data.notes)

    colour = {f"{s}_images": pixels(n, 6, 5, 3) for s, n in {"train": 12, "val": 4, "test": 6}.items()}
    labels = {key.replace("images", "labels"): np.arange(len(value)) % 2 for key, value in colour.items()}
    data = load_data(save_npz(tmp_path / "colour.npz", **colour, **labels))
    assert (data.class_names, data.in_chans, len(data.train), len(data.dev), len(data.test)) == (["0", "1"], 3, 12, 4, 6)
    assert torch.equal(data.dev.images[1, 2], torch.from_numpy(colour["val_images"][1, :, :, 2]))


def test_folder_with_splits(tree):
    (tree / "train" / "cat" / ".DS_Store").write_bytes(b"x")
    (tree / "train" / ".hidden").mkdir(exist_ok=True)
    (tree / "train" / "cat" / "notes.txt").write_text("x")
    data = load_data(str(tree))
    assert (data.class_names, data.in_chans, data.image_size) == (["cat", "dog"], 3, (12, 10))
    assert [len(data.train), len(data.dev), len(data.test)] == [14, 4, 4]
    assert data.train.images is None and data.train.paths == sorted(data.train.paths)
    assert data.train.labels.tolist() == [0] * 8 + [1] * 6
    assert data.notes == ["passed over 1 file that is not an image: .txt"]


def test_folder_of_classes(tmp_path):
    save_tree(tmp_path, {"bus": 20, "train": 20})
    Image.fromarray(pixels(1, 5, 5, 3)[0]).save(tmp_path / "bus" / "odd.png")
    data = load_data(str(tmp_path), dev_fraction=0.25)
    assert (data.class_names, data.test, data.image_size) == (["bus", "train"], None, None)
    assert (len(data.train), len(data.dev)) == (31, 10) and not set(data.train.paths) & set(data.dev.paths)
    assert any("no test split" in note for note in data.notes)


def test_file_system_order_does_not_matter(tree, monkeypatch):
    before = load_data(str(tree)).train.paths
    scandir = os.scandir

    class Backwards:
        def __init__(self, path):
            with scandir(path) as entries:
                self.entries = list(entries)[::-1]

        def __iter__(self):
            return iter(self.entries)

        def __next__(self):
            if not self.entries:
                raise StopIteration
            return self.entries.pop(0)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(os, "scandir", Backwards)
    assert load_data(str(tree)).train.paths == before


# Splitting


def test_dev_is_stratified_disjoint_and_seeded():
    data, again, other = load_data("digits"), load_data("digits"), load_data("digits", seed=1)
    assert torch.equal(data.dev.images, again.dev.images) and rows(data.dev) != rows(other.dev)
    assert not rows(data.dev) & rows(data.train) and not rows(data.test) & (rows(data.train) | rows(data.dev))
    whole = torch.bincount(torch.cat([data.dev.labels, data.train.labels]))
    assert (torch.bincount(data.dev.labels) - whole / 10).abs().max() < 1


def test_few_labels_are_balanced_nested_and_leave_dev_alone():
    full, thirty, ten = (load_data("digits", seed=3, labels_per_class=n) for n in (None, 30, 10))
    assert torch.bincount(ten.train.labels).tolist() == [10] * 10 and len(thirty.train) == 300
    assert rows(ten.train) < rows(thirty.train) < rows(full.train)
    assert torch.equal(full.dev.images, ten.dev.images)
    assert rows(load_data("digits", seed=4, labels_per_class=10).train) != rows(ten.train)


def test_train_limit_is_stratified():
    data = load_data("digits", train_limit=103)
    assert len(data.train) == 103 and set(torch.bincount(data.train.labels).tolist()) <= {10, 11}
    assert len(load_data("digits", train_limit=10**6).train) == 717


@pytest.mark.parametrize("count", [1, 3, 7, 20, 100])
def test_stratified_keeps_a_sample_of_each_class(count):
    labels = torch.tensor([0] * 30 + [1] * 5 + [2] * 1 + [3] * 2)
    chosen = stratified(labels, count, seed=5, leave=1)
    kept = torch.bincount(labels, minlength=4) - torch.bincount(labels[chosen], minlength=4)
    assert len(chosen) == min(count, 34) and kept.min() >= 1 and torch.equal(chosen, chosen.unique())
    if 4 <= count <= len(labels):
        assert torch.bincount(labels[stratified(labels, count, seed=5, at_least=1)]).min() >= 1


def test_single_images_stay_in_train(tmp_path):
    path = save_npz(tmp_path / "one.npz", train_images=pixels(2, 4, 4), train_labels=np.array([0, 1]))
    data = load_data(path)
    assert data.dev is None and len(data.train) == 2 and "no dev split: every class has a single training image" in data.notes


# Refusals

GOOD = {"train_images": pixels(8, 4, 4), "train_labels": np.arange(8) % 2}
BAD_ARRAYS = {
    "one class only": {"train_labels": np.zeros(8, int)},
    "class 1 has no training image": {"train_labels": np.arange(8) % 2 * 2},
    "class 2 has no training image": {"test_images": pixels(2, 4, 4), "test_labels": np.array([0, 2])},
    "class 'c' has no training image": {"class_names": np.array(["a", "b", "c"])},
    "a label is 1, but there are only 1 class_names": {"class_names": np.array(["a"])},
    "class_names must be a list of strings": {"class_names": np.array([1, 2])},
    "array of Python objects": {"class_names": np.array(["a", "b"], dtype=object)},
    "train_labels holds -1": {"train_labels": np.arange(8) % 2 - 1},
    "must be integers from 0 on, not float64": {"train_labels": np.arange(8) % 2 * 1.0},
    "one number for each of the 8 images": {"train_labels": np.zeros((8, 3), int)},
    "one number for each of the 8 images, not [7]": {"train_labels": np.zeros(7, int)},
    "must be uint8 from 0 to 255, not float32": {"train_images": pixels(8, 4, 4).astype("float32")},
    "must be [N, H, W], or [N, H, W, C]": {"train_images": pixels(8, 16)},
    "1 or 3 channels, not [8, 3, 4, 4]": {"train_images": pixels(8, 3, 4, 4)},
    "val_labels is missing beside val_images": {"val_images": pixels(2, 4, 4)},
    "test_images is missing beside test_labels": {"test_labels": np.array([0, 1])},
    "differ in height, width, channels": {"test_images": pixels(2, 5, 4), "test_labels": np.array([0, 1])},
    "train_images holds no image": {"train_images": pixels(0, 4, 4), "train_labels": np.zeros(0, int)},
}


def refused(kind: type[KdError], part: str, spec: str, **options) -> None:
    with pytest.raises(kind) as raised:
        load_data(spec, **options)
    assert type(raised.value) is kind and part in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("part", BAD_ARRAYS)
def test_bad_arrays(part, tmp_path):
    refused(DataError, part, save_npz(tmp_path / "bad.npz", **{**GOOD, **BAD_ARRAYS[part]}))


def test_bad_files(tmp_path):
    for spec in ("", "digit", str(tmp_path / "none.npz"), str(tmp_path / "none")):
        refused(DataError, f"no such file or folder: '{spec}'; data is 'digits', an .npz file", spec)
    (tmp_path / "table.xls").write_text("a,b")
    refused(DataError, "as data; data is 'digits'", str(tmp_path / "table.xls"))
    refused(DataError, "it has: more, train_images", save_npz(tmp_path / "keys.npz", train_images=GOOD["train_images"], more=np.zeros(1)))
    save_npz(tmp_path / "good.npz", **GOOD)
    whole = (tmp_path / "good.npz").read_bytes()
    for content in (b"", b"nonsense", pickle.dumps({}), whole[:-30]):
        (tmp_path / "broken.npz").write_bytes(content)
        refused(DataError, "not an .npz file, or cut short", str(tmp_path / "broken.npz"))
    at = whole.index(b"train_images.npy") + 200
    (tmp_path / "broken.npz").write_bytes(whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :])
    refused(DataError, "cannot be read as an .npz file: Bad CRC", str(tmp_path / "broken.npz"))


def test_denied(tmp_path, monkeypatch, tree):
    path = save_npz(tmp_path / "denied.npz", **GOOD)
    denied = PermissionError(13, "Permission denied", path)

    def deny(*_, **__):
        raise denied

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.open", deny)
        refused(FileError, f"cannot read {path}: Permission denied", path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "walk", deny)
        refused(FileError, f"cannot read {path}: Permission denied", str(tree))
    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", deny)
        with pytest.raises(FileError, match=r"cannot read x\.png: Permission denied"):
            open_image("x.png")


@pytest.mark.parametrize(
    ("splits", "part"),
    [
        ({}, "no class folders; give it one folder of images a class"),
        ({"": {"cat": 3}}, "one class only ('cat')"),
        ({"": {"cat": 3, "dog": 0}}, "class 'dog' has no training image; add some or remove"),
        ({"train": {"cat": 3, "dog": 2}, "test": {"cat": 1}}, "class folder 'dog' is in train but not in test"),
        ({"train": {"cat": 3, "dog": 2}, "val": {"cat": 1, "dog": 1, "emu": 1}}, "class folder 'emu' is in val but not in train"),
        ({"val": {"cat": 1, "dog": 1}, "test": {"cat": 3, "dog": 2}}, "there is test, val, but no train folder"),
        ({"": {"train": 3, "test": 2}}, "train: no class folders; images lie in it directly"),
        ({"": {"train": 0}, "test": {"cat": 3, "dog": 2}}, "train: no class folders; give it one folder of images a class"),
        ({"train": {"a": 1, "b": 1}, "val": {"a": 1, "b": 1}, "validation": {"a": 1, "b": 1}}, "both val and validation"),
    ],
)
def test_bad_folders(splits, part, tmp_path):
    for split, classes in splits.items():
        save_tree(tmp_path / split, classes)
    refused(DataError, part, str(tmp_path))


def test_folder_hints(tmp_path):
    save_tree(tmp_path, {"cat": 2, "dog": 0})
    (tmp_path / "dog" / "a.raw").write_bytes(b"x")
    refused(DataError, "class 'dog' has no training image (passed over: .raw)", str(tmp_path))
    refused(DataError, "images lie in it directly", str(tmp_path / "cat"))


def test_links_in_a_circle_show_an_image_once(tmp_path):
    save_tree(tmp_path, {"cat": 2, "dog": 3})
    for link in ("z_again", "again"):
        (tmp_path / "dog" / link).symlink_to(tmp_path / "dog", target_is_directory=True)
    data = load_data(str(tmp_path), dev_fraction=0)
    assert (len(data.train), data.notes[1:]) == (5, [])


def test_bad_options():
    refused(KdError, "dev_fraction is 1", "digits", dev_fraction=1)
    refused(KdError, "labels_per_class is 0", "digits", labels_per_class=0)
    refused(KdError, "train_limit is -1", "digits", train_limit=-1)
    refused(DataError, "fewer than the 100 labels a class", "digits", labels_per_class=100)
    refused(DataError, "9 training images cannot cover 10 classes", "digits", train_limit=9)
    for build, part in {
        lambda: Preprocessing((8, 0), (0.5,), (0.5,), in_chans=1): "image size is (8, 0)",
        lambda: Preprocessing((8, 8), (0.5,), (0.5,)): "one number for each of 3 channels",
        lambda: Preprocessing((8, 8), (0.5,), (0.0,), in_chans=1): "std is (0.0,)",
        lambda: Preprocessing((8, 8), (0.5,) * 4, (0.5,) * 4, in_chans=4): "1 channel or 3",
        lambda: plain(crop_pct=0): "crop_pct is 0",
        lambda: plain(interpolation="bicubi"): "did you mean 'bicubic'?",
        lambda: Augmentation(hflip=1.5): "hflip is 1.5",
        lambda: Augmentation(crop_pad=-1): "crop_pad is -1",
        lambda: Augmentation(scale=(0.5, 0.1)): "scale is (0.5, 0.1)",
        lambda: Augmentation(ratio=(0, 1)): "ratio is (0, 1)",
        lambda: photo_transform(
            plain(), Augmentation(auto_augment="round-m9")
        ): "--aa round-m9: there is no such automatic augmentation; timm has rand-m9",
        lambda: Batches(resident(), plain(), batch_size=0): "batch_size 0",
        lambda: Batches(resident(), plain(), batch_size=1, rank=2, world=2): "rank 2",
        lambda: Batches(resident(0), plain(), batch_size=1): "0 images are too few",
        lambda: Batches(resident(3), plain(), batch_size=1, world=4, drop_last=True): "3 images are too few for 4 process",
        lambda: Batches(resident(), plain((4, 4), interpolation="lanczos"), batch_size=1): "interpolation 'lanczos' needs photos",
    }.items():
        with pytest.raises(KdError) as raised:
            build()
        assert part in str(raised.value) and "\n" not in str(raised.value)


# Preprocessing and defaults


def test_measured_preprocessing():
    data = load_data("digits")
    made = default_preprocessing(data, None)
    images = data.train.images.double() / 255
    assert made.image_size == (8, 8) and made.in_chans == 1
    assert made.mean[0] == pytest.approx(float(images.mean()), abs=1e-6)
    assert made.std[0] == pytest.approx(float(images.std(correction=0)), abs=1e-6)
    (batch,) = Batches(data.train, made, batch_size=1000).epoch(0)
    assert abs(float(batch[0].mean())) < 1e-4 and float(batch[0].std()) == pytest.approx(1, abs=1e-3)
    pretrained = default_preprocessing(data, (16, 16), mean=(0.5, 0.4, 0.3), std=(0.2,))
    assert (pretrained.in_chans, pretrained.std, pretrained.image_size) == (3, (0.2,) * 3, (16, 16))
    assert Preprocessing.from_json(pretrained.to_json()) == pretrained
    flat = Data("flat", ["a", "b"], 3, (2, 2), Split(torch.zeros(2, dtype=torch.int64), images=torch.zeros(2, 3, 2, 2, dtype=torch.uint8)))
    assert min(default_preprocessing(flat, None).std) > 0


def test_defaults(tree):
    photos = load_data(str(tree))
    made = default_preprocessing(photos, None)
    assert (made.image_size, made.mean) == ((224, 224), (0.485, 0.456, 0.406))
    assert default_augmentation(photos) == Augmentation(scale=(0.35, 1.0), hflip=0.5)
    assert default_augmentation(load_data("digits")) == Augmentation(crop_pad=1)
    assert default_augmentation(load_data("digits"), (16, 16)).crop_pad == 2
    for size, pad in {28: 4, 32: 4, 96: 12}.items():
        split = resident(4, 3, (size, size))
        assert default_augmentation(Data("x", ["a", "b"], 3, (size, size), split)) == Augmentation(crop_pad=pad, hflip=0.5)
    assert default_augmentation(Data("x", ["a", "b"], 1, (28, 28), resident(4, 1, (28, 28)))).hflip == 0


# Batches of arrays


@pytest.mark.parametrize("channels", [1, 3])
def test_augmentation_equals_a_slow_reference(channels):
    split, pre = resident(60, channels), plain(chans=channels)
    seen, pad = by_number(Batches(split, pre, batch_size=16, augmentation=RESIDENT, shuffle=True, seed=7), 2), RESIDENT.crop_pad
    flips = set()
    for n in range(60):
        down, right, mirror, upset = draws(seed_of(7, 2), torch.tensor([n]), 4)[0].tolist()
        top, left = int(down * (2 * pad + 1)), int(right * (2 * pad + 1))
        image = np.pad(split.images[n].numpy(), ((0, 0), (pad, pad), (pad, pad)))[:, top : top + 9, left : left + 7]
        image = image[:, :, ::-1] if mirror < RESIDENT.hflip else image
        image = image[:, ::-1] if upset < RESIDENT.vflip else image
        flips.add((mirror < RESIDENT.hflip, upset < RESIDENT.vflip))
        assert torch.equal(seen[n], torch.from_numpy(image.copy()).float().div(255).sub(0.4).div(0.3))
    assert len(flips) == 4


@pytest.mark.parametrize(
    ("draw", "augmentation", "expected"),
    [
        ([0.0, 0.0, 0, 0], Augmentation(crop_pad=1), [[0, 0], [0, 1]]),
        ([0.5, 0.5, 0, 0], Augmentation(crop_pad=1), [[1, 2], [3, 4]]),
        ([1 - 2**-24, 1 - 2**-24, 0, 0], Augmentation(crop_pad=1), [[4, 0], [0, 0]]),
        ([0.0, 1 - 2**-24, 0, 0], Augmentation(crop_pad=1), [[0, 0], [2, 0]]),
        ([0.9, 0.9, 0.49, 0.0], Augmentation(hflip=0.5), [[2, 1], [4, 3]]),
        ([0.9, 0.9, 0.5, 0.0], Augmentation(hflip=0.5, vflip=0.1), [[3, 4], [1, 2]]),
        ([0.0, 0.0, 0.0, 0.0], Augmentation(), [[1, 2], [3, 4]]),
    ],
)
def test_crops_and_flips_at_given_draws(draw, augmentation, expected, monkeypatch):
    monkeypatch.setattr("kdcore.data.augmenting.draws", lambda seed, index, count: torch.tensor([draw]))
    split = Split(torch.tensor([0]), images=torch.tensor([[[[1, 2], [3, 4]]]], dtype=torch.uint8))
    pre = Preprocessing((2, 2), (0.0,), (1 / 255,), in_chans=1)
    ((images, _, _),) = Batches(split, pre, batch_size=1, augmentation=augmentation).epoch(0)
    assert images[0, 0].round().int().tolist() == expected


def test_pixels_of_arrays_depend_on_seed_epoch_and_number_alone():
    def make(batch_size=16, **options):
        return Batches(split, plain(), batch_size=batch_size, augmentation=RESIDENT, **options)

    split = resident()
    base = by_number(make(), 1)
    assert len(base) == 50
    assert same(base, by_number(make(7, shuffle=True), 1))
    assert same(base, by_number(make(channels_last=True), 1))
    assert same(base, by_number(make(rank=0, world=2), 1) | by_number(make(rank=1, world=2), 1))
    assert not same(base, by_number(make(), 2)) and not same(base, by_number(make(seed=1), 1))
    batches = make()
    assert same(by_number(batches, 3), by_number(make(), 3)) and same(base, by_number(batches, 1))


@pytest.mark.parametrize("augmentation", [None, RESIDENT, replace(RESIDENT, rotation=20.0, cutout=4, reprob=0.5)])
def test_no_batch_waits_for_the_device(augmentation):
    batches = Batches(
        resident(), plain(), batch_size=16, shuffle=True, augmentation=augmentation, device="meta"
    )  # has no values to wait for
    assert [tuple(images.shape) for images, _, _ in batches.epoch(0)] == [(16, 3, 9, 7)] * 3 + [(2, 3, 9, 7)]


def test_layouts_labels_and_numbers():
    split = resident(10)
    for augmentation in (None, RESIDENT):
        for channels_last, layout in {True: torch.channels_last, False: torch.contiguous_format}.items():
            batches = Batches(split, plain(), batch_size=4, shuffle=True, augmentation=augmentation, channels_last=channels_last)
            for images, labels, index in batches.epoch(0):
                assert images.is_contiguous(memory_format=layout) and images.dtype == torch.float32
                assert (labels.dtype, index.dtype) == (torch.int64, torch.int64) and torch.equal(labels, split.labels[index])


def test_order():
    def order(epoch=0, **options):
        return Batches(resident(11), plain(), batch_size=4, **{"shuffle": True, **options}).order(epoch).tolist()

    assert order(shuffle=False) == list(range(11))
    assert order() == order() != order(1) and sorted(order()) == list(range(11)) and order(seed=1) != order()
    assert order(rank=1, world=2) == order()[1::2]
    assert [len(order(rank=r, world=3)) for r in range(3)] == [4, 4, 3]
    assert [len(order(rank=r, world=2, drop_last=True)) for r in range(2)] == [4, 4]


@pytest.mark.parametrize(("count", "drop_last", "world", "sizes"), [(11, False, 1, [4, 4, 3]), (11, True, 1, [4, 4]), (11, True, 2, [4])])
def test_batches_of_an_epoch(count, drop_last, world, sizes):
    batches = Batches(resident(count), plain(), batch_size=4, shuffle=True, drop_last=drop_last, world=world)
    assert [len(labels) for _, labels, _ in batches.epoch(0)] == sizes and len(batches) == len(sizes) and batches.batch_size == 4


def test_a_batch_shrinks_to_the_samples():
    batches = Batches(resident(7), plain(), batch_size=64, drop_last=True)
    assert (batches.batch_size, len(batches)) == (7, 1) and [len(y) for _, y, _ in batches.epoch(0)] == [7]
    assert Batches(resident(7), plain(), batch_size=64, drop_last=True, world=2).batch_size == 3
    assert Batches(resident(7), plain(), batch_size=64).batch_size == 64


def test_channels():
    split = resident(4, 3)
    (grey, _, _) = next(Batches(split, plain(chans=1), batch_size=4).epoch(0))
    as_pillow = [np.asarray(Image.fromarray(image.permute(1, 2, 0).numpy()).convert("L")) for image in split.images]
    assert torch.equal(grey[:, 0], torch.from_numpy(np.stack(as_pillow)).float().div(255).sub(0.4).div(0.3))
    (colour, _, _) = next(Batches(resident(4, 1), plain(chans=3), batch_size=4).epoch(0))
    assert colour.shape == (4, 3, 9, 7) and torch.equal(colour[:, 0], colour[:, 2])


def test_resident_size():
    data = load_data("digits")
    pre = default_preprocessing(data, (16, 12))
    images, _, _ = next(Batches(data.test, pre, batch_size=8).epoch(0))
    by_pillow = np.stack(
        [np.asarray(Image.fromarray(i[0].numpy()).resize((12, 16), Image.Resampling.BILINEAR)) for i in data.test.images[:8]]
    )
    assert (images[:, 0] * pre.std[0] + pre.mean[0] - torch.from_numpy(by_pillow) / 255).abs().max() < 1.01 / 255


def test_no_global_generator_is_touched(tree):
    before = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    data = load_data(str(tree), seed=3)
    pre = plain((8, 8))
    list(Batches(data.train, pre, batch_size=4, augmentation=EVERYTHING, shuffle=True).epoch(0))
    list(Batches(resident(), plain(), batch_size=4, augmentation=RESIDENT, shuffle=True).epoch(0))
    assert (
        random.getstate() == before[0] and (np.random.get_state()[1] == before[1]).all() and torch.equal(torch.get_rng_state(), before[2])
    )


# Batches of photos


@pytest.mark.parametrize("chans", [1, 3])
def test_arrays_and_files_evaluate_equally(chans, tmp_path):
    images = pixels(6, 10, 14, 3) if chans == 3 else pixels(6, 10, 14)
    for i, image in enumerate(images):
        (tmp_path / str(i % 2)).mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / str(i % 2) / f"{i}.png")
    photos = load_data(str(tmp_path), dev_fraction=0).train
    order = [int(os.path.basename(path)[0]) for path in photos.paths]
    arrays = torch.from_numpy(images).reshape(6, 10, 14, chans).permute(0, 3, 1, 2)[order].contiguous()
    for input_chans in (1, 3):
        pre = plain((10, 14), input_chans)
        ours = by_number(Batches(Split(photos.labels, images=arrays), pre, batch_size=4))
        assert same(ours, by_number(Batches(photos, pre, batch_size=3)))


@pytest.mark.parametrize("size", [(8, 8), (8, 6)])
def test_evaluation_is_timms(tree, size):
    from timm.data import create_transform

    data = load_data(str(tree))
    pre = Preprocessing(size, (0.5, 0.4, 0.3), (0.3, 0.2, 0.1), "bicubic", crop_pct=0.8)
    theirs = create_transform((3, *size), mean=pre.mean, std=pre.std, interpolation="bicubic", crop_pct=0.8)
    for n, image in by_number(Batches(data.test, pre, batch_size=2)).items():
        assert torch.allclose(image, theirs(open_image(data.test.paths[n])), atol=1e-6)


def test_pixels_of_photos_depend_on_seed_epoch_and_number_alone(tree):
    def make(batch_size=4, **options):
        return Batches(split, plain((8, 8)), batch_size=batch_size, augmentation=EVERYTHING, shuffle=True, **options)

    split = load_data(str(tree)).train
    base = by_number(make(), 1)
    assert len(base) == 14 and same(base, by_number(make(5, drop_last=False), 1))
    assert not same(base, by_number(make(), 2)) and not same(base, by_number(make(seed=1), 1))
    assert same(base, by_number(make(rank=0, world=2), 1) | by_number(make(rank=1, world=2), 1))
    worked = make(3, workers=2)
    next(worked.epoch(0))  # dropped half-way; the workers stay
    assert same(by_number(worked, 1), base) and same(by_number(worked, 2), by_number(make(), 2))


def test_photos_travel_to_spawned_workers(tree):
    split = load_data(str(tree)).train
    photos = Photos(split, plain((8, 8)), EVERYTHING, 3)
    there = pickle.loads(pickle.dumps(photos))
    assert torch.equal(there[(2, 5)][0], photos[(2, 5)][0]) and len(there) == 14


@pytest.mark.parametrize("augmentation", [Augmentation(crop_pad=2), Augmentation(auto_augment="augmix-m3-w3"), Augmentation(reprob=1.0)])
def test_photo_augmentations(augmentation, tree):
    split, pre = load_data(str(tree)).train, plain((12, 10), 1)
    seen, untouched = (
        by_number(Batches(split, pre, batch_size=14, augmentation=augmentation)),
        by_number(Batches(split, pre, batch_size=14)),
    )
    assert any(not torch.equal(seen[n], untouched[n]) for n in seen) and all(image.shape == (1, 12, 10) for image in seen.values())


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_photo_is_named_in_one_line(workers, tmp_path):
    save_tree(tmp_path, {"a": 3, "b": 3}, (40, 40))
    data = load_data(str(tmp_path), dev_fraction=0)
    whole = (tmp_path / "b" / "001.png").read_bytes()
    for content in (b"no image", whole[:300], b""):
        (tmp_path / "b" / "001.png").write_bytes(content)
        with pytest.raises(DataError) as raised:
            list(Batches(data.train, plain(), batch_size=2, workers=workers).epoch(0))
        assert str(tmp_path / "b" / "001.png") in str(raised.value) and "\n" not in str(raised.value)
    os.remove(tmp_path / "b" / "001.png")
    with pytest.raises(DataError, match="the image is gone"):
        list(Batches(data.train, plain(), batch_size=2).epoch(0))


def test_open_image_turns_and_converts(tmp_path):
    image = Image.fromarray(pixels(1, 4, 6, 3)[0])
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    assert open_image(str(tmp_path / "turned.png")).size == (4, 6)
    for mode in ("L", "LA", "RGBA", "P", "1"):
        image.convert(mode).save(tmp_path / f"{mode}.png")
        assert open_image(str(tmp_path / f"{mode}.png")).mode == "RGB"
    image.convert("CMYK").save(tmp_path / "cmyk.jpg")
    assert open_image(str(tmp_path / "cmyk.jpg")).mode == "RGB"
    image.convert("P").save(tmp_path / "seen_through.png", transparency=bytes(range(256)))
    assert open_image(str(tmp_path / "seen_through.png")).mode == "RGB"


# Draws


def test_draws_are_uniform_and_independent():
    drawn = draws(seed_of(0, 1), torch.arange(20_000), 4).double()
    assert drawn.min() >= 0 and drawn.max() < 1
    assert (drawn.mean(0) - 0.5).abs().max() < 0.01 and (drawn.var(0) - 1 / 12).abs().max() < 0.003
    together = torch.cat([drawn, draws(seed_of(0, 2), torch.arange(20_000), 4).double()], 1)
    following = torch.cat([drawn[:-1], drawn[1:]], 1)
    for columns in (together, following):
        assert (torch.corrcoef(columns.T) - torch.eye(8)).abs().max() < 0.03
    assert torch.equal(draws(5, torch.tensor([3, 9]), 4)[1], draws(5, torch.tensor([9]), 4)[0])
    assert torch.equal(draws(5, torch.tensor([9]), 4)[:, :2], draws(5, torch.tensor([9]), 2))

"""`kd data prepare`: tiny sets in the exact layouts of the downloads, and what `load_data` reads afterwards."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from kdcore.data import load_data
from kdcore.data.packs import pack
from kdcore.data.prepared_sets import cub, tiny_imagenet
from kdcore.errors import DataError, FileError


def picture(path, colour=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (colour, 0, 0)).save(path)


@pytest.fixture
def tiny(tmp_path):
    """Three classes, two of which are called crane; words.txt names more wnids than the set has."""
    root = tmp_path / "tiny-imagenet-200"
    wnids = ("n01443537", "n02012849", "n03126707")
    for wnid in wnids:
        for number in range(3):
            picture(root / "train" / wnid / "images" / f"{wnid}_{number}.JPEG")
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text("")
    (root / "wnids.txt").write_text("\n".join(wnids) + "\n")
    words = ["n00001740\tentity", "n01443537\tgoldfish, Carassius auratus", "n02012849\tcrane", "n03126707\tcrane, hoist", "n1\tcrane"]
    (root / "words.txt").write_text("\n".join(words) + "\n")
    lines = [f"val_{number}.JPEG\t{wnid}\t0\t32\t44\t62" for number, wnid in enumerate(reversed(wnids))]
    for number in range(3):
        picture(root / "val" / "images" / f"val_{number}.JPEG")
    (root / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")
    picture(root / "test" / "images" / "test_0.JPEG")
    return root


def test_tiny_imagenet(tiny):
    written = tiny_imagenet(tiny)
    assert written.path == tiny / "tiny-imagenet.csv"
    assert (written.classes, written.counts) == (3, {"train": 9, "val": 3})
    data = load_data(str(written.path))
    assert data.class_names == ["crane (n02012849)", "crane (n03126707)", "goldfish"]
    assert (len(data.train), len(data.dev), data.test) == (9, 3, None)
    where = dict(zip((path.rpartition("/")[2] for path in data.dev.paths), data.dev.labels.tolist(), strict=True))
    assert where == {"val_0.JPEG": 1, "val_1.JPEG": 0, "val_2.JPEG": 2}
    assert all(
        data.class_names[k] == "goldfish" for path, k in zip(data.train.paths, data.train.labels, strict=True) if "n01443537" in path
    )


def test_a_table_elsewhere_finds_the_images(tiny, tmp_path, monkeypatch):
    (tmp_path / "lists").mkdir()
    monkeypatch.chdir(tmp_path / "lists")
    written = tiny_imagenet("../tiny-imagenet-200", "../lists/set.csv")
    first = written.path.read_text().splitlines()[1]
    assert first.startswith("../tiny-imagenet-200/train/n01443537/images/n01443537_0.JPEG,goldfish,train")
    monkeypatch.chdir(tmp_path)
    assert load_data("lists/set.csv").train.open(0).size == (8, 8)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda root: (root / "words.txt").unlink(), ["words.txt is not in it", "tiny-imagenet-200"]),
        (lambda root: (root / "val" / "images" / "val_1.JPEG").unlink(), ["val_1.JPEG", "not there"]),
        (lambda root: (root / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn9\t0\n"), ["n9", "lacks"]),
        (lambda root: (root / "val" / "val_annotations.txt").write_text("val_0.JPEG\n"), ["line 1", "two columns"]),
    ],
)
def test_a_spoilt_tiny_imagenet(tiny, spoil, words):
    spoil(tiny)
    with pytest.raises(DataError) as caught:
        tiny_imagenet(tiny)
    assert all(word in str(caught.value) for word in words)
    assert not (tiny / "tiny-imagenet.csv").exists()


@pytest.fixture
def birds(tmp_path):
    root = tmp_path / "CUB_200_2011"
    images, labels, split, classes = [], [], [], []
    for k, name in enumerate(("001.Black_footed_Albatross", "002.Laysan_Albatross"), 1):
        classes.append(f"{k} {name}")
        for number in range(4):
            file, n = f"{name}/{name[4:]}_{number:04d}_{number}.jpg", len(images) + 1
            picture(root / "images" / file)
            images.append(f"{n} {file}")
            labels.append(f"{n} {k}")
            split.append(f"{n} {int(number < 3)}")
    lists = {"images": images, "image_class_labels": labels, "train_test_split": split, "classes": classes}
    for name, lines in lists.items():
        (root / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return root


def test_cub(birds):
    written = cub(birds)
    assert (written.classes, written.counts) == (2, {"train": 6, "test": 2})
    data = load_data(str(written.path), dev_fraction=0.0)
    assert data.class_names == ["001.Black_footed_Albatross", "002.Laysan_Albatross"]
    assert (len(data.train), data.dev) == (6, None)
    assert [path.rpartition("/")[2] for path in data.test.paths] == ["Black_footed_Albatross_0003_3.jpg", "Laysan_Albatross_0003_3.jpg"]
    assert data.test.labels.tolist() == [0, 1]


def test_a_folder_of_something_else(tmp_path):
    with pytest.raises(DataError, match=r"images\.txt is not in it; give the folder CUB_200_2011 as it was unpacked"):
        cub(tmp_path)


def test_lists_that_differ(birds):
    (birds / "train_test_split.txt").write_text("1 1\n")
    with pytest.raises(DataError, match=r"train_test_split\.txt.*differ"):
        cub(birds)


def test_nothing_is_overwritten(birds):
    (birds / "cub.csv").write_text("mine")
    with pytest.raises(FileError, match="nothing is overwritten"):
        cub(birds)
    assert (birds / "cub.csv").read_text() == "mine"


def mosaics(path, images, labels, classes, grid=2, split="train", mode="RGB"):
    """A pack as packs.py reads it: mosaics of grid x grid images, the last one filled up with black."""
    count, (height, width) = len(images), images.shape[1:3]
    filled = np.concatenate([images, np.zeros_like(images[:1]).repeat(-count % grid**2, 0)])
    pieces = []
    for block in filled.reshape(-1, grid, grid, *images.shape[1:]):
        mosaic = block.swapaxes(1, 2).reshape(grid * height, grid * width, *images.shape[3:])
        file = io.BytesIO()
        Image.fromarray(mosaic).save(file, "PNG")
        pieces.append(file.getvalue())
    about = {"n": count, "g": grid, "h": height, "w": width, "mode": mode}
    np.savez(
        path,
        meta=np.array(json.dumps({"kind": "mosaic", "splits": {split: about}})),
        classes=np.array(classes),
        **{
            f"blob_{split}": np.frombuffer(b"".join(pieces), np.uint8),
            f"off_{split}": np.cumsum([0, *map(len, pieces)]),
            f"y_{split}": np.asarray(labels, np.uint8),
        },
    )
    return path


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (10, 4, 6, 3), dtype=np.uint8)


LABELS = [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]
CLASSES = ["zebra", "ant", "a/b"]


def test_parts_become_one_npz(tmp_path, images):
    parts = [mosaics(tmp_path / "1.npz", images[:6], LABELS[:6], CLASSES), mosaics(tmp_path / "2.npz", images[6:], LABELS[6:], CLASSES)]
    written = pack(parts, tmp_path / "out.npz")
    assert written.counts == {"train": 10}
    data = load_data(str(written.path), dev_fraction=0.0)
    assert (data.class_names, data.train.labels.tolist()) == (CLASSES, LABELS)
    assert np.array_equal(data.train.images.permute(0, 2, 3, 1).numpy(), images)


def test_a_pack_becomes_a_tree(tmp_path, images):
    part = mosaics(tmp_path / "1.npz", images, LABELS, CLASSES)
    said = []
    written = pack([part], tmp_path / "tree", began=said.append)
    assert said == [10] and any("alphabetical" in note for note in written.notes)
    data = load_data(str(written.path), dev_fraction=0.0)
    assert data.class_names == ["a_b", "ant", "zebra"]
    for number, label in enumerate(LABELS):
        found = next(n for n, path in enumerate(data.train.paths) if path.endswith(f"{number:04d}.png"))
        assert np.array_equal(np.asarray(data.train.open(found)), images[number])
        assert data.train.labels[found] == [2, 1, 0][label]


def test_a_tree_whose_val_lacks_a_class_can_be_read(tmp_path):
    grey = np.zeros((6, 8, 8), np.uint8)
    arrays = {"train_images": grey, "train_labels": np.arange(6) % 3, "val_images": grey[:2], "val_labels": np.arange(2)}
    np.savez(tmp_path / "part.npz", **arrays)
    data = load_data(str(pack([tmp_path / "part.npz"], tmp_path / "tree").path))
    assert (len(data.train), data.dev.labels.tolist(), data.class_names) == (6, [0, 1], ["0", "1", "2"])


def test_the_papers_own_arrays(tmp_path, images):
    grey = images[..., 0]
    path = tmp_path / "mnist.npz"
    np.savez(path, train_images=grey[:6], train_labels=np.array(LABELS[:6])[:, None], test_images=grey[6:], test_labels=LABELS[6:])
    assert pack([path], tmp_path / "tree").counts == {"train": 6, "test": 4}
    data = load_data(str(tmp_path / "tree"), dev_fraction=0.0)
    assert (data.class_names, len(data.test)) == (["0", "1", "2"], 4)


def test_what_no_pack_is(tmp_path, images):
    out = tmp_path / "out"
    (tmp_path / "text.npz").write_text("hello")
    np.savez(tmp_path / "other.npz", x=images)
    np.savez(tmp_path / "float.npz", train_images=images / 255, train_labels=LABELS)
    np.savez(tmp_path / "pickle.npz", train_images=images, train_labels=np.array([{}] * 10))
    for name in ("text", "other", "float", "pickle"):
        with pytest.raises(DataError, match=f"{name}.npz: neither a pack"):
            pack([tmp_path / f"{name}.npz"], out)
    with pytest.raises(FileError, match="no such file"):
        pack([tmp_path / "nowhere.npz"], out)
    one, other = (mosaics(tmp_path / f"{n}.npz", images, LABELS, names) for n, names in enumerate((CLASSES, ["p", "q", "r"])))
    with pytest.raises(DataError, match="classes are not those of"):
        pack([one, other], out)
    with pytest.raises(DataError, match="a label is 2"):
        pack([mosaics(tmp_path / "few.npz", images, LABELS, ["p", "q"])], out)
    with pytest.raises(FileError, match="nothing is overwritten"):
        pack([one], other)
    assert not out.exists() and not list(tmp_path.glob(".out*"))


def test_a_disk_that_refuses_leaves_nothing(tmp_path, images, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    part = mosaics(tmp_path / "1.npz", images, LABELS, CLASSES)
    before = set(tmp_path.iterdir())
    monkeypatch.setattr("kdcore.data.packs.np.savez", full)
    monkeypatch.setattr(Image.Image, "save", full)
    for out in ("tree", "out.npz"):
        with pytest.raises(FileError, match="No space left"):
            pack([part], tmp_path / out)
    assert set(tmp_path.iterdir()) == before

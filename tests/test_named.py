"""Data sets by name, read offline: torchvision's own files, a hub's folder, tar files of webdataset."""

import io
import json
import pickle
import struct
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from kdcore.data import Batches, Preprocessing, load_data
from kdcore.data.named import is_named
from kdcore.data.parts import Wanted
from kdcore.data.torch_sets import _SETS
from kdcore.errors import DataError, KdError

NOISE = np.random.default_rng(0)
PRE = Preprocessing((8, 8), (0.5,) * 3, (0.5,) * 3)


def refused(kind: type[KdError], part: str, spec: str, **options) -> None:
    with pytest.raises(kind) as raised:
        load_data(spec, **options)
    assert type(raised.value) is kind and part in str(raised.value) and "\n" not in str(raised.value)


def picture(size=(10, 8), colour=None, kind: str = "png") -> bytes:
    buffer = io.BytesIO()
    pixels = NOISE.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    (Image.fromarray(pixels) if colour is None else Image.new("RGB", size, colour)).save(buffer, kind)
    return buffer.getvalue()


def test_names_and_paths():
    assert is_named("torch/cifar100") and is_named("HFDS/user/Set") and is_named("wds//data/x")
    assert not any(map(is_named, ("torch", "torch/", "photos/torch", "./torch/x", "digits", "a.npz")))


# torchvision


def write_mnist(root, count: int, split: str) -> np.ndarray:
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True, exist_ok=True)
    images = NOISE.integers(0, 256, (count, 28, 28), dtype=np.uint8)
    labels = (np.arange(count) % 10).astype(np.uint8)
    (folder / f"{split}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 2051, count, 28, 28) + images.tobytes())
    (folder / f"{split}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, count) + labels.tobytes())
    return images


def test_mnist_is_an_array(tmp_path):
    images = write_mnist(tmp_path, 40, "train")
    write_mnist(tmp_path, 20, "t10k")
    data = load_data("torch/mnist", data_dir=str(tmp_path))
    assert (data.in_chans, data.image_size, len(data.test)) == (1, (28, 28), 20)
    assert data.class_names[0].startswith("0") and data.num_classes == 10 and len(data.train) + len(data.dev) == 40
    whole = load_data("torch/MNIST", data_dir=str(tmp_path), dev_fraction=0)
    assert torch.equal(whole.train.images[:, 0], torch.from_numpy(images)) and whole.train.images.dtype == torch.uint8


def test_svhn_has_its_own_splits(tmp_path, monkeypatch):
    scipy_io = pytest.importorskip("scipy.io")
    from torchvision.datasets import SVHN

    for split, count in {"train": 30, "test": 20, "extra": 40}.items():
        labels = (np.arange(count) % 10 + 1).astype(np.uint8)[:, None]
        scipy_io.savemat(tmp_path / f"{split}_32x32.mat", {"X": NOISE.integers(0, 256, (32, 32, 3, count), dtype=np.uint8), "y": labels})
    monkeypatch.setattr(SVHN, "_check_integrity", lambda self: True)  # the real files' checksums
    data = load_data("torch/svhn", data_dir=str(tmp_path), dev_fraction=0)
    assert (data.in_chans, data.image_size, len(data.train), len(data.test)) == (3, (32, 32), 30, 20)
    assert data.class_names == [str(k) for k in range(10)] and data.train.labels[:3].tolist() == [1, 2, 3]
    assert len(load_data("torch/svhn", data_dir=str(tmp_path), train_split="extra", dev_fraction=0).train) == 40
    refused(KdError, "torch/svhn: Unknown value 'exta' for argument split", "torch/svhn", data_dir=str(tmp_path), train_split="exta")
    refused(KdError, "name one split twice", "torch/svhn", data_dir=str(tmp_path), train_split="test", test_split="test")
    held_back = load_data("torch/svhn", data_dir=str(tmp_path), val_split="test")
    assert (len(held_back.dev), held_back.test) == (20, None)


def write_dtd(root) -> None:
    for split, per_class in {"train": 3, "val": 2, "test": 1}.items():
        lines = []
        for name in ("banded", "woven"):
            (root / "dtd/dtd/images" / name).mkdir(parents=True, exist_ok=True)
            for i in range(per_class):
                (root / "dtd/dtd/images" / name / f"{split}_{i}.jpg").write_bytes(picture((20 + i, 16), kind="jpeg"))
                lines.append(f"{name}/{split}_{i}.jpg")
        (root / "dtd/dtd/labels").mkdir(parents=True, exist_ok=True)
        (root / "dtd/dtd/labels" / f"{split}1.txt").write_text("\n".join(lines))


def test_a_set_of_files_is_read_by_path(tmp_path):
    write_dtd(tmp_path)
    data = load_data("torch/dtd", data_dir=str(tmp_path))
    assert data.class_names == ["banded", "woven"] and data.train.paths is not None and data.image_size is None
    assert [len(split) for split in (data.train, data.dev, data.test)] == [6, 4, 2]
    assert len(next(Batches(data.train, PRE, batch_size=6).epoch(0))[0]) == 6
    grouped = load_data("torch/dtd", data_dir=str(tmp_path), group_by=r"\w+_\d")
    assert grouped.train.groups[0] == "train_0"
    swapped = load_data("torch/dtd", data_dir=str(tmp_path), train_split="val", dev_fraction=0)
    assert (len(swapped.train), swapped.dev, len(swapped.test)) == (4, None, 2)  # its own val split is not made to select on itself


def test_a_set_without_splits_and_names_of_caltech(tmp_path):
    pytest.importorskip("scipy.io")
    root = tmp_path / "caltech101" / "101_ObjectCategories"
    for name in ("BACKGROUND_Google", "ant", "bass"):
        (root / name).mkdir(parents=True)
        for i in range(1, 5):
            (root / name / f"image_{i:04d}.jpg").write_bytes(picture((70, 66 + i), kind="jpeg"))
    data = load_data("torch/caltech101", data_dir=str(tmp_path), dev_fraction=0.25)
    assert (data.class_names, data.test, len(data.train), len(data.dev)) == (["ant", "bass"], None, 6, 2)
    assert any("no test split in the data" in note for note in data.notes)
    assert data.train.items is not None and pickle.loads(pickle.dumps(data.train.items))[0].size[0] == 70
    one, two = (dict(_images(Batches(data.train, PRE, batch_size=2, workers=workers))) for workers in (0, 1))
    assert one.keys() == two.keys() and all(torch.equal(one[n], two[n]) for n in one)


def _images(batches):
    for images, _, numbers in batches.epoch(0):
        yield from zip(numbers.tolist(), images, strict=True)


def test_sets_that_are_not_there(tmp_path):
    where = f"not found in {tmp_path} (Dataset not found"
    refused(DataError, where, "torch/cifar100", data_dir=str(tmp_path))
    refused(DataError, "add --download to fetch it, or name its folder with --data-dir", "torch/flowers102", data_dir=str(tmp_path))
    refused(KdError, "no classification set 'cifar1000'; did you mean 'cifar100'?", "torch/cifar1000", data_dir=str(tmp_path))


def test_a_download_that_fails_is_one_line(tmp_path, monkeypatch):
    from urllib.error import URLError

    def fail(*_, **__):
        raise URLError("Name or service not known")

    monkeypatch.setattr("torchvision.datasets.cifar.CIFAR10.download", fail)
    refused(DataError, "it could not be downloaded; try again", "torch/cifar10", data_dir=str(tmp_path / "new"), download=True)


def test_every_set_of_the_table_is_torchvisions():
    import inspect

    from torchvision import datasets

    for name, (keyword, splits) in _SETS.items():
        arguments = inspect.signature(getattr(datasets, name).__init__).parameters
        assert keyword is None or keyword in arguments or "kwargs" in arguments, name
        assert "train" in splits and set(splits) <= {"train", "dev", "test"}


def test_splits_by_name():
    own = Wanted("hfds/x").splits_of(["test", "train", "validation", "unsupervised"])
    assert own == {"train": "train", "dev": "validation", "test": "test"}
    assert Wanted("hfds/x").splits_of(["train", "validation"]) == {"train": "train", "dev": "validation"}
    assert Wanted("hfds/x", train_split="big").splits_of(["train", "big", "validation", "test"]) == {"train": "big", "test": "test"}
    assert Wanted("hfds/x", val_split="test").splits_of(["train", "test"]) == {"train": "train", "dev": "test"}
    with pytest.raises(KdError, match=r"no split 'train' \(there is: all\); name one with --train-split"):
        Wanted("hfds/x").splits_of(["all"])
    with pytest.raises(KdError, match=r"has no split 'tain'; did you mean 'train'\?"):
        Wanted("hfds/x", train_split="tain").splits_of(["train"])


# The Hugging Face hub


@pytest.fixture
def hub_folder(tmp_path):
    pytest.importorskip("datasets")
    for split in ("train", "test"):
        for k, name in enumerate(("cat", "dog")):
            folder = tmp_path / "pets" / split / name
            folder.mkdir(parents=True)
            for i in range(3):
                (folder / f"{i}.png").write_bytes(picture((80 + i, 70), (100 * k, 10 * i, 0)))
    return tmp_path / "pets"


@pytest.mark.parametrize("prefix", ["hfds", "hfids"])
def test_a_folder_through_the_hub(prefix, hub_folder, tmp_path):
    data = load_data(f"{prefix}/{hub_folder}", data_dir=str(tmp_path / "cache"), dev_fraction=0)
    assert (data.class_names, len(data.train), len(data.test), data.train.paths) == (["cat", "dog"], 6, 6, None)
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1] and data.train.name_of(4).endswith("1.png")
    assert data.train.open(4).getpixel((0, 0)) == (100, 10, 0)
    assert any("read through once and are kept in memory" in note for note in data.notes) == (prefix == "hfids")
    there = pickle.loads(pickle.dumps(data.train.items))
    assert there[4].size == (81, 70)
    assert len(next(Batches(data.train, PRE, batch_size=6, workers=1).epoch(0))[0]) == 6
    refused(KdError, "--target-key lable: ", f"{prefix}/{hub_folder}", data_dir=str(tmp_path / "cache"), target_key="lable")


def test_a_bad_image_of_a_hub_is_never_replaced(hub_folder, tmp_path):
    (hub_folder / "train" / "dog" / "1.png").write_bytes(b"no image")
    options = {"data_dir": str(tmp_path / "cache"), "dev_fraction": 0}
    data = load_data(f"hfds/{hub_folder}", **options)
    with pytest.raises(DataError, match=r"dog.1\.png: not a readable image"):
        data.train.open(4)
    left = load_data(f"hfds/{hub_folder}", **options, skip_bad_images=True)
    assert left.train.labels.tolist() == [0, 0, 0, 1, 1] and len(left.bad) == 1
    assert left.train.open(4).getpixel((0, 0)) == (100, 20, 0)


def test_small_images_of_a_hub_become_arrays(tmp_path):
    datasets = pytest.importorskip("datasets")
    (tmp_path / "tiny").mkdir()
    features = datasets.Features({"img": datasets.Image(), "fine": datasets.Value("string"), "who": datasets.Value("string")})
    rows = {
        "img": [{"bytes": picture((9, 7), (i, 0, 0)), "path": None} for i in range(8)],
        "fine": ["b", "a"] * 4,
        "who": [f"p{i // 2}" for i in range(8)],
    }
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "tiny" / "train.parquet")
    spec, options = f"hfds/{tmp_path / 'tiny'}", {"data_dir": str(tmp_path / "cache"), "target_key": "fine"}
    data = load_data(spec, **options, group_by="who", dev_fraction=0.25)
    assert data.class_names == ["a", "b"] and data.train.images.shape == (6, 3, 7, 9) and data.image_size == (7, 9)
    assert not set(data.train.groups) & set(data.dev.groups) and data.test is None
    assert [int(image[0, 0, 0]) for image in load_data(spec, **options, dev_fraction=0).train.images] == list(range(8))
    refused(KdError, "has the columns img, fine, who; name the one to read with --target-key", spec, data_dir=options["data_dir"])


def test_a_hub_that_cannot_be_reached(monkeypatch):
    datasets = pytest.importorskip("datasets")

    def fail(*_, **__):
        raise ConnectionError("Couldn't reach 'nobody/nothing' on the Hub (OfflineModeIsEnabled)")

    monkeypatch.setattr(datasets, "get_dataset_split_names", fail)
    refused(DataError, "hfds/nobody/nothing: not found in the cache of the Hugging Face hub", "hfds/nobody/nothing")


def test_fer2013_whose_test_has_no_labels(tmp_path, monkeypatch):
    from torchvision.datasets import fer2013

    (tmp_path / "fer2013").mkdir()
    grey = " ".join(["7"] * 48 * 48)
    (tmp_path / "fer2013" / "train.csv").write_text("emotion,pixels\n" + "".join(f"{i % 7},{grey}\n" for i in range(14)))
    (tmp_path / "fer2013" / "test.csv").write_text(f"pixels\n{grey}\n")
    monkeypatch.setattr(fer2013, "check_integrity", lambda path, md5: path.endswith(("train.csv", "test.csv")))
    data = load_data("torch/fer2013", data_dir=str(tmp_path), dev_fraction=0)
    assert (data.num_classes, len(data.train), data.test) == (7, 14, None)
    assert "the test split has no labels and is left out" in data.notes


def test_a_hubs_row_is_read_once_and_without_its_other_pictures(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    (tmp_path / "set").mkdir()
    cells = [{"bytes": picture((90, 70)), "path": f"{i}.png"} for i in range(4)]
    masks = [{"bytes": b"broken", "path": None}] * 4
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64"), "mask": datasets.Image()})
    rows = {"image": cells, "label": [0, 1, 0, 1], "mask": masks}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "set" / "train.parquet")
    train = load_data(f"hfds/{tmp_path / 'set'}", data_dir=str(tmp_path / "cache"), dev_fraction=0).train
    read, plain = [], datasets.Dataset.__getitem__
    monkeypatch.setattr(datasets.Dataset, "__getitem__", lambda self, key: read.append(key) or plain(self, key))
    assert train.open(3).size == (90, 70) and read == [3]
    assert train.name_of(2) == "2.png"


def test_a_row_without_a_group_is_a_group_of_its_own(tmp_path):
    datasets = pytest.importorskip("datasets")
    (tmp_path / "set").mkdir()
    for split in ("train", "test"):
        rows = {"image": [{"bytes": picture((90, 70)), "path": None}] * 4, "label": [0, 1, 0, 1]}
        rows["who"] = [None, f"a {split}", None, f"b {split}"]
        features = {"image": datasets.Image(), "label": datasets.Value("int64"), "who": datasets.Value("string")}
        datasets.Dataset.from_dict(rows, features=datasets.Features(features)).to_parquet(tmp_path / "set" / f"{split}.parquet")
    data = load_data(f"hfds/{tmp_path / 'set'}", data_dir=str(tmp_path / "cache"), group_by="who", dev_fraction=0)
    assert data.train.groups == ["train, item 0", "a train", "train, item 2", "b train"] and len(set(data.test.groups)) == 4


def test_a_contests_test_split_without_labels_is_left_out(tmp_path):
    datasets = pytest.importorskip("datasets")
    (tmp_path / "contest").mkdir()
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["no", "yes"])})
    for split, labels in {"train": [0, 1, 0, 1], "test": [-1, -1]}.items():
        rows = {"image": [{"bytes": picture((9, 7)), "path": None} for _ in labels], "label": labels}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "contest" / f"{split}.parquet")
    data = load_data(f"hfds/{tmp_path / 'contest'}", data_dir=str(tmp_path / "cache"))
    assert data.test is None and "the test split has no labels and is left out" in data.notes


def test_inaturalist_by_its_index(tmp_path):
    for name in ("00000_Animalia_b_c_d_e_f_g", "00001_Plantae_b_c_d_e_f_g"):
        (tmp_path / "2021_train" / name).mkdir(parents=True)
        (tmp_path / "2021_valid" / name).mkdir(parents=True)
        for i in range(3):
            (tmp_path / "2021_train" / name / f"{i}.jpg").write_bytes(picture(kind="jpeg"))
            (tmp_path / "2021_valid" / name / f"{i}.jpg").write_bytes(picture(kind="jpeg"))
    data = load_data("torch/inaturalist", data_dir=str(tmp_path))
    assert data.class_names == ["00000_Animalia_b_c_d_e_f_g", "00001_Plantae_b_c_d_e_f_g"] and data.test is None
    assert data.train.labels.tolist() == data.dev.labels.tolist() == [0, 0, 0, 1, 1, 1] and data.train.open(5).size == (10, 8)


@pytest.mark.parametrize(
    ("spec", "module", "line"),
    [
        ("hfds/x", "datasets", "pip install 'kdcore[hub]'"),
        ("wds/x", "webdataset", "pip install 'kdcore[webdataset]'"),
        ("tfds/x", "tensorflow_datasets", "pip install tensorflow-datasets"),
    ],
)
def test_packages_that_are_not_there(spec, module, line, monkeypatch):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == module else find(name, *rest))
    refused(KdError, line, spec)


# webdataset


def write_tar(path, labels: list, size=(80, 60), first: int = 0, **more) -> None:
    with tarfile.open(path, "w") as tar:
        for i, label in enumerate(labels, first):
            files = {"png": picture(size, (i, 0, 0)), "json": json.dumps({"kind": str(label)}).encode()}
            if label is not None:
                files["cls"] = str(label).encode()
            for ending, content in (files | more).items():
                member = tarfile.TarInfo(f"{i:04}.{ending}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def test_tar_files_by_their_names(tmp_path):
    pytest.importorskip("webdataset")
    write_tar(tmp_path / "set-train-000.tar", [0, 1, 0])
    write_tar(tmp_path / "set-train-001.tar", [1, 10], first=3)
    write_tar(tmp_path / "set-val-000.tar", [0, 1], first=9)
    data = load_data("wds/set", data_dir=str(tmp_path))
    assert (data.class_names, data.train.labels.tolist(), len(data.dev), data.test) == (["0", "1", "10"], [0, 1, 0, 1, 2], 2, None)
    assert data.train.name_of(3) == "0003" and data.train.open(3).getpixel((5, 5)) == (3, 0, 0)
    assert any("7 images were read through once and are kept in memory" in note for note in data.notes)
    named = load_data(f"wds/{tmp_path}", train_split="set-train-{000..001}.tar", target_key="kind", dev_fraction=0)
    assert named.train.labels.tolist() == [0, 1, 0, 1, 2] and named.dev is None


def test_files_of_no_sample_are_passed_over(tmp_path):
    pytest.importorskip("webdataset")
    write_tar(tmp_path / "train.tar", [0, 1])
    with tarfile.open(tmp_path / "train.tar", "a") as tar:
        for name in ("._0000.png", "LICENSE", "sub/.DS_Store"):
            tar.addfile(tarfile.TarInfo(name))
    assert len(load_data("wds/set", data_dir=str(tmp_path), dev_fraction=0).train) == 2
    write_tar(tmp_path / "train.tar", [None, None], json=b"[1]")
    refused(DataError, "the .json of sample 0000 has no fields", "wds/set", data_dir=str(tmp_path))


def test_tar_files_as_timm_describes_them(tmp_path):
    pytest.importorskip("webdataset")
    write_tar(tmp_path / "a.tar", ["cow", "owl"])
    write_tar(tmp_path / "b.tar", ["owl", "cow"], size=(8, 8))
    about = {
        name: {"name": name, "num_samples": 2, "filenames": [file], "shard_lengths": [2]}
        for name, file in {"train": "a.tar", "test": "b.tar"}.items()
    }
    (tmp_path / "_info.json").write_text(json.dumps({"splits": about}))
    data = load_data("wds/birds", data_dir=str(tmp_path), dev_fraction=0)
    assert (data.class_names, data.train.labels.tolist(), len(data.test)) == (["cow", "owl"], [0, 1], 2)


def test_bad_tar_files(tmp_path):
    pytest.importorskip("webdataset")
    refused(DataError, "no folder /nowhere; name the folder of the tar files with --data-dir", "wds/x", data_dir="/nowhere")
    refused(KdError, "has no split 'train' (there is: none)", "wds/x", data_dir=str(tmp_path))
    write_tar(tmp_path / "train.tar", [0, None, 1])
    refused(DataError, "sample 0001 has no label 'cls' (it has: png, json, kind)", "wds/x", data_dir=str(tmp_path))
    write_tar(tmp_path / "train.tar", [0, -1, 1])
    refused(DataError, "train, item 1: the label is -1", "wds/x", data_dir=str(tmp_path))
    refused(DataError, "sample 0000 has no image (it has: png, json, cls)", "wds/x", data_dir=str(tmp_path), input_key="jpg")
    (tmp_path / "train.tar").write_bytes((tmp_path / "train.tar").read_bytes()[:700])
    refused(DataError, "wds/x: cannot read", "wds/x", data_dir=str(tmp_path))

"""Where images come from: tables, folders with a practitioner's litter in them, and groups that stay on one side of a split."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from kdcore.config import read_config
from kdcore.data import load_data
from kdcore.data.groups import whole_groups
from kdcore.data.sources import without_settings_of_another
from kdcore.errors import DataError, FileError, KdError
from kdcore.run_data import load_config_data


def photos(root, names: list[str]):
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 5), (i % 256, 0, 0)).save(root / name)
    return root


def table(root, text: str, name: str = "table.csv", images: int = 8) -> str:
    """A table with {0}, {1}, ... for the paths of images that are there."""
    names = [f"img/{i}.png" for i in range(images)]
    photos(root, names)
    (root / name).write_text(text.format(*names), encoding="utf-8")
    return str(root / name)


def refused(kind: type[KdError], part: str, spec: str, **options) -> None:
    with pytest.raises(kind) as raised:
        load_data(spec, **options)
    assert type(raised.value) is kind and part in str(raised.value) and "\n" not in str(raised.value)


ROWS = "path,label\n{0},dog\n{1},cat\n{2},dog\n{3},cat\n"


# Tables


def test_a_table_of_names(tmp_path):
    data = load_data(table(tmp_path, ROWS), dev_fraction=0)
    assert (data.name, data.class_names, data.in_chans, data.image_size) == ("table", ["cat", "dog"], 3, (5, 6))
    assert data.train.labels.tolist() == [1, 0, 1, 0] and data.train.groups is None
    assert data.train.paths == [os.path.join(tmp_path, "img", f"{i}.png") for i in range(4)]
    assert data.notes == ["no test split in the table, and none is made up: results are on dev only"]


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffFilename;Class\n{0};10\n{1};9\n\n{2};10\n",
        "image\tcategory\n{0}\t10\n{1}\t9\n{2}\t10\n",
        'target,file\n"10","{0}"\n9.0,"{1}"\n 10 ,"{2}"\n',
    ],
)
def test_headers_separators_and_whole_numbers(text, tmp_path):
    data = load_data(table(tmp_path, text), dev_fraction=0)
    assert data.class_names == ["9", "10"] and data.train.labels.tolist() == [1, 0, 1]


def test_splits_of_a_table(tmp_path):
    text = "path,label,split\n{0},a,train\n{1},b,Training\n{2},a,VAL\n{3},b,valid\n{4},a,test\n{5},b,test\n"
    data = load_data(table(tmp_path, text))
    assert [len(split) for split in (data.train, data.dev, data.test)] == [2, 2, 2] and data.notes == []
    no_test = load_data(table(tmp_path, text.replace("test", "dev")))
    assert no_test.test is None and len(no_test.dev) == 4
    own = load_data(table(tmp_path, text.replace("VAL", "monday").replace("valid", "monday")), val_split="monday")
    assert len(own.dev) == 2


def test_splits_by_request(tmp_path):
    """As in named sets, no split serves twice: none is added to another, and test rows are never trained on beside others."""
    text = "path,label,split\n{0},a,train\n{1},b,Training\n{2},a,val\n{3},b,val\n{4},a,test\n{5},b,test\n"
    path = table(tmp_path, text)

    def names(**options) -> list[list[str]]:
        data = load_data(path, dev_fraction=0, **options)
        return [[os.path.basename(each)[0] for each in split.paths] if split else [] for split in (data.train, data.dev, data.test)]

    assert names(val_split="test") == [["0", "1"], ["4", "5"], []]
    assert names(test_split="val") == [["0", "1"], [], ["2", "3"]]
    assert names(train_split="test") == [["4", "5"], [], []]
    assert names(train_split="val", val_split="test", test_split="train") == [["2", "3"], ["4", "5"], ["0"]]
    left_out = "2 of 6 rows are of splits that were not asked for, and are left out"
    assert left_out in load_data(path, val_split="test").notes
    refused(KdError, "has no split 'vall'; did you mean 'val'?", path, val_split="vall")
    refused(KdError, "name one split twice", path, val_split="test", test_split="test")
    refused(KdError, "--val-split val: ", table(tmp_path / "no_column", ROWS), val_split="val")
    other = text.replace("{2},a,val", "{2},c,val").replace("{3},b,val", "gone.png,d,val")
    assert load_data(table(tmp_path, other, "other.csv"), val_split="test").class_names == ["a", "b"]  # rows left out say nothing


def test_columns_by_request(tmp_path):
    path = table(tmp_path, "photo,path,kind\n{0},x,a\n{1},x,b\n")
    assert load_data(path, input_key="photo", target_key="kind", dev_fraction=0).class_names == ["a", "b"]
    refused(KdError, "--target-key kin: ", path, input_key="photo", target_key="kin")
    refused(DataError, "no column is called label, class, target or category (there is: photo, path, kind); name it with", path)


def test_paths_start_at_the_table_or_where_one_says(tmp_path):
    photos(tmp_path / "elsewhere", ["0.png", "1.png"])
    (tmp_path / "t.csv").write_text(f"path,label\n0.png,a\n{tmp_path / 'elsewhere' / '1.png'},b\n")
    assert len(load_data(str(tmp_path / "t.csv"), data_dir=str(tmp_path / "elsewhere"), dev_fraction=0).train) == 2
    refused(DataError, "line 2: the file is missing: ", str(tmp_path / "t.csv"))
    if os.sep == "/":
        photos(tmp_path, ["cat/0.png", "cat/1.png"])
        (tmp_path / "t.csv").write_text("path,label\ncat\\0.png,a\ncat\\1.png,b\n")
        assert load_data(str(tmp_path / "t.csv"), dev_fraction=0).train.paths[0] == str(tmp_path / "cat/0.png")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("path,label\n{0},1\n{1},-1\n", "table.csv, line 3: the label is -1"),
        ("path,label\n{0},a\n\n{1},\n", "table.csv, line 4: the label is missing"),
        ("path,label\n{0},a\n,b\n", "table.csv, line 3: the path is missing"),
        ("path,label\n{0},a\n{1}\n", "table.csv, line 3: 1 cells, but the header has 2"),
        ("path,label\n{0},a\nimg/x.png,b\nimg/y.png,b\n", "table.csv, line 3: the first of 2 files that are missing: "),
        ("path,label,split\n{0},a,train\n{1},b,trian\n", "table.csv, line 3: the split is 'trian'; did you mean 'train'?"),
        ("path,label,split\n{0},a,train\n{1},b,\n", "table.csv, line 3: the split is missing"),
        ("path,label,split\n{0},a,test\n{1},b,test\n", "no row is of the split 'train'"),
        ("path,label,split\n{0},a,train\n{1},b,train\n{2},c,test\n", "class 'c' has no training image, but 1 in test ("),
        ("path,label\n{0},a\n{1},a\n", "there is one class only ('a')"),
        ("path,label\n", "the table has no rows"),
        ("", "the table has no rows"),
        ("path,path,label\n{0},{0},a\n", "two columns are called 'path'"),
    ],
)
def test_bad_tables(text, part, tmp_path):
    refused(DataError, part, table(tmp_path, text))


def test_a_table_that_is_none(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"\xff\xfe\x00path,label\n")
    refused(DataError, "not a table in UTF-8", str(tmp_path / "t.csv"))
    (tmp_path / "t.parquet").write_bytes(b"PAR1 nonsense")
    pytest.importorskip("pyarrow")
    refused(DataError, "not a Parquet file, or cut short", str(tmp_path / "t.parquet"))


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    photos(tmp_path, ["0.png", "1.png", "2.png"])

    def write(**columns) -> str:
        parquet.write_table(pyarrow.table({"path": ["0.png", "1.png", "2.png"], **columns}), tmp_path / "t.parquet")
        return str(tmp_path / "t.parquet")

    data = load_data(write(label=[3, 20, 3], split=["train", "train", "test"]), dev_fraction=0)
    assert data.class_names == ["3", "20"] and data.train.labels.tolist() == [0, 1] and len(data.test) == 1
    assert load_data(write(label=["b", "a", "b"]), dev_fraction=0).class_names == ["a", "b"]
    assert load_data(write(label=[1.0, 0.0, 1.0]), dev_fraction=0).class_names == ["0", "1"]
    refused(DataError, "t.parquet, row 2: the label is missing", write(label=[1, None, 0]))
    refused(DataError, "t.parquet, row 3: the label is 0.5", write(label=[1.0, 0.0, 0.5]))
    refused(DataError, "t.parquet, row 1: the label is -2", write(label=[-2, 0, 1]))


def test_parquet_with_a_column_twice(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_arrays([pyarrow.array(["a"])] * 3, names=["path", "label", "label"]), tmp_path / "t.parquet")
    refused(DataError, "t.parquet: two columns are called 'label'", str(tmp_path / "t.parquet"))


def test_parquet_without_pyarrow(tmp_path, monkeypatch):
    import sys

    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    refused(KdError, "pip install 'kdcore[parquet]'", str(tmp_path / "t.parquet"))


def test_missing_files_may_be_left_out(tmp_path):
    path = table(tmp_path, ROWS + "img/x.png,cat\n")
    data = load_data(path, skip_bad_images=True, dev_fraction=0)
    assert len(data.train) == 4 and len(data.bad) == 1 and "x.png: the image is gone" in data.bad[0]


def test_one_file_in_two_rows_is_noted(tmp_path):
    assert any("1 rows name a file" in note for note in load_data(table(tmp_path, ROWS + "{0},dog\n"), dev_fraction=0).notes)


def test_a_class_with_one_image_stays_in_train(tmp_path):
    rows = "path,label\n" + "".join(f"{{{i}}},a\n" for i in range(7)) + "{7},rare\n"
    data = load_data(table(tmp_path, rows), dev_fraction=0.3)
    assert data.train.labels.tolist().count(1) == 1 and 1 not in data.dev.labels
    assert "1 class has a single training image, which stays in train: 'rare'" in data.notes


# Folders


def test_litter_is_passed_over_without_a_word(tmp_path):
    photos(tmp_path, [f"{name}/{i}.png" for name in ("cat", "dog") for i in range(2)])
    for litter in (
        "cat/Thumbs.db",
        "cat/desktop.ini",
        "dog/.DS_Store",
        "dog/._0.png",
        ".DS_Store",
        "cat/__MACOSX/0.png",
        "__MACOSX/cat/0.png",
    ):
        (tmp_path / litter).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / litter).write_bytes(b"x")
    data = load_data(str(tmp_path), dev_fraction=0)
    assert len(data.train) == 4 and data.class_names == ["cat", "dog"] and len(data.notes) == 1


@pytest.mark.parametrize("name", ["val", "validation"])
def test_a_val_folder_without_test_is_dev(name, tmp_path):
    photos(tmp_path, [f"{split}/{label}/{i}.png" for split in ("train", name) for label in "ab" for i in range(3)])
    data = load_data(str(tmp_path))
    assert (len(data.train), len(data.dev), data.test) == (6, 6, None)


@pytest.mark.parametrize("words", [("Training", "Testing"), ("TRAIN", "Test"), ("train", "test")])
def test_splits_in_other_words_are_no_classes(words, tmp_path):
    photos(tmp_path, [f"{split}/{label}/{i}.png" for split in words for label in "ab" for i in range(3)])
    data = load_data(str(tmp_path), dev_fraction=0)
    assert (data.class_names, len(data.train), len(data.test)) == (["a", "b"], 6, 6)


def test_options_that_mean_nothing_are_refused(tmp_path):
    photos(tmp_path, ["a/0.png", "b/0.png"])
    for spec, options in {
        "digits": {"train_split": "train"},
        str(tmp_path): {"target_key": "label"},
        table(tmp_path / "t", ROWS): {"download": True},
    }.items():
        refused(KdError, f"--{next(iter(options)).replace('_', '-')} means nothing for ", spec, **options)


# Groups


def bursts(root, sizes: dict[str, int], classes: str = "ab"):
    return photos(root, [f"{label}/{burst}_{i:03}.png" for label in classes for burst, count in sizes.items() for i in range(count)])


def group_names(split, pattern: str = "_") -> set[str]:
    return {os.path.basename(path).split(pattern)[0] for path in split.paths}


def test_groups_by_a_pattern_stay_together(tmp_path):
    bursts(tmp_path, {f"p{i}": 1 + i % 4 for i in range(24)})
    found = set()
    for seed in range(4):
        data = load_data(str(tmp_path), group_by=r"(p\d+)_", dev_fraction=0.2, seed=seed)
        again = load_data(str(tmp_path), group_by=r"(p\d+)_", dev_fraction=0.2, seed=seed)
        assert data.dev.paths == again.dev.paths and not group_names(data.dev) & group_names(data.train)
        whole = len(data.train) + len(data.dev)
        assert abs(len(data.dev) / whole - 0.2) < 0.03
        assert abs(torch.bincount(data.dev.labels).double() / len(data.dev) - 0.5).max() < 0.05
        found.add(tuple(data.dev.paths))
    assert len(found) == 4
    assert "groups: 120 images in 24 groups, none on two sides of a split" in data.notes
    few = load_data(str(tmp_path), group_by=r"(p\d+)_", dev_fraction=0.2, labels_per_class=10)
    assert torch.bincount(few.train.labels).tolist() == [10, 10] and not group_names(few.train) & group_names(few.dev)


def test_the_hold_out_is_the_same_wherever_the_table_lies(tmp_path, monkeypatch):
    path = table(tmp_path, "path,label,who\n" + "".join(f"{{{i}}},{'ab'[i % 2]},{['', '/a'][i // 4]}\n" for i in range(8)))
    monkeypatch.chdir(tmp_path / "img")
    here, there = (load_data(spec, group_by="who", dev_fraction=0.2).dev for spec in (path, "../table.csv"))
    assert here.groups == there.groups and [os.path.basename(each) for each in here.paths] == [
        os.path.basename(each) for each in there.paths
    ]


def test_the_group_is_the_first_parenthesis_or_the_match(tmp_path):
    photos(tmp_path, ["a/x1_y1.png", "a/x1_y2.png", "b/x2_y1.png", "b/x2_y2.png", "b/y.png"])
    groups = {}
    for pattern in (r"x\d", r"x(\d)_", r"(?:x)(\d)|zzz", r"^[^/]+"):
        data = load_data(str(tmp_path), group_by=pattern, dev_fraction=0)
        groups[pattern] = data.train.groups
    assert groups[r"x\d"] == ["x1", "x1", "x2", "x2", "b/y.png"]
    assert groups[r"x(\d)_"] == groups[r"(?:x)(\d)|zzz"] == ["1", "1", "2", "2", "b/y.png"]
    assert groups[r"^[^/]+"] == ["a", "a", "b", "b", "b"]
    data = load_data(str(tmp_path), group_by=r"x\d", dev_fraction=0)
    assert any("1 of 5 paths do not match" in note for note in data.notes)


def test_bad_group_patterns(tmp_path):
    photos(tmp_path, [f"{label}/{i}.png" for label in "ab" for i in range(3)])
    refused(KdError, "--group-by '(' is no regular expression", str(tmp_path), group_by="(")
    refused(
        DataError,
        "--group-by 'patient' matches none of 6 paths, the first of which is 'a/0.png'; a folder has no columns",
        str(tmp_path),
        group_by="patient",
    )
    refused(DataError, "are one group ('png')", str(tmp_path), group_by="png")
    refused(DataError, "holds arrays, without paths or columns", "digits", group_by="x")
    csv = table(tmp_path / "t", "path,label,who\n{0},a,x\n{1},b,y\n")
    refused(DataError, "no column has this name (there is: path, label, who)", csv, group_by="patient")


def test_groups_of_a_table(tmp_path):
    rows = "path,label,group,cow\n" + "".join(f"{{{i}}},{'ab'[i % 2]},g{i // 2},c{i // 4}\n" for i in range(8))
    path = table(tmp_path, rows)
    assert load_data(path, dev_fraction=0).train.groups == ["g0", "g0", "g1", "g1", "g2", "g2", "g3", "g3"]
    assert load_data(path, dev_fraction=0, group_by="cow").train.groups == ["c0"] * 4 + ["c1"] * 4
    assert load_data(path, dev_fraction=0, group_by=r"(\d)\.").train.groups == [str(i) for i in range(8)]
    data = load_data(path, dev_fraction=0.25)
    assert len(data.dev) == 2 and not set(data.dev.groups) & set(data.train.groups)
    some = load_data(table(tmp_path, rows.replace("g0", "")), dev_fraction=0)
    assert some.train.groups[:3] == ["img/0.png", "img/1.png", "g1"]


def test_groups_that_straddle_given_splits_are_refused(tmp_path):
    for split, names in {"train": ["p1_0", "p2_0", "p3_0"], "test": ["p4_0", "p2_1"]}.items():
        photos(tmp_path, [f"{split}/{label}/{name}.png" for label in "ab" for name in names])
    where = rf"group 'p2' is in train ({tmp_path / 'train/a/p2_0.png'}) and in test ({tmp_path / 'test/a/p2_1.png'})"
    refused(DataError, where, str(tmp_path), group_by=r"(p\d)_")
    text = "path,label,split,group\n{0},a,train,x\n{1},b,train,y\n{2},a,val,x\n{3},b,val,z\n"
    refused(DataError, "group 'x' is in train", table(tmp_path / "t", text))


def test_whole_groups():
    labels = torch.arange(200) % 4
    singles = whole_groups(labels, [str(i) for i in range(200)], 0.1, seed=1)
    assert torch.bincount(labels[singles]).tolist() == [5] * 4
    halves = ["a"] * 100 + ["b"] * 100
    assert len(whole_groups(labels, halves, 0.1, seed=1)) == 100  # too large, yet better than no dev split
    torn = ["a"] * 100 + ["b"] * 100
    assert not len(whole_groups(torch.tensor([0] * 100 + [1] * 100), torn, 0.1, seed=1))  # either would take a whole class away
    many = torch.arange(90) % 30  # three images a class, of which a tenth is none: the share of the whole is kept all the same
    assert len(whole_groups(many, [str(i) for i in range(90)], 0.1, seed=1)) == 9
    rare = torch.tensor([0] * 50 + [1])
    assert 50 not in whole_groups(rare, [str(i // 2) for i in range(51)], 0.5, seed=0)


def test_no_dev_split_from_groups_is_said_aloud(tmp_path):
    photos(tmp_path, [f"{label}/{i}.png" for label in "ab" for i in range(4)])
    data = load_data(str(tmp_path), group_by=r"^[ab]")
    assert data.dev is None and "no dev split: every group holds the last training images of a class" in data.notes


# Through the settings


def test_settings_reach_the_data(tmp_path):
    path = table(
        tmp_path, "photo,kind,who,part\n" + "".join(f"{{{i}}},{'ab'[i % 2]},p{i // 2},x\n" for i in range(8)) + "img/none.png,a,p9,x\n"
    )
    config = read_config(
        {"model": "resnet18", "data": path, "input_key": "photo", "target_key": "kind", "group_by": "who", "skip_bad_images": True}
    )
    data = load_config_data(config)
    assert data.class_names == ["a", "b"] and len(data.bad) == 1 and len(data.train) + len(data.dev) == 8
    assert len(set(data.train.groups)) + len(set(data.dev.groups)) == 4


def test_another_set_drops_what_it_cannot_have(tmp_path):
    photos(tmp_path / "f", ["a/0.png", "b/0.png"])
    folder, listed = without_settings_of_another(str(tmp_path / "f")), without_settings_of_another(table(tmp_path / "t", ROWS))
    settings = {"target_key": "kind", "data_dir": "x", "train_split": "extra", "group_by": "who", "download": False}
    assert len(load_data(str(tmp_path / "f"), **settings | folder).train) == 2
    assert listed == {"train_split": None, "val_split": None, "test_split": None, "group_by": None}


def test_optional_packages_are_imported_where_they_are_needed():
    import ast
    from pathlib import Path

    import kdcore.data

    for file in Path(kdcore.data.__file__).parent.glob("*.py"):
        imports = [node for node in ast.parse(file.read_text(encoding="utf-8")).body if isinstance(node, ast.Import | ast.ImportFrom)]
        names = {alias.name for node in imports for alias in node.names} | {
            node.module for node in imports if isinstance(node, ast.ImportFrom)
        }
        roots = {name.split(".")[0] for name in names if name}
        assert not roots & {"datasets", "pyarrow", "webdataset", "pillow_heif", "scipy", "timm", "sklearn"}, file


def test_a_table_that_may_not_be_read(tmp_path, monkeypatch):
    path = table(tmp_path, ROWS)

    def deny(*_, **__):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("pathlib.Path.open", deny)
    refused(FileError, f"cannot read {path}: Permission denied", path)


def test_grey_arrays_stay_grey(tmp_path):
    np.savez(tmp_path / "x.npz", train_images=np.zeros((4, 8, 8), np.uint8), train_labels=np.arange(4) % 2, classes=np.array(["no", "yes"]))
    assert load_data(str(tmp_path / "x.npz")).class_names == ["no", "yes"]

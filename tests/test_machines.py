"""What Windows, macOS and Apple's MPS need, as far as it can be seen from here: encodings, names of files, spawned workers, no float64."""

import ast
import json
import pickle
import re
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import kdcore
from kdcore import runs
from kdcore.config import read_config
from kdcore.data import Augmentation, Batches, Preprocessing, load_data

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted(
    path
    for folder in ("kdcore", "cli/kdcli", "docs/tools", *(str(p.relative_to(ROOT)) for p in ROOT.glob("plugins/*/kdcore_*")))
    for path in (ROOT / folder).rglob("*.py")
)
SOURCES.append(ROOT / "plugins/directory.py")


def text_files(tree):
    """Calls that open a file as text: (line, name of the call, mode, keywords)."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        keywords = {keyword.arg: keyword.value for keyword in node.keywords}
        if isinstance(node.func, ast.Name) and node.func.id == "open":
            name, given = "open", node.args[1:2]
        elif isinstance(node.func, ast.Attribute) and node.func.attr in ("read_text", "write_text"):
            name, given = node.func.attr, []
        elif isinstance(node.func, ast.Attribute) and node.func.attr == "open" and is_path(node):
            name, given = "open", node.args[:1]
        else:
            continue
        mode = next((argument.value for argument in [*given, keywords.get("mode")] if isinstance(argument, ast.Constant)), "r")
        if "b" not in mode:
            yield node.lineno, name, mode, set(keywords)


def is_path(call):
    """Whether `x.open(...)` opens a file: it has a mode, or x is called path or file."""
    mode = call.args[0].value if call.args and isinstance(call.args[0], ast.Constant) else ""
    return bool(re.fullmatch(r"[rwaxbt+]+", str(mode))) or bool(re.search(r"(^|[._])(path|file)$", ast.unparse(call.func.value)))


def complaints(source):
    for line, name, mode, keywords in text_files(ast.parse(source)):
        if "encoding" not in keywords:
            yield f"{line}: {name} names no encoding"
        if (name == "write_text" or set(mode) & set("wax")) and "newline" not in keywords:
            yield f"{line}: {name} names no newline"


def test_text_has_an_encoding_and_its_own_newlines():
    assert SOURCES
    texts = {path.relative_to(ROOT): path.read_text(encoding="utf-8") for path in SOURCES}
    assert [f"{path}:{complaint}" for path, text in texts.items() for complaint in complaints(text)] == []


@pytest.mark.parametrize(
    "source",
    [
        "open(p)",
        "open(p, 'w', encoding='utf-8')",
        "p.read_text()",
        "path.open()",
        "x.open('a', encoding='utf-8')",
        "p.write_text(t, encoding='utf-8')",
    ],
)
def test_text_without_them_is_found(source):
    assert list(complaints(source))


@pytest.mark.parametrize(
    "source", ["open(p, 'rb')", "open(p, mode='wb')", "Image.open(p)", "Run.open(path)", "p.read_text(encoding='utf-8')"]
)
def test_other_files_are_no_offence(source):
    assert not list(complaints(source))


OTHERWISE_THERE = {(Path("kdcore/tuning/plan.py"), "fcntl")}
"""Asked for within a `try`, with another way for a system that lacks it."""

UNIX = {
    "fcntl",
    "pwd",
    "grp",
    "resource",
    "termios",
    "os.fork",
    "os.getuid",
    "os.geteuid",
    "os.uname",
    "os.mkfifo",
    "os.kill",
    "signal.SIGKILL",
}


def names_in(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names))
        elif isinstance(node, ast.Attribute):
            yield ast.unparse(node)


def test_nothing_of_unix_alone():
    trees = {path.relative_to(ROOT): ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES}
    assert [
        f"{path}: {name}" for path, tree in trees.items() for name in names_in(tree) if name in UNIX and (path, name) not in OTHERWISE_THERE
    ] == []
    assert set(names_in(ast.parse("from os import fork\nimport pwd\nsignal.SIGKILL"))) >= {"os.fork", "pwd", "signal.SIGKILL"}


def test_the_cpu_has_a_name_without_proc(monkeypatch):
    def gone(*args, **more):
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", gone)
    monkeypatch.setattr(runs.platform, "processor", lambda: "")
    monkeypatch.setattr(runs.platform, "machine", lambda: "arm64")
    assert runs.environment([])["cpu"] == "arm64"


# -- names of files -----------------------------------------------------------------------------------------------------------
FORBIDDEN = re.compile(r'[<>:"|?*\\\x00-\x1f]|[. ]$|^(con|prn|aux|nul|com\d|lpt\d)(\.|$)', re.IGNORECASE)


def test_a_run_has_names_and_paths_for_any_system(tmp_path, monkeypatch):
    """Nothing in it is called what Windows forbids, and what it says of itself is relative, with slashes."""
    monkeypatch.chdir(tmp_path)
    settings = {"img_size": 16, "train_limit": 32, "epochs": 1, "amp": "none", "channels_last": False, "device": "cpu"}
    path = kdcore.train("test_resnet_32px", "digits", method="deep-supervision", **settings).run.path
    names = [part for file in path.rglob("*") for part in file.relative_to(path).parts]
    assert names and not [name for name in names if FORBIDDEN.search(name)]
    for file in path.rglob("*.json*"):
        assert b"\r" not in file.read_bytes()
    stored = json.loads((path / "results.json").read_text(encoding="utf-8"))["checkpoints"].values()
    assert all((path / f"{name}.safetensors").is_file() and "\\" not in name for name in stored)


@pytest.mark.parametrize("stem", ["hf-hub:timm/resnet18.a1_in1k-byot", "local-dir:C:/Users/me/runs/one/timm-kd", "cifar/resnet20-plain"])
def test_runs_are_numbered_under_names_for_any_system(stem, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = runs.Run.create(None, stem=stem).path.name
    assert name.endswith("-1") and not FORBIDDEN.search(name)


def test_settings_hold_whole_paths_with_slashes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("photos", "digits", "model"):
        (tmp_path / name).mkdir()
    config = read_config({"model": "local-dir:model", "data": "photos", "data_dir": "later", "teacher": "resnet18"})
    whole = tmp_path.resolve().as_posix()
    assert (config.model, config.data, config.data_dir) == (f"local-dir:{whole}/model", f"{whole}/photos", f"{whole}/later")
    assert config.teacher == "resnet18" and read_config({"model": "m", "data": "digits"}).data == "digits"


# -- spawned workers --------------------------------------------------------------------------------------------------------
def test_what_workers_are_given_survives_pickling(tmp_path):
    """Windows and macOS start workers afresh: what they get is pickled. (`test_predict` starts one in earnest.)"""
    from PIL import Image

    for split in ("train", "test"):
        for name in ("a", "b"):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for n in range(3):
                Image.new("RGB", (20 + n, 18), (40 * n, 9, 200)).save(folder / f"{n}.png")
    split = load_data(str(tmp_path)).train
    strong = Augmentation(scale=(0.5, 1.0), hflip=0.5, auto_augment="rand-m9-mstd0.5", reprob=0.5)
    batches = Batches(split, Preprocessing((16, 16), (0.5,) * 3, (0.5,) * 3), batch_size=2, augmentation=strong, seed=1)
    loader = batches._source._loader
    again = pickle.loads(pickle.dumps(loader.dataset))
    assert again[0, 1][0].equal(loader.dataset[0, 1][0])
    assert pickle.loads(pickle.dumps(loader.collate_fn)) is loader.collate_fn


# -- MPS ----------------------------------------------------------------------------------------------------------------------
class NoDouble(TorchDispatchMode):
    """Refuses float64 as Apple's MPS does."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        answer = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(answer):
            if isinstance(tensor, torch.Tensor) and tensor.dtype == torch.float64:
                raise TypeError(f"{function} makes float64, which MPS has not")
        return answer


def test_float64_is_noticed():
    with pytest.raises(TypeError, match="which MPS has not"), NoDouble():
        torch.zeros(2).double()


@pytest.mark.parametrize("method", ["plain", "deep-supervision", "byot"])
def test_a_step_computes_nothing_in_float64(method):
    task = kdcore.compose("test_resnet_32px", method, num_classes=3, image_size=16).task()
    task.train()
    with NoDouble():
        task(torch.rand(4, 3, 16, 16), torch.tensor([0, 1, 2, 0]), torch.arange(4))["loss"].backward()


def test_batches_on_the_device_have_no_float64():
    digits = load_data("digits").train
    batches = Batches(
        digits,
        Preprocessing((8, 8), (0.3,), (0.3,), in_chans=1),
        batch_size=8,
        augmentation=Augmentation(crop_pad=1, hflip=0.5, rotation=20, cutout=2, reprob=0.5),
        shuffle=True,
    )
    with NoDouble():
        next(batches.epoch(0))

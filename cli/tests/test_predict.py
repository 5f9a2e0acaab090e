"""`kd predict`: results alone on stdout, all else on stderr, and an exit status that says whether some image was bad."""

import csv
import io
import json
import shutil
import time

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on digits with four exits, and four of its pictures as files."""
    import kdcore

    root = tmp_path_factory.mktemp("predict")
    settings = {"img_size": 16, "train_limit": 64, "epochs": 1, "amp": "none", "channels_last": False, "device": "cpu"}
    kdcore.train("test_resnet_32px", "digits", method="deep-supervision", run=root / "run", **settings)
    from sklearn.datasets import load_digits

    (root / "new").mkdir()
    for number, image in enumerate(load_digits().images[:4]):
        Image.fromarray(np.rint(image * 255 / 16).astype(np.uint8)).save(root / "new" / f"{number}.png")
    return root


@pytest.fixture
def here(trained, tmp_path):
    """The empty folder of the test with the run and the pictures in it."""
    for name in ("run", "new"):
        shutil.copytree(trained / name, tmp_path / name)
    return tmp_path


PATHS = [f"new/{n}.png" for n in range(4)]


def slashes(text):
    return text.replace("\\", "/")


def test_a_table_in_the_order_of_the_images(kd, here):
    done = kd("predict", "run", "new/3.png", "new", "--device", "cpu")
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["image", "class", "%"]
    assert [slashes(line.split()[0]) for line in lines[1:]] == ["new/3.png", *PATHS]
    assert all(0 <= float(line.split()[2]) <= 100 for line in lines[1:])
    assert "5 images, 10 classes, exit " in done.stderr and "the best on dev" in done.stderr and "on cpu" in done.stderr


def test_the_runners_up(kd, here):
    first = kd("predict", "run", *PATHS, "--top", "3").stdout.splitlines()[1].split()
    assert len(first) == 7 and len({first[1], first[3], first[5]}) == 3
    assert float(first[2]) >= float(first[4]) >= float(first[6])
    assert len(kd("predict", "run", *PATHS, "--top", "99").stdout.splitlines()[1].split()) == 21


def test_json_has_every_class(kd, here):
    found = json.loads(kd("predict", "run", "new", "--json", "--exit", "2").stdout)
    assert [slashes(one["path"]) for one in found] == PATHS
    for one in found:
        assert set(one) == {"path", "class", "confidence", "probabilities"} and list(one["probabilities"]) == list("0123456789")
        assert one["probabilities"][one["class"]] == one["confidence"] == max(one["probabilities"].values())


def test_csv_has_a_heading(kd, here):
    (here / "new" / "a, b.png").write_bytes((here / "new" / "0.png").read_bytes())
    text = kd("predict", "run", "new", "--csv", "--exit", "ensemble", "--top", "2").stdout
    found = list(csv.DictReader(io.StringIO(text)))
    assert list(found[0]) == ["path", "class", "confidence", "class2", "confidence2"] and "\r" not in text
    assert [slashes(one["path"]) for one in found] == [*PATHS, "new/a, b.png"]


def test_a_pattern_that_no_shell_expanded(kd, here):
    assert len(kd("predict", "run", "new/[12].png").stdout.splitlines()) == 3


@pytest.mark.parametrize("form", [[], ["--json"], ["--csv"]])
def test_bad_images_are_said_and_the_good_ones_named(kd, here, form):
    (here / "new" / "1.png").write_bytes(b"nothing of the kind")
    (here / "new" / "2.png").write_bytes(b"")
    done = kd("predict", "run", "new", "gone.png", "--batch-size", "1", *form, status=65)
    said = [line for line in done.stderr.splitlines() if ".png" in line]
    assert len(said) == 3 and all(line.startswith("kd: ") for line in said)
    assert "kd: 4 images, 10 classes" in done.stderr
    assert "kd: 2 of 4 images classified; 2 could not be read, 1 name of no image (named above)" in done.stderr
    assert done.stdout.count(".png") == 2 and (not form or form == ["--csv"] or len(json.loads(done.stdout)) == 2)


def test_many_images_say_how_long_they_take(capsys, monkeypatch):
    from kdcli.predict import announced

    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def answers(seconds):
        for number in range(10):
            now[0] += seconds if number % 2 == 0 else 0
            yield number

    assert list(announced(answers(3.0), 10, 2, 1)) == list(range(10)) and capsys.readouterr().err == "kd: about 12 s for the rest\n"
    assert list(announced(answers(3.0), 10, 2, 2)) == list(range(10)) and capsys.readouterr().err == ""


def test_no_image_at_all(kd, here):
    (here / "empty").mkdir()
    done = kd("predict", "run", "empty", "*.tiff", status=65)
    assert done.stdout == "" and len(done.stderr.splitlines()) == 3 and "no image was found" in done.stderr
    assert "Missing argument 'IMAGES...'" in kd("predict", "run", status=2).stderr


def test_all_images_bad_is_still_json(kd, here):
    (here / "bad.png").touch()
    assert json.loads(kd("predict", "run", "bad.png", "--json", status=65).stdout) == []


@pytest.mark.parametrize(
    ("args", "status", "said"),
    [
        (["run", "new", "--exit", "9"], 2, "there is no exit 9; there is: 1, 2, 3, 4, ensemble"),
        (["run", "new", "--exit", "deep"], 2, "there is no exit deep"),
        (["run", "new", "--exit=--2"], 2, "there is no exit --2"),
        (["run", "new", "--json", "--csv"], 2, "choose one"),
        (["nowhere", "new"], 74, "there is no run folder nowhere"),
        (["new", "run"], 74, "new is not a run folder"),
        (["run", "new", "--device", "abacus"], 2, "--device abacus"),
    ],
)
def test_what_is_wrong_is_one_line(kd, here, args, status, said):
    done = kd("predict", *args, status=status)
    assert done.stdout == "" and said in done.stderr


def test_an_unfinished_run_says_how_to_go_on(kd, here):
    (here / "run" / "results.json").unlink()
    assert (
        "kd train --run run --resume, or predict with its best epoch so far: --which best" in kd("predict", "run", "new", status=74).stderr
    )
    assert "the deepest: an unfinished run" in kd("predict", "run", "new", "--which", "best").stderr


def test_help_says_the_lines_for_python(kd):
    text = kd("predict", "--help").stdout
    assert 'timm.create_model("resnet18", checkpoint_path="RUN/student.safetensors", num_classes=4)' in text
    assert 'timm.create_model("local-dir:RUN/timm", pretrained=True)' in text and 'kdcore.load("RUN", exit=2)' in text


def test_names_that_the_terminal_cannot_write(here):
    """A file's name may be any bytes, and a pipe's encoding is not always UTF-8 (Windows)."""
    import os
    import subprocess
    import sys

    (here / "new" / "größe 漢.png").write_bytes((here / "new" / "0.png").read_bytes())
    line = [sys.executable, "-m", "kdcli", "predict", "run", "new", "--csv", "--device", "cpu"]
    done = subprocess.run(line, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "cp1252"}, check=True, timeout=60)
    assert "größe \\u6f22.png,".encode("cp1252") in done.stdout


def test_its_help_imports_no_torch():
    import subprocess
    import sys

    code = (
        "import sys\nfrom kdcli.main import kd\ntry:\n kd.main(['predict', '--help'])\nexcept SystemExit:\n print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout.endswith("False\n")

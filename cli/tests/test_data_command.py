"""`kd data check` and `kd data prepare`: what they print, what they leave behind, and how they end."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 3)):
        for name in ("cat", "dog"):
            (tmp_path / "my photos" / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((80, 60), Image.Resampling.BICUBIC)
                pixels.save(tmp_path / "my photos" / split / name / f"{number}.png")
    return tmp_path / "my photos"


def test_clean_photos(kd, photos):
    done = kd("data", "check", "my photos")
    assert "looking at 22 images" in done.stderr
    for line in ("size: all are 80 x 60 pixels", "verdict: nothing stops training; 0 warnings", "twins: none"):
        assert line in done.stdout
    assert "dev (held out)" in done.stdout
    assert done.stdout.splitlines()[-2:] == [
        "look:  kd data check 'my photos' --sheet sheet.png",
        "next:  kd train resnet18 --data 'my photos'",
    ]


def test_no_dev_split_is_passed_on_to_training(kd, photos):
    done = kd("data", "check", "my photos", "--dev-fraction", 0)
    assert "dev (held out)" not in done.stdout
    assert done.stdout.splitlines()[-1] == "next:  kd train resnet18 --data 'my photos' --dev-fraction 0.0"


def test_bad_photos(kd, photos):
    (photos / "train" / "cat" / "empty.jpg").write_bytes(b"")
    Image.open(photos / "train" / "cat" / "1.png").save(photos / "test" / "dog" / "copy.png")
    done = kd("data", "check", "my photos", "--seed", 4, status=65)
    assert "the file is empty" in done.stdout and "my photos/train/cat/empty.jpg" in done.stdout
    assert "verdict: 1 problem would stop training; 2 warnings" in done.stdout
    assert done.stdout.splitlines()[-1] == "next:  kd train resnet18 --data 'my photos' --seed 4 --skip-bad-images"


def test_what_is_left_without_bad_photos(kd, photos):
    (photos / "train" / "cat" / "empty.jpg").write_bytes(b"")
    done = kd("data", "check", "my photos", "--skip-bad-images")
    assert "left out: 1 image" in done.stdout and "verdict: nothing stops training; 0 warnings" in done.stdout
    assert done.stdout.splitlines()[-1] == "next:  kd train resnet18 --data 'my photos' --skip-bad-images"


def test_a_table(kd, photos, tmp_path):
    rows = [f"{path.relative_to(tmp_path)},{path.parent.name},{int(path.stem) % 4}" for path in sorted((photos / "train").rglob("*.png"))]
    (tmp_path / "photos.csv").write_text("\n".join(["path,label,shot", *rows]) + "\n")
    found = json.loads(kd("data", "check", "photos.csv", "--group-by", "shot", "--dev-fraction", "0.25", "--json").stdout)
    assert found["splits"]["dev"]["classes"] == {"cat": 2, "dog": 2}
    assert found["next"][-1] == "next:  kd train resnet18 --data photos.csv --group-by shot --dev-fraction 0.25"


def test_json_has_everything(kd, photos):
    for number in range(30):
        (photos / "train" / "cat" / f"bad-{number}.jpg").write_bytes(b"x")
    found = json.loads(kd("data", "check", "my photos", "--json", status=65).stdout)
    assert len(found["unreadable"]) == 30 and found["images"] == 52
    assert found["splits"]["dev"]["held_out"] and found["splits"]["test"]["classes"] == {"cat": 3, "dog": 3}
    assert "the first 20 (--json has all)" in kd("data", "check", "my photos", status=65).stdout


def test_the_sheet(kd, photos, tmp_path):
    done = kd("data", "check", "my photos", "--sheet", "sheet.png")
    assert "contact sheet: 16 images on sheet.png" in done.stderr and "look:" not in done.stdout
    with Image.open(tmp_path / "sheet.png") as image:
        assert image.format == "PNG"
    kd("data", "check", "my photos", "--sheet", photos / "train" / "cat" / "1.png", status=74)


def test_small_arrays(kd, npz):
    done = kd("data", "check", npz("set.npz"))
    assert done.stdout.splitlines()[-1].startswith("next:  kd train resnet18_32px --data ")


@pytest.mark.parametrize(
    ("line", "status", "words"),
    [
        ("data check nowhere", 65, ["nowhere"]),
        ("data check digits --sheet sheet.jpg", 2, [".png"]),
        ("data check digits --dev-fraction 1", 2, ["dev-fraction"]),
        ("data chek digits", 2, ["did you mean 'check'"]),
        ("data prepare tiny-imagnet x", 2, ["did you mean 'tiny-imagenet'"]),
        ("data prepare cub nowhere", 65, ["nowhere", "CUB_200_2011"]),
        ("data prepare pack nowhere.npz out", 74, ["nowhere.npz"]),
        ("data prepare pack out", 2, ["PART.npz"]),
    ],
)
def test_bad_input_is_one_line(kd, tmp_path, line, status, words):
    done = kd(*line.split(), status=status)
    assert done.stdout == "" and done.stderr.count("\n") == 1
    assert all(word in done.stderr for word in words)
    assert not list(tmp_path.iterdir())


def test_what_load_data_refuses(kd, photos):
    (photos / "test" / "cow").mkdir()
    Image.new("RGB", (8, 8)).save(photos / "test" / "cow" / "1.png")
    done = kd("data", "check", "my photos", status=65)
    assert done.stdout == "" and "'cow'" in done.stderr and done.stderr.count("\n") == 1


def test_prepare_says_what_comes_next(kd, npz):
    done = kd("data", "prepare", "pack", npz("set.npz"), "my tree")
    assert done.stdout.splitlines()[0] == "wrote my tree: 10 classes, train 40, test 40"
    assert done.stdout.splitlines()[-1] == "next: kd data check 'my tree'"
    assert "10 classes" in kd("data", "check", "my tree").stdout


def test_the_groups_list_their_commands(kd):
    assert all(name in kd("data", "prepare").stdout for name in ("tiny-imagenet", "cub", "pack"))
    assert all(name in kd("data").stdout for name in ("check", "prepare"))


def test_help_imports_no_torch():
    code = (
        "import sys\nfrom kdcli.main import kd\ntry:\n    kd.main(sys.argv[1:])\nfinally:\n    print(sorted(sys.modules), file=sys.stderr)"
    )
    for line in ("data --help", "data check --help", "data prepare --help", "data prepare pack --help"):
        done = subprocess.run([sys.executable, "-c", code, *line.split()], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0 and not any(f"'{heavy}'" in done.stderr for heavy in ("torch", "numpy", "PIL")), line

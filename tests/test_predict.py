"""Predictions of a finished run: the same probabilities as timm's own transform and model give, images from anywhere, bad ones named."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import kdcore
import kdcore.backbones
from kdcore.data import Preprocessing
from kdcore.errors import DataError, FileError, KdError
from kdcore.evaluation import collect
from kdcore.loading import load_export, load_student, read_about, read_run_config, timm_line
from kdcore.predicting import Bad, Predictor, choose_exit, find_images
from kdcore.preparing import make_batches
from kdcore.run_data import load_config_data

FAST = {"epochs": 1, "batch_size": 8, "amp": "none", "channels_last": False, "device": "cpu", "workers": 0, "pretrained": False}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two classes of textured colour photos, no two of one size, in train/ and test/."""
    root, rng = tmp_path_factory.mktemp("data") / "photos", np.random.default_rng(0)
    for split, count in {"train": 12, "test": 4}.items():
        for k, name in enumerate(("bark", "moss")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for n in range(count):
                small = rng.integers(0, 256, (9 + n, 12, 3), dtype=np.uint8)
                small[..., k] //= 3
                Image.fromarray(small).resize((60 + n, 45 + 2 * n)).save(folder / f"{n}.jpg", quality=95)
    return root


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "photos"
    kdcore.train("test_resnet", str(photos), method="deep-supervision", img_size=32, crop_pct=0.9, run=path, **FAST)
    return path


@pytest.fixture
def files(photos):
    return [str(path) for path in sorted((photos / "test").rglob("*.jpg"))]


def rows(predictions):
    return torch.tensor([list(found.probabilities.values()) for found in predictions])


def timm_probabilities(model, files):
    config = timm.data.resolve_model_data_config(model)
    transform = timm.data.create_transform(**config)
    images = torch.stack([transform(Image.open(path).convert("RGB")) for path in files])
    with torch.inference_mode():
        return model(images).softmax(-1)


@pytest.mark.parametrize("exit", [1, 2, -1])
def test_timm_alone_gives_the_same_probabilities(run, files, exit):
    """Each exit's model carries the run's transform: timm reads size, crop, mean and deviation off it."""
    model = kdcore.load(run, exit=exit)
    assert timm.data.resolve_model_data_config(model)["input_size"] == (3, 32, 32)
    torch.testing.assert_close(rows(kdcore.predict(run, files, exit)), timm_probabilities(model, files), rtol=0, atol=1e-6)


def test_they_are_those_of_the_evaluation(run):
    """The run's own test split through the run's own batches, at every exit."""
    student, about = load_student(run)
    config = read_run_config(kdcore.runs.Run.open(run))
    data = load_config_data(config)
    batches = make_batches(data, "test", Preprocessing.from_json(about["preprocessing"]), config, torch.device("cpu"))
    answers = collect(student, batches.epoch(0), num_classes=2)
    for number, logits in zip(answers.exits, answers.logits, strict=True):
        torch.testing.assert_close(rows(kdcore.predict(run, data.test.paths, number)), logits.softmax(-1), rtol=0, atol=1e-5)
    torch.testing.assert_close(
        rows(kdcore.predict(run, data.test.paths, "ensemble")), answers.logits.softmax(-1).mean(0), rtol=0, atol=1e-5
    )


def test_a_model_knows_its_classes_and_none_of_the_weights_it_began_with(run):
    for model in (kdcore.load(run), kdcore.load(run, exit=1), kdcore.load(run, exit=-1), load_export(run / "student.safetensors")[0]):
        config = model.pretrained_cfg
        assert config["label_names"] == ("bark", "moss") and config["num_classes"] == 2 and config["crop_pct"] == 0.9
        assert not config.get("url") and not config.get("hf_hub_id")
        assert timm.data.resolve_model_data_config(model) == timm.data.resolve_model_data_config(kdcore.load(run))


def test_a_prediction(run, files):
    found = kdcore.predict(run, files[0])[0]
    assert found.path == files[0] and list(found.probabilities) == ["bark", "moss"]
    assert found.confidence == max(found.probabilities.values()) == found.probabilities[found.name]
    assert found.top(2)[0] == (found.name, found.confidence) and found.top(2)[1][1] == min(found.probabilities.values())
    assert sum(found.probabilities.values()) == pytest.approx(1)


def test_pil_images_paths_folders_and_patterns_in_their_order(run, files):
    folder = Path(files[0]).parent
    answers = kdcore.predict(run, [Image.open(files[0]), files[5], files[5], folder, str(folder / "*1.jpg")])
    assert [found.path for found in answers] == [None, files[5], files[5], *files[:4], files[1]]
    assert answers[0].probabilities == pytest.approx(answers[3].probabilities)


def test_batches_and_workers_change_nothing(run, files):
    """Workers are spawned as on Windows and macOS, and each finds all it needs."""
    alone = kdcore.predict(run, files, batch_size=1)
    torch.testing.assert_close(rows(kdcore.predict(run, files, batch_size=3)), rows(alone), rtol=0, atol=1e-6)
    context = torch.multiprocessing.get_start_method(allow_none=True)
    torch.multiprocessing.set_start_method("spawn", force=True)
    try:
        spawned = kdcore.predict(run, [*files, files[0]], batch_size=9, workers=1)
    finally:
        torch.multiprocessing.set_start_method(context, force=True)
    assert [found.path for found in spawned] == [*files, files[0]]
    torch.testing.assert_close(rows(spawned)[:-1], rows(alone), rtol=0, atol=1e-6)


def test_bad_images_are_named_or_left_out(run, files, tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(Path(files[0]).read_bytes()[:200])
    with pytest.raises(DataError, match=r"bad\.jpg"):
        kdcore.predict(run, [files[0], bad])
    with pytest.raises(DataError, match=r"gone\.jpg: there is no such file"):
        kdcore.predict(run, [files[0], tmp_path / "gone.jpg"])
    left = kdcore.predict(run, [bad, files[0], tmp_path / "gone.jpg", files[1]], skip_bad_images=True)
    assert [found.path for found in left] == files[:2]
    assert kdcore.predict(run, [bad], skip_bad_images=True) == []
    answers = list(Predictor(run)([str(bad), files[0]], batch_size=1))
    assert isinstance(answers[0], Bad) and answers[1].path == files[0]
    assert "skip-bad-images" not in str(answers[0].error)  # a flag of training


def test_exits_that_are_not_there(run, files):
    with pytest.raises(KdError, match="there is no exit 9; there is: 1, 2, 3, 4, ensemble"):
        kdcore.predict(run, files, exit=9)
    with pytest.raises(KdError, match="there is no exit ensemble"):
        choose_exit("ensemble", [1], None)


def results(*dev):
    return {"best": {"dev": {"exits": [{"exit": k, "top1": top1} for k, top1 in enumerate(dev, start=1)]}}}


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (results(50.0, 90.0, 80.0), (2, "the best on dev, 90.0 %")),
        (results(50.0, 90.0, 90.0), (2, "the best on dev, 90.0 %")),
        (
            {"best": {"test": {"exits": [{"exit": 1, "top1": 9.0}, {"exit": 3, "top1": 1.0}]}}},
            (3, "the deepest: there is no dev split to choose by"),
        ),
        (None, (3, "the deepest: an unfinished run has no results to choose by")),
    ],
)
def test_which_exit_answers(found, wanted):
    assert choose_exit(None, [1, 2, 3], found) == wanted


def test_an_unfinished_run_is_used_when_asked_for(run, files, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / "results.json").unlink()
    with pytest.raises(FileError, match=r"copy is not finished; go on with kd train --run .*copy --resume, .* --which best"):
        kdcore.predict(copy, files)
    for which in ("best", "last"):
        assert rows(kdcore.predict(copy, files, which=which)).equal(rows(kdcore.predict(run, files, 4, which=which)))
    shutil.rmtree(copy / "checkpoints")
    with pytest.raises(FileError, match="no checkpoint yet"):
        kdcore.predict(copy, files, which="last")


def test_what_names_mean(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b/2.png", "b/deep/3.JPG", "b/.hidden.png", "b/.cache/4.png", "b/notes.txt", "a.png", "[x].png", "empty/notes.txt"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    (tmp_path / "b" / "deep" / "round").symlink_to(tmp_path / "b" / "deep", target_is_directory=True)

    def found(*names):
        paths, bad = find_images(names)
        return [Path(path).as_posix() for path in paths], [str(problem.error) for problem in bad]

    assert found("b", "a.png", "a.png") == (["b/2.png", "b/deep/3.JPG", "a.png", "a.png"], [])
    assert found("*.png", "[x].png", "b/*", "b/notes.txt") == (
        ["[x].png", "a.png", "[x].png", "b/2.png", "b/deep/3.JPG", "b/notes.txt"],
        [],
    )
    assert found("b/**/*.JPG")[0][0] == "b/deep/3.JPG"
    assert found("empty", "gone", "*.tiff")[1] == [
        "empty: there is no image in this folder",
        "gone: there is no such file or folder",
        "*.tiff: no image is named like this",
    ]


# -- the final student, for timm alone ---------------------------------------------------------------------------------------
def side(name):
    return 32 if name == "test_vit" else 16


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Runs by backbone, on digits with one channel, enlarged (a transformer has to be told its size)."""
    made = {}

    def train(name):
        if name not in made:
            made[name] = tmp_path_factory.mktemp("runs") / name
            kdcore.train(name, "digits", method="plain", img_size=side(name), train_limit=32, run=made[name], **FAST)
        return made[name]

    return train


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_resnet_32px"])
def test_the_line_for_timm_and_its_folder(trained, name, tmp_path):
    run = trained(name)
    images = torch.rand(3, 1, side(name), side(name), generator=torch.Generator().manual_seed(0))
    wanted = kdcore.load(run, exit=-1)(images)
    line = timm_line(read_about(run / "model.json"), run / "student.safetensors")
    assert ("kdcore.backbones" in line) == name.endswith("_32px") and ("img_size" in line) == (name == "test_vit")
    there = {}
    exec(line, there)
    assert there["model"].eval()(images).equal(wanted)

    moved = shutil.copytree(run / "timm", tmp_path / "elsewhere")
    model = timm.create_model(f"local-dir:{moved}", pretrained=True).eval()
    assert model(images).equal(wanted)
    assert tuple(model.pretrained_cfg["label_names"]) == tuple("0123456789")
    assert timm.data.resolve_model_data_config(model)["mean"] == pytest.approx(kdcore.load(run).pretrained_cfg["mean"])


def test_a_plugins_network_is_not_given_to_timm(tmp_path):
    """Not even where timm made the most of it: what the plugin changed, timm would not change."""
    (tmp_path / "nets.py").write_text(NETWORK, encoding="utf-8")
    settings = {**FAST, "method": "plain", "img_size": 32, "train_limit": 32, "plugin": [str(tmp_path / "nets.py")]}
    run = kdcore.train("nets/own", "digits", run=tmp_path / "run", **settings).run.path
    assert not (run / "timm").exists()
    line = timm_line(read_about(run / "model.json"), run / "student.safetensors")
    there = {}
    exec(line, there)
    assert "timm" not in line and there["model"](torch.zeros(1, 1, 32, 32)).shape == (1, 10)


NETWORK = """
import timm
from kdcore import hookimpl
def own(**options):
    net = timm.create_model("test_resnet", **options)
    net.act1 = net.act1.__class__()
    return net
@hookimpl
def backbones():
    return {"own": own}
"""


def test_a_run_begins_with_the_weights_of_another(trained, tmp_path, monkeypatch):
    """Through timm's local-dir:, and with a head for other classes; the name is kept whole, so that any folder will do to load it."""
    first = trained("test_resnet_32px")
    monkeypatch.chdir(first)
    settings = {**FAST, "pretrained": True, "lr": 1e-12, "warmup_epochs": 0}
    second = kdcore.train("local-dir:timm", "digits", method="plain", img_size=16, train_limit=32, run=tmp_path / "second", **settings)
    monkeypatch.chdir(tmp_path)
    old, new = kdcore.load(first, exit=-1).state_dict(), kdcore.load(second.run.path, exit=-1).state_dict()
    weights = [name for name in old if name.endswith("weight") and "fc" not in name]
    assert weights and all(torch.allclose(old[name], new[name], atol=1e-6) for name in weights)


def test_files_written_from_an_array_are_predicted_as_the_array_is(trained, tmp_path):
    """A run on an .npz or on digits takes image files too; only the resize differs, by a grey level."""
    from sklearn.datasets import load_digits

    run, digits = trained("test_resnet_32px"), load_digits()
    pixels = np.rint(digits.images[:20] * (255 / 16)).astype(np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{number:02d}.png")
    answers = rows(kdcore.predict(run, tmp_path, -1))
    enlarged = torch.nn.functional.interpolate(torch.from_numpy(pixels)[:, None].float(), size=(16, 16), mode="bilinear", antialias=True)
    config = kdcore.load(run).pretrained_cfg
    images = (enlarged.round() / 255 - config["mean"][0]) / config["std"][0]
    torch.testing.assert_close(answers, kdcore.load(run, exit=-1)(images).softmax(-1).detach(), rtol=0, atol=0.01)


# -- loose files ------------------------------------------------------------------------------------------------------------
IDEA = """
from kdcore import hookimpl
def small(step, targets):
    return SCALE * sum(logits.float().square().mean() for logits in step.outputs.logits)
SCALE = 0.1
@hookimpl
def losses():
    return {"small": small}
"""


def test_a_run_keeps_its_loose_files_and_moves_with_them(files, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("idea.py").write_text(IDEA, encoding="utf-8")
    settings = {**FAST, "img_size": 32, "plugin": ["./idea.py"], "loss": ["idea.small=0.5"], "data": str(photos), "epochs": 2}
    trained = kdcore.train("test_resnet", run="one", **settings)
    written = (tmp_path / "one/config.toml").read_text(encoding="utf-8")
    assert '"plugins/idea.py"' in written and "SCALE = 0.1" in Path("one/plugins/idea.py").read_text(encoding="utf-8")

    Path("idea.py").write_text("raise RuntimeError('edited since')", encoding="utf-8")
    wanted = rows(kdcore.predict("one", files))
    Path("new").mkdir()
    os.rename("one", "new/two")
    monkeypatch.chdir("/")
    moved = tmp_path / "new/two"
    assert rows(kdcore.predict(moved, files)).equal(wanted)
    assert kdcore.evaluate(moved, device="cpu")["test"] == trained.results["best"]["test"]

    again = kdcore.train(run=moved, resume=True, plugin=[str(tmp_path / "idea.py")])
    assert again.results["best"] == trained.results["best"]
    assert '"plugins/idea.py"' in (moved / "config.toml").read_text(encoding="utf-8")
    with pytest.raises(KdError, match="its plugin is"):
        kdcore.train(run=moved, resume=True, plugin=["./other.py"])

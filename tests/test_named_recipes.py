"""Recipes by name: every file of the core and of plugins is valid, found without an import, and gives way to a file and to flags."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from kdcore import named_recipes
from kdcore.config import read_config
from kdcore.errors import KdError
from kdcore.named_recipes import find_recipe, recipe_settings, with_recipe

ROOT = Path(__file__).parents[1]
FILES = [*ROOT.glob("kdcore/settings/*.toml"), *ROOT.glob("plugins/*/*/recipes/*.toml")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_recipe_is_valid_and_says_what_it_is(path):
    text = path.read_text(encoding="utf-8")
    values = tomllib.loads(text)
    assert "model" not in values and "data" not in values
    read_config({"model": "resnet18", "data": "digits", **values})
    comments = [line for line in text.splitlines() if line.startswith("#")]
    assert text.startswith("# ") and all(any(line.startswith(f"# {word}:") for line in comments) for word in ("For", "From", "Costs"))


def test_the_five_are_there_and_plugins_are_not_imported():
    code = "import sys; from kdcore.named_recipes import named_recipes; print(*named_recipes()); print(*sys.modules)"
    names, modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert {"finetune", "scratch", "cifar", "repdistiller", "byot"} <= set(names.split())
    assert not {"torch", "timm", "kdcore_byot"} & set(modules.split())


def test_a_recipe_is_under_what_is_given():
    merged = with_recipe("byot", {"epochs": 3, "options": {"alpha": 0.2}})
    assert merged["epochs"] == 3 and merged["batch_size"] == 128
    assert merged["options"] == {"preset": "conference", "alpha": 0.2}
    assert with_recipe(None, {"epochs": 3}) == {"epochs": 3}


def test_options_of_a_part_that_another_one_replaces_are_left_out_and_told():
    said = []
    merged = with_recipe("oto", {"schedule": "single"}, said.append)
    assert not any("teacher_epochs" in name for name in merged["options"])
    assert len(said) == 2 and said[0].startswith(
        "--recipe oto: its option mskd.joint.teacher_epochs=100 is left out, for 'single' (kdcore "
    )
    assert with_recipe("oto", {"schedule": "mskd.phased"}, said.append)["options"]["mskd.phased.teacher_epochs"] == 100 and len(said) == 2


def test_a_name_that_two_have_is_qualified(tmp_path, monkeypatch):
    for package, names in (("one", ["cifar", "twice", "alone"]), ("two", ["twice"])):
        (tmp_path / package / "recipes").mkdir(parents=True)
        (tmp_path / package / "__init__.py").write_text("raise ImportError('must not be imported')")
        for name in names:
            (tmp_path / package / "recipes" / f"{name}.toml").write_text(f"# of {package}\nepochs = 7\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    infos = [named_recipes.installed()[0].__class__(name, f"kdcore-{name}", "1", f"{name}.part") for name in ("one", "two", "gone")]
    monkeypatch.setattr(named_recipes, "installed", lambda: infos)
    found = named_recipes.named_recipes()
    assert {"cifar", "one.cifar", "one.twice", "two.twice", "alone"} <= set(found) and "twice" not in found
    assert found["cifar"].distribution == "kdcore" and found["one.twice"].summary == "of one"
    assert find_recipe("one.alone").path == found["alone"].path
    with pytest.raises(KdError, match=r"there is no recipe 'two\.alone'"):
        find_recipe("two.alone")


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("finetuen", "there is no recipe 'finetuen'; did you mean 'finetune'?"),
        ("./my.toml", "a file with --config ./my.toml"),
    ],
)
def test_a_wrong_name_is_one_line(name, line):
    with pytest.raises(KdError, match=line.replace("?", r"\?")):
        recipe_settings(name)


def test_python_takes_a_recipe_and_config_toml_needs_none(tmp_path):
    from kdcore.training import train

    small = {"img_size": 8, "labels_per_class": 5, "epochs": 2, "batch_size": 16, "amp": "none", "channels_last": False}
    trained = train("test_resnet_32px", "digits", recipe="cifar", run=tmp_path / "run", method="plain", **small)
    saved = trained.run.config()
    assert (saved["sched"], saved["decay_rate"], saved["epochs"], saved["batch_size"]) == ("multistep", 0.2, 2, 16)
    assert "recipe" not in saved
    with pytest.raises(KdError, match="leave out --recipe"):
        train(recipe="cifar", run=tmp_path / "run", resume=True)

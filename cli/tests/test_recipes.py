"""`kd recipes` and `--recipe`."""

import json

from kdcli.flags import read_settings


def test_listing_and_printing(kd):
    listed = {recipe["name"]: recipe for recipe in json.loads(kd("recipes", "--json").stdout)}
    assert listed["finetune"]["distribution"] == "kdcore" and listed["byot"]["distribution"].startswith("kdcore-byot")
    assert all(recipe["summary"] for recipe in listed.values())
    assert "finetune" in kd("recipes").stdout
    printed = kd("recipes", "finetune").stdout
    assert printed.startswith(f"# {listed['finetune']['summary']}") and "epochs = " in printed


def test_a_recipe_is_under_the_file_and_the_file_under_flags(tmp_path):
    (tmp_path / "my.toml").write_text("epochs = 3\nbatch_size = 50\n")
    typed = {"model": "test_resnet_32px", "data": "digits", "recipe": "cifar", "batch_size": 40, "momentum": None, "loss": ()}
    settings = read_settings(typed, str(tmp_path / "my.toml"), "train")
    assert (settings["decay_milestones"], settings["epochs"], settings["batch_size"]) == ([60, 120, 160], 3, 40)
    assert settings["momentum"] == 0.9 and "recipe" not in settings


def test_the_recipe_of_a_plugin_brings_its_method(kd):
    found = json.loads(kd("plan", "test_resnet_32px", "--data", "digits", "--recipe", "byot", "--labels-per-class", "20", "--json").stdout)
    assert found["method"] == "byot" and found["phases"][0]["epochs"] == 200


def test_a_wrong_recipe_is_one_line(kd):
    done = kd("train", "resnet18", "--data", "digits", "--recipe", "repdistil", status=2)
    assert done.stderr.count("\n") == 1 and "did you mean 'repdistiller'?" in done.stderr

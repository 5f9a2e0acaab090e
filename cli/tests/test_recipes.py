"""`kd recipes` and `--recipe`."""

import json


def test_listing_and_printing(kd):
    listed = {recipe["name"]: recipe for recipe in json.loads(kd("recipes", "--json").stdout)}
    assert listed["finetune"]["distribution"] == "kdcore" and listed["byot"]["distribution"].startswith("kdcore-byot")
    assert all(recipe["summary"] for recipe in listed.values())
    assert "finetune" in kd("recipes").stdout
    printed = kd("recipes", "finetune").stdout
    assert printed.startswith(f"# {listed['finetune']['summary']}") and "epochs = " in printed


def test_a_recipe_is_under_the_file_and_the_file_under_flags(kd, tmp_path):
    (tmp_path / "my.toml").write_text("epochs = 3\nbatch_size = 50\n")
    line = ["plan", "test_resnet_32px", "--data", "digits", "--recipe", "cifar", "--config", "my.toml", "--batch-size", "40", "--json"]
    config = json.loads(kd(*line).stdout)["config"]
    assert (config["decay_milestones"], config["epochs"], config["batch_size"]) == ([60, 120, 160], 3, 40)


def test_the_recipe_of_a_plugin_brings_its_method(kd):
    config = json.loads(kd("plan", "test_resnet_32px", "--data", "digits", "--recipe", "byot", "--json").stdout)["config"]
    assert config["method"] == "byot" and config["options"] == {"preset": "conference"}


def test_a_wrong_recipe_is_one_line(kd):
    done = kd("train", "resnet18", "--data", "digits", "--recipe", "repdistil", status=2)
    assert done.stderr.count("\n") == 1 and "did you mean 'repdistiller'?" in done.stderr

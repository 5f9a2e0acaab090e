"""The README's Python runs as it stands, recipes are settings, and the distribution's metadata says what `kd plugins` reads."""

import re
from importlib import metadata
from pathlib import Path

import pytest

from kdcore.config import read_config
from kdcore.named_recipes import with_recipe
from kdcore.plugins import Plugins
from kdcore.preparing import resolve_recipe

README = Path(__file__).parents[1] / "README.md"


def test_snippets_run(capsys):
    snippets = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    assert snippets
    for snippet in snippets:
        exec(compile(snippet, str(README), "exec"), {})
    said = capsys.readouterr().out
    assert "['teacher-exits', 'main']" in said and "[3, 2, 1]" in said


@pytest.mark.parametrize(
    ("recipe", "method", "aa"), [("mskd", "mskd", None), ("oto", "mskd.oto", None), ("oto-star", "mskd.oto", "cifar10")]
)
def test_recipes_are_settings(recipe, method, aa):
    config = read_config(with_recipe(recipe, {"model": "cifar/resnet18", "data": "digits", "teacher": "runs/teacher"}))
    assert (config.method, config.aa, config.epochs) == (method, aa, 240)
    assert resolve_recipe(config, Plugins()).method.schedule is not None  # its options are options of its parts


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"schedule": "mskd.phased"}, {"mskd.phased.teacher_epochs": 100, "mskd.phased.teacher_milestones": [30, 60, 90]}),
        ({"schedule": "mskd.joint"}, {"mskd.joint.teacher_epochs": 100, "mskd.joint.teacher_milestones": [30, 60, 90]}),
        ({"schedule": "mskd.phased", "options": {"mskd.phased.teacher_epochs": 7}}, {"mskd.phased.teacher_epochs": 7, "mskd.phased.teacher_milestones": [30, 60, 90]}),
        ({"schedule": "single"}, {}),
        ({"exits": "byot.bottleneck"}, {"mskd.joint.teacher_epochs": 100, "mskd.joint.teacher_milestones": [30, 60, 90]}),
    ],
)  # fmt: skip
def test_the_recipe_with_another_schedule(given, expected):
    config = read_config(with_recipe("oto", {"model": "cifar/resnet18", "data": "digits", "teacher": "runs/teacher", **given}))
    assert config.options == expected
    assert resolve_recipe(config, Plugins()).parts["schedule"].name == given.get("schedule", "mskd.joint")


def test_metadata():
    about = metadata.metadata("kdcore-mskd")
    assert {"kdcore:exits", "kdcore:loss", "kdcore:schedule", "kdcore:method", "kdcore-api:1"} <= set(about["Keywords"].split(","))
    assert "Paper, https://doi.org/10.3390/app12199453" in about.get_all("Project-URL")

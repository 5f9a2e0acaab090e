"""The README's Python runs as it stands, recipes are settings, and the distribution's metadata says what `kd plugins` reads."""

import re
from importlib import metadata
from pathlib import Path

import pytest

from kdcore.config import read_config
from kdcore.named_recipes import with_recipe

README = Path(__file__).parents[1] / "README.md"


def test_snippets_run(capsys):
    snippets = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    assert snippets
    for snippet in snippets:
        exec(compile(snippet, str(README), "exec"), {})
    assert "generation-3" in capsys.readouterr().out


@pytest.mark.parametrize("recipe", ["iskd", "iskd-small"])
def test_recipes_are_settings(recipe):
    config = read_config(with_recipe(recipe, {"model": "resnet18", "data": "digits"}))
    assert config.method == "iskd" and config.options["alpha"] == 0.5


def test_metadata():
    about = metadata.metadata("kdcore-iskd")
    assert {"kdcore:schedule", "kdcore:method", "kdcore:analysis", "kdcore-api:1"} <= set(about["Keywords"].split(","))
    assert "Paper, https://arxiv.org/abs/2202.02265" in about.get_all("Project-URL")

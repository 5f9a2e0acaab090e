"""The README's Python runs as it stands, and the distribution's metadata says what `kd plugins` reads."""

import re
from importlib import metadata
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def test_snippets_run():
    snippets = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    assert snippets
    for snippet in snippets:
        exec(compile(snippet, str(README), "exec"), {})


def test_metadata():
    about = metadata.metadata("kdcore-byot")
    assert {"kdcore:exits", "kdcore:loss", "kdcore:method", "kdcore:analysis", "kdcore-api:1"} <= set(about["Keywords"].split(","))
    assert "Paper, https://arxiv.org/abs/1905.08094" in about.get_all("Project-URL")

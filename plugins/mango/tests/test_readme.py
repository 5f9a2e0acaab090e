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
    about = metadata.metadata("kdcore-mango")
    assert {"kdcore:exits", "kdcore:loss", "kdcore:method", "kdcore:metric", "kdcore-api:1"} <= set(about["Keywords"].split(","))
    assert "Paper, https://github.com/WeichiChen1210/Mango-Classification" in about.get_all("Project-URL")

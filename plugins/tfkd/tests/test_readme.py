"""The README's Python runs as it stands, and the distribution's metadata says what `kd plugins` reads."""

import re
from importlib import metadata
from pathlib import Path

from kdcore_tfkd.method import REG, SELF

README = Path(__file__).parents[1] / "README.md"


def test_snippets_run():
    snippets = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    assert snippets
    for snippet in snippets:
        exec(compile(snippet, str(README), "exec"), {})


def test_the_table_of_presets_is_the_code_s():
    rows = re.findall(r"^\| `(\w+)`.*? \| (.*?) \| (.*?) ?\|$", README.read_text(), flags=re.MULTILINE)
    told = {name: cells for name, *cells in rows if name in SELF}
    assert set(told) == set(SELF)
    for name, (own, virtual) in told.items():
        for text, preset in ((own, SELF[name]), (virtual, REG.get(name))):
            if preset is None:
                assert not text
                continue
            numbers = [float(number) for number in text.removesuffix(" with `batchmean`").split(", ")]
            assert numbers == [preset.alpha, preset.temperature, preset.multiplier]
            assert text.endswith("`batchmean`") == (preset.reduction == "batchmean")


def test_metadata():
    about = metadata.metadata("kdcore-tfkd")
    assert {"kdcore:soft-targets", "kdcore:schedule", "kdcore:method", "kdcore-api:1"} <= set(about["Keywords"].split(","))
    assert "Paper, https://arxiv.org/abs/1909.11723" in about.get_all("Project-URL")

"""The README's Python runs as it stands, its table is the networks', and the metadata says what `kd plugins` reads."""

import re
from importlib import metadata
from pathlib import Path

import pytest
from table import rows

from kdcore_cifar import NETWORKS

README = Path(__file__).parents[1] / "README.md"


def test_snippets_run():
    snippets = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    assert len(snippets) == 3
    for snippet in snippets:
        exec(compile(snippet, str(README), "exec"), {})


@pytest.mark.slow
def test_the_table_is_the_networks():
    """`python plugins/cifar/tests/table.py` prints it anew."""
    assert [line for line in README.read_text().splitlines() if line.startswith("| `cifar/")] == rows()


def test_the_table_has_every_network():
    assert re.findall(r"^\| `cifar/(\w+)`", README.read_text(), flags=re.MULTILINE) == list(NETWORKS)


def test_metadata():
    about = metadata.metadata("kdcore-cifar")
    assert {"kdcore:backbone", "kdcore-api:1"} <= set(about["Keywords"].split(","))

"""Where a part is at home is decided once: `kd new --from` writes into a test file what `kd plugins check` runs without one."""

import re

import pytest

from kdcli.new_files import conformance
from kdcli.new_from import read_loose
from kdcore.homes import source_of
from kdcore.testing.classes import class_for, plugin_class

IDEA = '''
"""An idea of one file."""

from kdcore import Method, Term, hookimpl, needs


def inside(step, targets=None):
    """Of the method."""


@needs("teacher")
def taught(step, targets):
    """Its targets are a teacher's."""


@needs("able_teacher")
def well_taught(step, targets):
    """Its targets are those of a teacher that is right."""


def alone(step, targets=None):
    """Reads no soft targets."""


alone.reads = ()


def draws(step, targets):
    """Of any soft targets."""


draws.reads = ("logits",)


def first():
    """A method."""
    return Method({"ce": Term(inside)})


@hookimpl
def losses():
    return {"inside": inside, "taught": taught, "well-taught": well_taught, "alone": alone, "draws": draws}


@hookimpl
def methods():
    return {"first": first}
'''

HOMES = {
    "inside": {"method": "idea.first"},
    "taught": {"source": "teacher"},
    "well-taught": {"source": "teacher"},
    "alone": {"source": None},
    "draws": {},
}


@pytest.fixture
def idea(tmp_path):
    path = tmp_path / "idea.py"
    path.write_text(IDEA)
    return path


def test_the_check_runs_each_part_where_it_is_at_home(idea):
    whole = plugin_class(str(idea))
    kits = {part.name: class_for(part, whole) for part in whole.parts()}
    for name, home in HOMES.items():
        own = vars(kits[f"idea.{name}"])
        assert {key: own[key] for key in ("method", "source") if key in own} == home


def test_the_written_test_file_says_the_same(idea):
    text = conformance("idea", read_loose(idea).parts)
    for name, home in HOMES.items():
        block = re.search(rf'component = "idea.{name}"\n((?:    .+\n)*)', text)[1]
        assert dict(line.strip().split(" = ") for line in block.splitlines()) == {
            key: f'"{value}"' if value else "None" for key, value in home.items()
        }


def test_where_soft_targets_come_from():
    assert source_of((), ("teacher",)) is None
    assert source_of(("logits",), ("able_teacher",)) == "teacher"
    assert source_of(None, ("exits>=2",)) == "deepest"

"""The experiment files against the papers' tables: every number, both ways, and that what a row names is there.

`papers.toml` is a transcription of the tables of its own. A number that is in one of the two alone, or differs, is a slip of the hand.
"""

import tomllib
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from kdcore.backbones import create_backbone
from kdcore.config import read_config
from kdcore.experiments.reading import Experiment, read_experiment
from kdcore.named_recipes import with_recipe
from kdcore.plugins import Plugins
from kdcore.preparing import resolve_recipe

ROOT = Path(__file__).parents[1]
FILES = {f"{path.parts[-4]}/{path.stem}": path for path in sorted(ROOT.glob("plugins/*/*/experiments/*.toml"))}
TABLES = tomllib.loads((ROOT / "tests/papers.toml").read_text(encoding="utf-8"))["tables"]
every = pytest.mark.parametrize("name", FILES)


@cache
def experiment(name: str) -> Experiment:
    return read_experiment(FILES[name], name)


def transcribed(name: str) -> dict[tuple[str, str], float]:
    """Numbers by the row (or teacher) and the key under which the experiment ought to have them."""
    found: dict[tuple[str, str], float] = {}
    for table in TABLES:
        for line, numbers in table["lines"].items() if table["experiment"] == name else ():
            for column, number in zip(table["columns"], numbers, strict=True):
                row, _, key = column.replace("{}", line).rpartition(".")
                assert (row, key) not in found, f"papers.toml has {row}, {key} twice"
                found[row, key] = number
    return found


@every
def test_every_number_is_the_papers(name):
    carriers = {row.name: row for row in experiment(name).rows} | experiment(name).teachers
    assert len(carriers) == len(experiment(name).rows) + len(experiment(name).teachers), "a teacher is called as a row is"
    in_file = {(carrier, key): number for carrier, one in carriers.items() for key, number in one.paper.items()}
    assert in_file == transcribed(name)


def test_every_table_has_its_experiment():
    assert {table["experiment"] for table in TABLES} <= set(FILES)
    counts = {plugin: sum(name.startswith(plugin) for name in FILES) for plugin in ("byot/", "iskd/", "tfkd/", "osakd/", "mango/", "mskd/")}
    assert counts == {"byot/": 4, "iskd/": 10, "tfkd/": 1, "osakd/": 5, "mango/": 1, "mskd/": 4}
    without_numbers = {name for name in FILES if not transcribed(name)}
    assert without_numbers == {name for name in FILES if name.startswith("iskd/")}  # its tables are images


@every
def test_the_papers_numbers_bear_out_its_claims(name):
    """A claim that the printed numbers contradict was not the paper's, or a number is wrong. Some stand in no table, and cannot be told."""
    found = experiment(name)
    printed = {(row.name, exit): number for row in found.rows for exit, number in row.numbers.items()}
    assert found.claims
    for claim in found.claims:
        if claim.than is None:
            pairs = [((claim.row, deeper), (claim.row, exit)) for exit, deeper in pairwise(claim.exits)]
        else:
            pairs = [((claim.row, exit), (claim.than, exit)) for exit in claim.exits]
        told = [printed[better] > printed[worse] for better, worse in pairs if better in printed and worse in printed]
        assert all(told), claim.text


@every
def test_every_row_resolves(name):
    """Methods, options and settings are there under the experiment's recipe; teachers are given to those rows that use one."""
    found = experiment(name)
    shared = {key: value for key, value in with_recipe(found.recipe, found.settings).items() if key != "options"}
    plugins = Plugins([])
    arms = {(row.model, row.method): (row.arm, row.teacher) for row in found.runnable}
    arms |= {(one.model, one.method): (one.arm, None) for one in found.teachers.values()}
    for (model, _), (arm, teacher) in arms.items():
        config = read_config({**shared, **arm.settings, "model": model, "data": "digits", "method": arm.method, "options": arm.options})
        resolve_recipe(config, plugins, has_teacher=teacher is not None)


def test_every_network_is_there_with_the_modules_that_are_tapped():
    networks: dict[str, set[str]] = {}
    for name in FILES:
        for one in (*experiment(name).runnable, *experiment(name).teachers.values()):
            taps = one.arm.settings.get("taps") or ""
            networks.setdefault(one.model, set()).update(taps.split(",") if taps else ())
    assert len(networks) > 25
    for model, taps in networks.items():
        with torch.device("meta"):
            net = create_backbone(model)
        assert taps <= {name for name, _ in net.named_modules()}, model

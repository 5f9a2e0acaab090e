"""Parameters and MACs: against published figures, and against formulas that know the papers' definitions and no module (`formulas.py`).

A figure is written as its source prints it, and holds to one unit of its last digit; a whole number holds exactly. `published.py` has them,
says where each was looked up, and gives the reason for each that is missing; `published_sums.py` has those that only several figures together
give. The formulas hold all the same.
"""

from functools import cache

import pytest
import torch
from formulas import FORMULAS
from published import (
    COUNTED_TOO,
    LOOSE,
    MACS,
    ONE_CHANNEL,
    PARAMETERS,
    RELATED_MACS,
    RELATED_PARAMETERS,
    SOURCES,
    TORCHVISION,
    UNPUBLISHED,
    Elements,
)
from published_sums import SUMMED_MACS, SUMMED_PARAMETERS, value_and_unit
from table import operations, parameters
from torch import nn

from kdcore_cifar import NETWORKS
from kdcore_cifar.networks import build


@cache
def elements(name: str) -> Elements:
    """Of one image of 32 pixels, on the meta device."""
    counts = dict.fromkeys(Elements._fields, 0)

    def add(module: nn.Module, _, given: torch.Tensor) -> None:
        counts["norm"] += given.numel() * isinstance(module, nn.BatchNorm2d)
        counts["act"] += given.numel() * isinstance(module, nn.ReLU)
        counts["bias"] += given.numel() * (isinstance(module, nn.Conv2d) and module.bias is not None)

    with torch.device("meta"):
        net = build(name)
        for module in net.modules():
            module.register_forward_hook(add)
        net(torch.zeros(1, 3, 32, 32))
    return Elements(**counts)


def holds(found: int, published: int | str, more: float = 0.0) -> bool:
    """more: the part of the count by which the published one may exceed it."""
    value, unit = value_and_unit(published)
    return -unit <= value - found <= unit + more * found


@pytest.mark.parametrize(("name", "classes", "published", "source"), PARAMETERS)
def test_parameters(name, classes, published, source):
    assert holds(parameters(name, num_classes=classes), published), SOURCES[source]


def also_counted(name: str, source: str) -> int:
    return COUNTED_TOO[source](elements(name)) if source in COUNTED_TOO else 0


@pytest.mark.parametrize(("name", "published", "source"), MACS)
def test_macs(name, published, source):
    assert holds(operations(name) + also_counted(name, source), published, LOOSE.get(source, 0.0)), SOURCES[source]


@pytest.mark.parametrize("row", RELATED_PARAMETERS, ids=lambda row: row.name)
def test_parameters_of_relatives(row):
    assert holds(parameters(row.name, num_classes=row.classes) + row.difference, row.published), (SOURCES[row.source], row.why)


@pytest.mark.parametrize("row", RELATED_MACS, ids=lambda row: f"{row.name}-{row.source}")
def test_macs_of_relatives(row):
    count = operations(row.name, num_classes=row.classes) + also_counted(row.name, row.source)
    assert holds(count + row.difference, row.published), (SOURCES[row.source], row.why)


@pytest.mark.parametrize("row", SUMMED_PARAMETERS, ids=lambda row: row.name)
def test_parameters_that_figures_add_up_to(row):
    value, unit = row.figures.value_and_unit()
    assert abs(value - parameters(row.name)) <= unit, row.why


@pytest.mark.parametrize("row", SUMMED_MACS, ids=lambda row: row.name)
def test_macs_that_figures_add_up_to(row):
    value, unit = row.figures.value_and_unit()
    assert unit <= value / 100, "too loose to say anything"
    assert abs(value - operations(row.name)) <= unit, row.why


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * name.startswith("pyramid")) for name in FORMULAS])
def test_formulas(name):
    """To the last parameter and the last multiplication, for each network but torchvision's."""
    assert (parameters(name), operations(name)) == FORMULAS[name]()


def test_every_network_has_a_figure_or_a_reason():
    plain = [row.values if hasattr(row, "values") else row for row in MACS]
    for kind, rows, summed in (
        ("parameters", PARAMETERS + RELATED_PARAMETERS, SUMMED_PARAMETERS),
        ("macs", plain + RELATED_MACS, SUMMED_MACS),
    ):
        published = {row[0] for row in rows} | {row.name for row in summed} | set(TORCHVISION) | set(ONE_CHANNEL)
        assert published.isdisjoint(UNPUBLISHED[kind])
        assert published | set(UNPUBLISHED[kind]) == set(NETWORKS)
    sources = {row[-1] for row in PARAMETERS + plain} | {row.source for row in RELATED_PARAMETERS + RELATED_MACS}
    assert sources | {source for row in SUMMED_PARAMETERS + SUMMED_MACS for *_, source in row.figures.terms} <= set(SOURCES)
    assert set(FORMULAS) | set(TORCHVISION) == set(NETWORKS)


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvisions_own_words(name):
    meta = TORCHVISION[name].DEFAULT.meta
    assert parameters(name) == meta["num_params"]
    assert operations(name) / 1e9 == pytest.approx(meta["_ops"], abs=0.00051)


@pytest.mark.parametrize("name", ONE_CHANNEL)
def test_grey_images(name):
    published_parameters, published_macs = ONE_CHANNEL[name]
    assert holds(parameters(name, in_chans=1), published_parameters)
    assert holds(operations(name, in_chans=1), published_macs)


def test_two_names_of_one_network():
    """WRN20-8 of BYOT's table, read as 6n + 2 layers, is WRN-22-8, which counts the shortcuts."""
    assert parameters("wrn_20_8") == parameters("wrn_22_8")

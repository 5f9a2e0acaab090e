"""The conformance kit finds what it is there to find: for every check a plugin with one planted defect fails that check and no other.

A defect is a file of `tests/defects/`, called by its family and the check (`loss_compiles.py`), with two underscores before what tells it from
another of the same check. Its docstring says what is wrong, and words of the advice. It is installed as pip would, so that checks of metadata run too.
"""

import re
from pathlib import Path

import pytest

from kdcore import testing
from kdcore.hookspecs import EVENTS, FAMILIES
from kdcore.plugins import family_keyword

DEFECTS = sorted(path.stem for path in (Path(__file__).parent / "defects").glob("*.py"))

KITS = {
    "plugin": testing.PluginTests,
    "loss": testing.LossTests,
    "targets": testing.SoftTargetsTests,
    "exits": testing.ExitsTests,
    "schedule": testing.ScheduleTests,
    "method": testing.MethodTests,
    "backbone": testing.BackboneTests,
    "metric": testing.MetricTests,
    "analysis": testing.AnalysisTests,
    "logger": testing.LoggerTests,
}

METADATA = {
    "plugin_metadata": ("kdcore:metric", "kdcore:loss"),
    "plugin_paper": ("Project-URL: Paper, https://arxiv.org/abs/1\n", ""),
}
"""Defects that stand in a distribution's metadata: what they have in place of what."""

QUICK = ("plugin", "metric", "analysis", "backbone")
"""Families whose checks cost less than a second; a loss costs ten."""


REASONS = (
    "it brings no method or part of one, so it needs no paper",
    "it is the only term of a phase, which trains nothing without it",
)
"""Why a check may be skipped, beside that what it builds on has failed."""


def check_of(defect: str) -> str:
    return "test_" + defect.partition("__")[0].partition("_")[2]


def code_of(defect: str) -> str:
    return (Path(__file__).parent / "defects" / f"{defect}.py").read_text(encoding="utf-8")


def checks(kit: type) -> dict[str, object]:
    """Every check of a class of the kit, by name, as the function that makes it."""
    return {name: getattr(kit, name) for name in dir(kit) if name.startswith("test_")}


@pytest.fixture
def planted(distribution, tmp_path, monkeypatch):
    """Installs a defect, and gives its plugin's name."""

    def install(defect: str) -> str:
        name = re.sub("_+", "-", defect)
        code = code_of(defect)
        hooks = set(re.findall(r"^def (\w+)\(", code, re.MULTILINE))
        families = [family_keyword(family).replace("_", "-") for family in FAMILIES if family in hooks] + ["logger"] * bool(
            hooks & {*EVENTS}
        )
        keywords = ",".join([*(f"kdcore:{family}" for family in families), "kdcore-api:1"])
        distribution(name, code, keywords=keywords, module=f"idea_{defect}")
        (about,) = tmp_path.glob("*.dist-info/METADATA")
        right, wrong = METADATA.get(defect, ("", ""))
        assert right in about.read_text()
        about.write_text(about.read_text().replace(right, wrong))
        return name

    return install


def test_every_check_has_a_defect():
    """So that no check is added that nobody has seen fail. Families may share one; every family has one of its own."""
    wanted = {check: name for kit in KITS.values() for name, check in checks(kit).items()}
    found = {checks(KITS[defect.partition("_")[0]])[check_of(defect)] for defect in DEFECTS}
    assert {wanted[check] for check in wanted if check not in found} == set()
    assert {defect.partition("_")[0] for defect in DEFECTS} == set(KITS)
    assert {getattr(testing, name) for name in testing.__all__ if name.endswith("Tests")} == set(KITS.values())


@pytest.mark.parametrize(
    "defect",
    [pytest.param(defect, marks=[] if defect.startswith(QUICK) and defect != "plugin_paper" else pytest.mark.slow) for defect in DEFECTS],
)
def test_a_defect_fails_its_check_and_no_other(defect, planted):
    plugin, check = planted(defect), check_of(defect)
    outcomes = testing.run(plugin)
    failed = [one for one in outcomes if one.status == "failed"]
    assert {one.check.partition("[")[0] for one in failed} == {check}, [f"{one.check}: {one.text}" for one in failed]

    says = re.search(r"^The kit says: (.+)$", code_of(defect), re.MULTILINE)
    for one in failed:
        assert f"'{plugin}" in one.text or f"idea-{plugin}" in one.text, "it names the part, or the distribution"
        assert says and says[1] in one.text, one.text
        assert "\n" not in one.text

    for one in outcomes:
        if one.status == "skipped":
            assert one.text.endswith(f"{check} says why") or one.text in REASONS

"""`kd plugins check`: a report for people and for scripts, an exit status, and a verdict for `kd plugins`."""

import json
import re
import sys
from pathlib import Path

import pytest

CODE = """
import kdcore

def metric(logits, labels{more}):
    '''Right answers.'''
    return float((logits.argmax(1) == labels).float().mean())

@kdcore.hookimpl
def metrics():
    return {{"hits": metric}}
"""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KDCORE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def alone(monkeypatch, distribution):
    """Distributions with one metric each, and no others: a good one and one whose option says nothing of itself."""

    def install(*names):
        monkeypatch.setenv("KD_PLUGINS_ONLY", ",".join(names))
        for name in names:
            monkeypatch.delitem(sys.modules, f"kdcore_{name}", raising=False)  # of another test, from another folder
            more = ", *, scale: object = 1" if name.startswith("bad") else ""
            code = "import nothing_of_the_kind" if name.startswith("broken") else CODE.format(more=more)
            distribution(f"kdcore-{name}", name, code, keywords="kdcore:metric,kdcore-api:1")

    return install


def test_a_good_plugin(kd, alone):
    alone("well")
    done = kd("plugins", "check", "well")
    assert "\nmetrics: well.hits\n" in done.stdout and "failed" not in done.stdout
    assert "\n  passed   nothing_is_dropped, " in done.stdout and " batch_permutation" in done.stdout


def test_one_broken_plugin_ends_no_other(kd, alone):
    alone("badly", "broken", "well")
    found = json.loads(kd("plugins", "check", "--json", status=1).stdout)
    failed = {(one["plugin"], one["check"]) for one in found if one["status"] == "failed"}
    assert failed == {
        ("badly", "test_options_are_documented"),
        ("badly", "test_bad_options_are_refused"),
        ("broken", "test_hook_signatures"),
    }
    assert {one["plugin"] for one in found} == {"badly", "broken", "well"}


def test_the_verdict_is_kept_for_this_very_file(kd, alone, tmp_path):
    from kdcore import verdicts
    from kdcore.installed import installed

    alone("badly")
    kd("plugins", "check", "badly", status=1)
    (info,) = installed()
    verdict = verdicts.read(info)
    assert verdict.reason.startswith("fails badly.hits: test_options_are_documented and 1 more (found on 20")
    assert verdict.reason.endswith("; kd plugins check says why)")
    file = tmp_path / "site" / "kdcore_badly.py"
    file.write_text(file.read_text().replace("Right answers.", "Right answers. scale: of nothing."))
    assert verdicts.read(info) is None


def test_one_check(kd, alone):
    alone("badly")
    assert kd("plugins", "check", "badly", "-k", "permutation").stdout.count("passed") == 2  # the check, and the sum
    assert "no check of 'badly' has this" in kd("plugins", "check", "badly", "-k", "nonsense", status=2).stderr


def test_one_check_that_one_of_several_plugins_has(kd, alone, distribution, monkeypatch):
    alone("well")
    monkeypatch.setenv("KD_PLUGINS_ONLY", "aaa,well")
    distribution("kdcore-aaa", "aaa", "import kdcore\n", keywords="kdcore-api:1")  # it brings nothing, and comes first
    found = json.loads(kd("plugins", "check", "-k", "permutation", "--json").stdout)
    assert [(one["plugin"], one["check"]) for one in found] == [("well", "test_batch_permutation")]
    assert "no check of any plugin has this" in kd("plugins", "check", "-k", "nonsense", status=2).stderr


def test_a_blocked_plugin_and_one_that_can_be_had(kd, alone, monkeypatch):
    alone("well", "other")
    monkeypatch.delenv("KD_PLUGINS_ONLY")
    monkeypatch.setenv("KD_NO_PLUGIN", "other")
    assert "is blocked by KD_NO_PLUGIN=other" in kd("plugins", "check", "other", status=2).stderr


def test_what_is_not_there(kd):
    assert "there is no plugin 'tfkdd'; did you mean 'tfkd'?" in kd("plugins", "check", "tfkdd", status=2).stderr
    assert "there is no such file" in kd("plugins", "check", "./mine.py", status=74).stderr


def test_without_pytest(kd, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("kdcore.testing")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pytest", None)
    assert kd("plugins", "check", "tfkd", status=2).stderr == "kd: the checks need pytest: pip install 'kdcore[testing]'\n"


def test_a_cache_that_cannot_be_written_ends_nothing(tmp_path, monkeypatch):
    from kdcore import verdicts
    from kdcore.installed import PluginInfo

    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KDCORE_CACHE", str(tmp_path / "file"))
    info = PluginInfo("mine", "kdcore-mine", "1", "nothing_of_this_name")
    verdicts.write(info, broken="no")
    assert verdicts.read(info) is None
    monkeypatch.setenv("KDCORE_CACHE", str(tmp_path / "there"))
    verdicts.write(info, broken="no")
    assert verdicts.read(info).broken == "no"
    verdicts.path().write_text("nonsense")
    assert verdicts.read(info) is None


@pytest.mark.parametrize("plugin", sorted(path.parent.name for path in Path(__file__).parents[2].glob("plugins/*/pyproject.toml")))
def test_every_part_of_the_plugins_here_is_checked_by_their_own_tests(plugin):
    """Of backbones, those that a plugin has in many sizes are checked in one."""
    from kdcore.plugins import Plugins
    from kdcore.testing.classes import FAMILY_KITS

    text = (Path(__file__).parents[2] / "plugins" / plugin / "tests/test_conformance.py").read_text()
    classes = {(kind, name) for kind, name in re.findall(r'class \w+\((\w+)\):\n    \w+ = "(.+)"', text)}
    known = Plugins()
    there = {(kit.__name__, part.name) for family, kit in FAMILY_KITS.items() for part in known.parts_of(plugin, family).values()}
    assert ("PluginTests", plugin) in classes
    assert {kind for kind, _ in there} <= {kind for kind, _ in classes}
    assert {part for part in there if part[0] != "BackboneTests"} <= classes

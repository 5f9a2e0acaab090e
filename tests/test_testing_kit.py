"""The conformance kit itself: a good component passes, a bad one fails where it is bad and reads why, and no check can be dropped in silence."""

import subprocess
import sys

import pytest

from kdcore.testing import LossTests, MetricTests, PluginTests, SoftTargetsTests, run

GOOD = '''
"""An idea of one file."""

from typing import Annotated

from annotated_types import Gt

from kdcore import SoftTargets, hookimpl
from kdcore.losses import full


def gap(step, targets, *, scale: Annotated[float, Gt(0)] = 1.0):
    """The squared gap between log-probabilities of every exit and of its target. scale: times that, above 0."""
    wanted = full(targets.logits[0]).log_softmax(-1)
    return scale * sum((full(logits).log_softmax(-1) - wanted).square().mean() for logits in step.outputs.logits)


def first(step):
    """The shallowest exit teaches all."""
    return SoftTargets(logits=[step.outputs.logits[0]])


def hits(logits, labels):
    """The share of right answers."""
    return float((logits.argmax(1) == labels).float().mean())


@hookimpl
def losses():
    return {"gap": gap}


@hookimpl
def soft_targets():
    return {"first": first}


@hookimpl
def metrics():
    return {"hits": hits}
'''


@pytest.fixture
def idea(tmp_path):
    """Writes a plugin of one file: the good one, with some of its text replaced."""

    def write(name="idea", **replaced):
        text = GOOD
        for old, new in replaced.values():
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / f"{name}.py"
        path.write_text(text)
        return str(path)

    return write


def failed(outcomes):
    return {f"{one.component} {one.check}": one.text for one in outcomes if one.status == "failed"}


@pytest.mark.slow
def test_a_good_idea_passes_every_check(idea):
    outcomes = run(idea())
    assert failed(outcomes) == {}
    assert {one.text for one in outcomes if one.status == "skipped"} == {
        "a loose file has no metadata; kd new --from FILE makes a package of it"
    }
    assert {one.family for one in outcomes} == {"plugin", "losses", "soft_targets", "metrics"}


BROKEN = {
    "test_options_are_documented": ("scale: times that, above 0.", ""),
    "test_bad_options_are_refused": ("scale: Annotated[float, Gt(0)] = 1.0", "scale: object = 1.0"),
    "test_scalar_and_finite": ("full(logits).log_softmax(-1)", "full(logits).softmax(-1).log()"),
    "test_soft_targets": ("logits=[step.outputs.logits[0]]", "probs=[step.outputs.logits[0].softmax(-1) * 2]"),
    "test_names": ('{"hits": hits}', '{"Hits": hits}'),
    "test_hook_signatures": ("def metrics():", "def metrics(context=None):"),
    "test_batch_permutation": ("(logits.argmax(1) == labels).float().mean()", "logits[0, 0]"),
}


@pytest.mark.parametrize("check", BROKEN)
def test_a_defect_is_found_and_reads_like_advice(check, idea):
    found = failed(run(idea(broken=BROKEN[check]), only=check))
    assert len(found) == 1
    (name, advice), *_ = found.items()
    assert name.endswith(check)
    assert "\n" not in advice and advice.partition("; ")[2], advice
    assert "idea" in advice


def test_a_plugin_that_does_not_load_fails_one_check(tmp_path):
    path = tmp_path / "broken.py"
    path.write_text("import nonsense_that_is_not_there")
    outcomes = run(str(path))
    assert list(failed(outcomes)) == ["broken test_hook_signatures"]
    assert "nonsense_that_is_not_there" in failed(outcomes)["broken test_hook_signatures"]


# -- limits and dropped checks ----------------------------------------------------------------------------------------------------


def judge(kit, check="test_nothing_is_dropped", **values):
    """What a check of a class comes to: passed, failed, cannot or skipped, and its line."""
    from kdcore.testing.runner import judged

    return judged(lambda: getattr(kit(), check)(**values))[:2]


def test_a_dropped_check_fails():
    class Missing(LossTests):
        component = "kl"
        test_compiles = None

    class Empty(LossTests):
        component = "kl"

        def test_compiles(self):
            pass

    class Excused(LossTests):
        component = "kl"

        @pytest.mark.xfail(reason="sorts on the host")
        def test_compiles(self):
            super().test_compiles()

    assert judge(Missing) == (
        "failed",
        "Missing drops the check test_compiles (sets it to None): take that out; what a component cannot do stands in `cannot` with a "
        'reason, or put @pytest.mark.xfail(reason="...") on the method that overrides it',
    )
    assert judge(Empty)[0] == "failed"
    assert judge(Excused)[0] == "passed"
    with pytest.raises(TypeError, match="overrides test_nothing_is_dropped"):
        type("Sly", (LossTests,), {"test_nothing_is_dropped": None})


def test_limits_are_known_and_have_reasons():
    assert judge(type("A", (LossTests,), {"component": "kl", "cannot": {"vitt": "why"}}))[1].endswith("did you mean 'vit'?")
    assert "without a reason" in judge(type("A", (LossTests,), {"component": "kl", "cannot": {"vit": ""}}))[1]
    assert judge(type("A", (LossTests,), {"component": "kl", "cannot": {"vit": "why"}}))[0] == "passed"


def test_a_limit_that_holds_is_told_and_one_that_does_not_fails(idea):
    file = idea(broken=("(logits.argmax(1) == labels).float().mean()", "logits[0, 0]"))
    first = type("A", (MetricTests,), {"component": "idea.hits", "file": file, "cannot": {"permutation": "asks the first sample"}})
    assert judge(first, "test_batch_permutation") == ("cannot", "asks the first sample")
    well = type("A", (MetricTests,), {"component": "better.hits", "file": idea("better"), "cannot": {"two_classes": "so I thought"}})
    status, text = judge(well, "test_scalar_and_finite")
    assert status == "failed" and text.endswith("it works; take it out of cannot")


def test_a_component_says_its_own_limits(idea):
    file = idea(own=("@hookimpl\ndef losses", 'hits.cannot = {"two_classes": "no"}\n\n\n@hookimpl\ndef losses'))
    assert type("A", (MetricTests,), {"component": "idea.hits", "file": file}).limits() == {"two_classes": "no"}


def test_what_does_not_build_fails_one_check(idea):
    file = idea(broken=("return scale * sum", "return targets.nothing * sum"))
    kit = type("A", (LossTests,), {"component": "idea.gap", "file": file})
    status, text = judge(kit, "test_builds_on_every_backbone", kind="resnet")
    assert status == "failed" and "(idea.py:" in text
    for check in ("test_pickles", "test_ddp", "test_pairs_with_every_method"):
        assert judge(kit, check) == ("skipped", "it does not build: test_builds_on_every_backbone[resnet] says why")


@pytest.mark.parametrize(("needs", "method"), [("exits>=2", "deep-supervision"), ("exits>=1", "plain")])
def test_a_loss_without_targets_gets_the_exits_that_it_needs(idea, needs, method):
    file = idea(own=("@hookimpl\ndef losses", f"gap.needs = ('{needs}',)\n\n\n@hookimpl\ndef losses"))
    kit = type("A", (LossTests,), {"component": "idea.gap", "file": file, "source": None})
    assert kit.resolved(kit.plugins(), False).name == method


def test_a_component_that_is_not_there_fails_one_check():
    kit = type("A", (SoftTargetsTests,), {"component": "kdcore.nothing"})
    assert judge(kit, "test_options_are_documented")[0] == "failed"
    assert judge(kit, "test_pickles")[0] == "skipped"


def test_two_distributions_with_one_name(monkeypatch):
    from kdcore.installed import PluginInfo

    claims = [PluginInfo("mine", name, "1", "mine") for name in ("kdcore-mine", "my-own")]
    monkeypatch.setattr("kdcore.testing.plugin.installed", lambda: claims)
    kit = type("A", (PluginTests,), {"plugin": "mine"})
    assert judge(kit, "test_metadata")[1] == "kdcore-mine 1 and my-own 1 both claim the plugin name 'mine'; rename one"


def test_the_core_without_pytest():
    """`import kdcore` needs no pytest; the kit says what to install."""
    code = "import sys; sys.modules['pytest'] = None; import kdcore; print(1)\ntry:\n import kdcore.testing\nexcept ModuleNotFoundError as e: print(e)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines() == ["1", "kdcore.testing needs pytest: pip install 'kdcore[testing]'"], done.stderr

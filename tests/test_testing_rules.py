"""Rules of the conformance kit: what may not be overridden, what is a refusal, and what is asked of metadata and options."""

import pytest

from kdcore import KdError
from kdcore.errors import Refused
from kdcore.plugins import Plugins
from kdcore.testing import LossTests, MethodTests, MetricTests, PluginTests
from kdcore.testing.base import refusal
from kdcore.testing.runner import judged

HEAD = '''
"""An idea of one file."""

from typing import Annotated

import torch
from annotated_types import Gt

from kdcore import CE, KdError, Method, Term, hookimpl, needs

'''


def judge(kit, check="test_nothing_is_dropped", **values):
    """What a check of a class comes to: passed, failed, cannot or skipped, and its line."""
    return judged(lambda: getattr(kit(), check)(**values))[:2]


@pytest.fixture
def idea(tmp_path):
    """A class of checks of `idea.mine`, for a loose file with this code."""

    def make(base, code, family, **own):
        path = tmp_path / "idea.py"
        path.write_text(f'{HEAD}{code}\n\n\n@hookimpl\ndef {family}():\n    return {{"mine": mine}}\n')
        return type("TestMine", (base,), {"component": "idea.mine", "file": str(path), **own})

    return make


# -- nothing is dropped -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["built", "advising", "resolved"])
def test_what_checks_stand_on_may_not_be_overridden(name):
    kit = type("TestSly", (LossTests,), {"component": "kl", name: lambda *args, **more: None})
    assert judge(kit) == ("failed", f"TestSly overrides {name}(), on which checks of the kit stand: take that out, or call it otherwise")


def test_a_base_of_ones_own_may_not_either():
    class Mine(MetricTests):
        def _numbers(self, *args, **more):
            pass

    assert "overrides _numbers()" in judge(type("TestSly", (Mine,), {"component": "none"}))[1]


def test_methods_and_attributes_of_ones_own_may_stand_beside():
    assert judge(type("TestFine", (LossTests,), {"component": "kl", "helper": lambda self: 1, "source": "deepest"}))[0] == "passed"


@pytest.mark.parametrize("mark", [pytest.mark.xfail, pytest.mark.xfail(strict=False), pytest.mark.skip, pytest.mark.skip(reason=" ")])
def test_a_mark_over_a_class_needs_a_reason(mark):
    plain = type("TestSly", (LossTests,), {"component": "kl"})
    with pytest.raises(TypeError, match=r"TestSly: .* without a reason turns off every check"):
        mark(plain)
    with pytest.raises(TypeError, match="without a reason"):
        type("TestSly", (LossTests,), {"component": "kl", "pytestmark": mark})


def test_a_mark_over_a_file_needs_a_reason(monkeypatch):
    monkeypatch.setitem(globals(), "pytestmark", [pytest.mark.xfail])
    with pytest.raises(TypeError, match=rf"{__name__}: .* without a reason"):
        type("TestSly", (LossTests,), {"component": "kl", "__module__": __name__})


@pytest.mark.parametrize("mark", [pytest.mark.xfail(reason="why"), pytest.mark.skip("why"), pytest.mark.slow])
def test_a_mark_with_a_reason_is_fine(mark):
    assert mark(type("TestFine", (LossTests,), {"component": "kl"})).component == "kl"


# -- pairs ------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def two_methods(monkeypatch):
    """Pairs with two methods of the core's alone, which costs a second."""
    known = Plugins()
    parts = [known.part("methods", name) for name in ("plain", "deep-supervision")]
    monkeypatch.setattr("kdcore.testing.pairs.methods", lambda known: parts)


BESIDE_EXITS = {
    "nan": "return step.outputs.logits[-1].mean() * (float('nan') if len(step.outputs.logits) > 1 else 1)",
    "no scalar": "return sum(logits.mean() for logits in step.outputs.logits) * torch.ones(len(step.outputs.logits)).squeeze()",
    "fails": "(logits,) = step.outputs.logits\n    return logits.mean()",
}


@pytest.mark.parametrize(
    ("what", "says"), [("nan", "gives nan on a first batch"), ("no scalar", "must return a scalar tensor"), ("fails", "failed: ValueError")]
)
def test_what_is_wrong_beside_a_method_is_no_refusal(what, says, idea, two_methods):
    code = f'def mine(step, targets=None):\n    """Mine."""\n    {BESIDE_EXITS[what]}'
    status, text = judge(idea(LossTests, code, "losses", source=None), "test_pairs_with_every_method")
    assert status == "failed"
    assert "with --method deep-supervision it ends in: " in text and says in text


@pytest.mark.parametrize(
    "code",
    [
        '@needs("exits>=2")\ndef mine(step, targets=None):\n    """Mine."""\n    return step.outputs.logits[0].mean()',
        'def mine(step, targets=None):\n    """Mine."""\n    if len(step.outputs.logits) == 1:\n        raise KdError("add --exits linear")\n'
        "    return step.outputs.logits[0].mean()",
    ],
    ids=["declared", "in its own words"],
)
def test_a_need_that_is_not_met_is_a_refusal(code, idea, two_methods):
    kit = idea(LossTests, code, "losses", source=None, method="deep-supervision")
    assert judge(kit, "test_pairs_with_every_method") == ("passed", "")


def test_who_refuses():
    assert refusal(Refused("needs a teacher"))
    with pytest.raises(KdError) as caught:
        Plugins().part("losses", "nothing")
    assert not refusal(caught.value)
    assert not refusal(ValueError("no error of kdcore"))


def test_a_method_with_an_option_that_has_no_default_is_paired(idea, two_methods):
    code = (
        'def mine(*, alpha: float):\n    """Mine. alpha: of the labels."""\n'
        '    return Method({"ce": Term(CE(label_smoothing=0.1), weight=alpha)})'
    )
    assert judge(idea(MethodTests, code, "methods", options={"alpha": 0.5}), "test_pairs_with_every_method") == ("passed", "")


# -- metadata ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", ["", "Requires-Dist: kdcore-cli\n", "Requires-Dist: kdcore>=0.1; extra == 'dev'\n"])
def test_a_plugin_asks_for_kdcore(wanted, distribution, tmp_path):
    distribution("one", "from kdcore import hookimpl\n")
    kit = type("TestPlugin", (PluginTests,), {"plugin": "one"})
    about = tmp_path / "idea_one-1.2.dist-info" / "METADATA"
    assert "does not depend on kdcore" not in judge(kit, "test_metadata")[1]
    about.write_text(about.read_text().replace("Requires-Dist: kdcore>=0.1\n", wanted))
    status, text = judge(kit, "test_metadata")
    assert status == "failed" and "idea-one 1.2 does not depend on kdcore: write dependencies = " in text


# -- options ----------------------------------------------------------------------------------------------------------------------

SOFT = '''def mine(step, targets, *, temperature: {type} = 2.0):
    """Mine. temperature: of both."""
    wanted = (targets.logits[0] / temperature).log_softmax(-1)
    return sum((logits.log_softmax(-1) - wanted).square().mean() for logits in step.outputs.logits)'''

TOP = '''def mine(logits, labels, *, k: {type} = 1):
    """Mine. k: so many answers count."""
    assert k > 0
    return float((logits.topk(k).indices == labels[:, None]).any(1).float().mean())'''

ASKS = 'def mine(logits, labels, *, k: int = 1):\n    """Mine. k: so many."""\n    if k < 1:\n        raise KdError("k is 1 or more")\n    return float(k)'


@pytest.mark.parametrize(
    ("base", "code", "family", "says"),
    [
        (LossTests, SOFT.format(type="float"), "losses", "with temperature=0, which its type (float) allows, it ends in: "),
        (MetricTests, TOP.format(type="int"), "metrics", "with k=0, which its type (int) allows, it ends in: AssertionError"),
    ],
)
def test_numbers_that_an_option_may_be_run_or_are_refused(base, code, family, says, idea):
    status, text = judge(idea(base, code, family), "test_bad_options_are_refused")
    assert status == "failed" and says in text and "Annotated[float, Gt(0)]" in text


@pytest.mark.parametrize(
    ("base", "code", "family"),
    [
        (LossTests, SOFT.format(type="Annotated[float, Gt(0)]"), "losses"),
        (LossTests, SOFT.replace(" / temperature", " * temperature").format(type="float"), "losses"),
        (MetricTests, ASKS, "metrics"),
    ],
    ids=["bounded", "it runs", "its own words"],
)
def test_bounds_are_not_asked_for_where_every_number_runs_or_is_refused(base, code, family, idea):
    assert judge(idea(base, code, family), "test_bad_options_are_refused") == ("passed", "")

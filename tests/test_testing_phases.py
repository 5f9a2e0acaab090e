"""The conformance kit over phases and over what metrics may give: a limit that holds late, a part that is active in the middle alone."""

import pytest

from kdcore import KdError
from kdcore.errors import Refused
from kdcore.testing import LossTests, MethodTests, MetricTests, SoftTargetsTests, scene
from kdcore.testing.runner import judged

IDEA = '''
"""Phases: the part `late` is active in those that PHASES says."""

import torch

from kdcore import CE, KL, Method, Phase, SoftTargets, Term, hookimpl

PHASES = {phases}


def late(step, targets=None):
    """Waits for the device where `waits` is true."""
    value = step.outputs.logits[-1].square().mean()
    return value + 0 * value.item() if {waits} else value


late.reads = ()


def soft(step):
    """Soft targets that sum to 2 where `sums` is true."""
    return SoftTargets(probs=[step.outputs.logits[-1].softmax(-1) * (2 if {sums} else 1)])


def in_phases(context):
    """A phase for each entry."""
    for number, terms in enumerate(PHASES, start=1):
        yield Phase(f"phase-{{number}}", terms=tuple(terms))


def phased():
    """Late and soft, in phases."""
    return Method({{"ce": Term(CE()), "late": Term(late), "soft": Term(KL(), source="soft")}}, {{"soft": soft}}, schedule=in_phases)


@hookimpl
def losses():
    return {{"late": late}}


@hookimpl
def soft_targets():
    return {{"soft": soft}}


@hookimpl
def schedules():
    return {{"in-phases": in_phases}}


@hookimpl
def methods():
    return {{"phased": phased}}
'''

LAST, MIDDLE = [["ce"], ["ce", "late", "soft"]], [["ce"], ["late", "soft"], ["ce"]]


@pytest.fixture
def kit(tmp_path):
    def make(base, component, phases, waits=False, sums=False, **own):
        path = tmp_path / "idea.py"
        path.write_text(IDEA.format(phases=phases, waits=waits, sums=sums))
        return type("TestMine", (base,), {"component": f"idea.{component}", "file": str(path), "method": "idea.phased", **own})

    return make


def judge(kit, check, **values):
    return judged(lambda: getattr(kit(), check)(**values))[:2]


WHY = {"cannot": {"sync": "reads a number"}}


def test_a_limit_that_holds_in_the_last_phase_is_declared_as_any(kit):
    assert judge(kit(LossTests, "late", LAST, waits=True, **WHY), "test_no_synchronisation") == ("cannot", "reads a number")
    status, text = judge(kit(LossTests, "late", LAST, waits=True), "test_no_synchronisation")
    assert status == "failed" and "the step waits for the device: item" in text


def test_a_limit_that_holds_in_no_phase_is_found(kit):
    status, text = judge(kit(LossTests, "late", LAST, **WHY), "test_no_synchronisation")
    assert status == "failed" and text.endswith("it works; take it out of cannot")


def test_phases_are_the_ends_and_those_that_are_the_first_with_a_term(kit):
    composed = kit(LossTests, "late", [["ce"], ["ce"], ["late", "soft"], ["late"], ["ce"]]).built()
    assert [phase.name for phase in scene.phases(composed)] == ["phase-1", "phase-3", "phase-5"]
    short = kit(LossTests, "late", LAST).built()
    assert scene.phases(short) == short.phases


def test_a_part_of_a_middle_phase_is_judged(kit):
    assert judge(kit(LossTests, "late", MIDDLE), "test_gradient_reaches_the_student_alone") == ("passed", "")
    assert judge(kit(LossTests, "late", MIDDLE, waits=True), "test_no_synchronisation")[0] == "failed"
    assert judge(kit(SoftTargetsTests, "soft", MIDDLE, sums=True), "test_soft_targets")[0] == "failed"


def test_soft_targets_that_nobody_asks_for_are_not_judged(kit):
    status, text = judge(kit(SoftTargetsTests, "soft", [["ce", "late"]]), "test_soft_targets")
    assert (status, text) == ("skipped", "no phase asks it for soft targets: name a method in which one does")


@pytest.mark.parametrize(("error", "status"), [(Refused("phase 'a' has no active term"), "skipped"), (KdError("late gives nan"), "failed")])
def test_only_a_refusal_says_that_a_run_is_nothing_without_a_term(error, status, kit, monkeypatch):
    plain = MethodTests.composed.__func__

    def composed(cls, *args, **more):
        if "change" in more:
            raise error
        return plain(cls, *args, **more)

    mine = kit(LossTests, "late", LAST)
    monkeypatch.setattr(mine, "composed", classmethod(composed))
    assert judge(mine, "test_weight_zero_is_plain_training")[0] == status


# -- metrics ----------------------------------------------------------------------------------------------------------------------

METRIC = '''
"""A metric."""
from kdcore import hookimpl


def mine(logits, labels):
    """Mine."""
    {code}


@hookimpl
def metrics():
    return {{"mine": mine}}
'''


@pytest.fixture
def metric(tmp_path):
    def make(code, **own):
        path = tmp_path / "idea.py"
        path.write_text(METRIC.format(code=code))
        return type("TestMine", (MetricTests,), {"component": "idea.mine", "file": str(path), **own})

    return make


NESTED = "return {'grades': {'low': logits.max(), 'bins': [1.0, float('nan')]}, 'all': [{'a': 2}], 'none': None}"


def test_a_metric_gives_mappings_in_mappings(metric):
    mine = metric(NESTED)
    for check in ("test_scalar_and_finite", "test_batch_permutation"):
        assert judge(mine, check) == ("passed", "")
    status, text = judge(metric("return {'a': {'b': {'c'}}}"), "test_scalar_and_finite")
    assert status == "failed" and "it gives set as a.b; a metric gives a number" in text


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("return {'a': {'b': float(logits[0, 0])}}", "a.b is -1."),
        ("return [float(logits[0, 0])]", ".0 is "),
        ("return float(logits[0, 0]) if labels[0] == 0 else None", "None when the samples change places"),
        ("return {} if labels[0] == 0 else {'late': 1.0}", "late is None, and 1 when"),
    ],
)
def test_the_order_of_samples_is_looked_at_in_all_that_a_metric_gives(code, says, metric):
    status, text = judge(metric(code), "test_batch_permutation")
    assert status == "failed" and says in text and "declare cannot = {'permutation': 'why'}" in text


def test_a_metric_s_limit_that_no_longer_holds_is_found(metric):
    own = {"cannot": {"permutation": "asks the first"}}
    assert judge(metric("return float(logits[0, 0])", **own), "test_batch_permutation") == ("cannot", "asks the first")
    status, text = judge(metric("return float(logits.max())", **own), "test_batch_permutation")
    assert status == "failed" and text.endswith("it works; take it out of cannot")

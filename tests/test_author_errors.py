"""What the author of a loose file reads when it goes wrong: the line of their own file, and what to write instead."""

import pytest

from kdcore.composition import compose
from kdcore.config import read_config
from kdcore.errors import KdError
from kdcore.optimisation import check_settings
from kdcore.phases import Phase
from kdcore.plugins import Plugins

IDEA = """
import torch.nn.functional as F
from kdcore import hookimpl

class Mine:
    def __init__(self, gamma: float = 1.0):
        self.gamma = gamma

    def __call__(self, step, targets):
        return inner(targets)

def inner(targets):
    return targets.logits[0].sum()

def wrong(step, targets):
    return F.cross_entropy(step.outputs.logits[0], step.batch.labels[:1])

def probs(step, targets, *, scale: float = 1.0):
    return scale * targets.probs[0].mean() + 0 * step.outputs.logits[0].sum()

probs.reads = ("probs",)

@hookimpl
def losses():
    return {"mine": Mine, "wrong": wrong, "probs": probs}
"""


@pytest.fixture
def refusal(tmp_path):
    (tmp_path / "idea.py").write_text(IDEA)

    def refuse(**more):
        with pytest.raises(KdError) as caught:
            compose("test_resnet", "plain", num_classes=3, image_size=32, plugins=Plugins([str(tmp_path / "idea.py")]), **more)
        return str(caught.value)

    return refuse


def test_a_loss_without_targets_is_told_how_it_gets_some(refusal):
    line = refusal(losses=["idea.mine"])
    assert "AttributeError: 'NoneType' object has no attribute 'logits' (idea.py:13); it was given no soft targets" in line
    assert "write --loss NAME@SOURCE" in line


def test_a_failure_inside_a_library_names_the_authors_line(refusal):
    line = refusal(losses=["idea.wrong"])
    assert line.endswith("(idea.py:16)") and "no soft targets" not in line


def test_what_a_function_reads_is_known_with_an_option_too(refusal):
    """An option makes a partial of it, which has no attributes of its own."""
    for options in ({}, {"idea.probs.scale": 2}):
        line = refusal(losses=["idea.probs@deepest"], exits="linear", options=options)
        assert "reads probs, which the soft targets 'deepest' do not give" in line


def test_an_option_that_is_positional_is_told_about_the_star(refusal):
    line = refusal(losses=["idea.mine"], options={"idea.mine.gamma": 2})
    assert "has no option 'gamma': options are keyword-only; write `*, gamma: ...`" in line


def test_a_misspelt_hook_is_named_without_a_repr(tmp_path):
    (tmp_path / "idea.py").write_text("from kdcore import hookimpl\n\n@hookimpl\ndef loses():\n    return {}\n")
    with pytest.raises(KdError, match=r"unknown hook 'loses'; did you mean 'losses'\?; hooks are") as caught:
        Plugins([str(tmp_path / "idea.py")])
    assert "<module" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"opt": "adamww"}, r"--opt adamww: timm has no such optimiser; did you mean 'adamw'\?"),
        ({"opt": "xyzzy"}, "--opt xyzzy: timm has no such optimiser; usual are sgd, momentum, adamw"),
        ({"sched": "cosin"}, r"--sched cosin: timm has no such schedule; did you mean 'cosine'\?"),
    ],
)
def test_optimisers_and_schedules_have_near_names(settings, line):
    with pytest.raises(KdError, match=line):
        check_settings(read_config({"model": "resnet18", "data": "digits", **settings}), [Phase()])

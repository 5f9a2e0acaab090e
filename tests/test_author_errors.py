"""What the author of a loose file reads when it goes wrong: the line of their own file, and what to write instead."""

import pytest
import torch

from kdcore import Method, Term
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
        assert "reads probs, which the soft targets 'deepest' do not give: take a source that does, or a loss that reads logits" in line


LISTS = """
from kdcore import MultiExit, Outputs, SoftTargets, hookimpl

def bare(step):
    return SoftTargets(probs=step.outputs.logits[-1].softmax(dim=1))

def nothing(step):
    return SoftTargets(logits=[None])

class Answers(MultiExit):
    def forward(self, images):
        return Outputs(super().forward(images).logits[-1])

def answers(backbone, context):
    return Answers(backbone, [None] * 3)

@hookimpl
def soft_targets():
    return {"bare": bare, "nothing": nothing}

@hookimpl
def exits():
    return {"answers": answers}
"""


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"losses": ["kl@lists.bare"]}, "gives Tensor as probs, which must be a list of tensors: SoftTargets(probs=[tensor])"),
        ({"losses": ["kl@lists.nothing"]}, "gives a list with NoneType as logits, which must be a list of tensors"),
        ({"exits": "lists.answers"}, "gives Tensor as logits, which must be a list of tensors: Outputs(logits=[tensor])"),
    ],
)
def test_a_tensor_where_a_list_of_them_is_due(tmp_path, settings, said):
    """torch would say that the truth of a tensor is ambiguous."""
    (tmp_path / "lists.py").write_text(LISTS)
    with pytest.raises(KdError) as caught:
        compose("test_resnet", "plain", num_classes=3, image_size=32, plugins=Plugins([str(tmp_path / "lists.py")]), **settings)
    assert said in str(caught.value) and "(lists.py)" in str(caught.value)


def test_one_need_may_be_written_as_it_is():
    def loss(step, targets):
        return step.outputs.logits[-1].square().mean()

    loss.needs = "index"
    task = compose("test_resnet", Method({"mine": Term(loss)}), num_classes=3, image_size=32).task()
    with pytest.raises(KdError, match="needs the samples' numbers"):
        task(torch.zeros(2, 3, 32, 32), torch.zeros(2, dtype=torch.long))


def test_where_training_stands_is_said_in_the_line_of_the_step():
    """`task.train().at(...)` invites one to go on."""
    task = compose("test_resnet", "plain", num_classes=3, image_size=32).task()
    answer = task.train().at(epoch=1, progress=0.5)(torch.zeros(2, 3, 32, 32), torch.zeros(2, dtype=torch.long))
    assert "loss" in answer


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

"""Every hook of the contract has an example here, in one loose file, and is called as its specification says."""

import inspect
import sys

import pytest
import torch

import kdcore
from kdcore import hookspecs
from kdcore.events import Events
from kdcore.hookspecs import EVENTS, FAMILIES
from kdcore.plugins import Plugins
from kdcore.preparing import resolve_recipe

EXAMPLE = """
import timm
from torch import nn
from kdcore import CE, Method, MultiExit, Phase, SoftTargets, Term, hookimpl
from kdcore.exits import Branch, Pooled

CALLS = []

def pooled(backbone, context, *, bias: bool = True):
    CALLS.append("exits")
    branches = [Branch(Pooled(), nn.Linear(tap.channels, context.num_classes, bias=bias)) for tap in backbone.taps[:-1]]
    return MultiExit(backbone, branches)

def shallowest(step):
    CALLS.append("soft_targets")
    return SoftTargets(logits=step.outputs.logits[:1])

def gap(step, targets, *, power: int = 2):
    CALLS.append("losses")
    return sum((logits - targets.logits[0]).abs().pow(power).mean() for logits in step.outputs.logits)

def twice(context, *, epochs: int = 1):
    CALLS.append("schedules")
    first = yield Phase("first", epochs=epochs)
    CALLS.append(("sent", first.phase.name))
    yield Phase("second", epochs=epochs)

def paper(*, alpha: float = 0.1):
    CALLS.append("methods")
    terms = {"ce": Term(CE()), "gap": Term(gap, source="shallowest", weight=alpha, exits="deepest")}
    return Method(exits=pooled, sources={"shallowest": shallowest}, terms=terms, schedule=twice)

def tiny(pretrained=False, **kwargs):
    CALLS.append("backbones")
    return timm.create_model("test_resnet", pretrained=False, **kwargs)

def errors(logits, labels):
    CALLS.append("metrics")
    return {"errors": float((logits.argmax(1) != labels).sum())}

def curve(run, *, split: str = "test"):
    return f"{run} {split}"

@hookimpl
def exits():
    return {"pooled": pooled}
@hookimpl
def soft_targets():
    return {"shallowest": shallowest}
@hookimpl
def losses():
    return {"gap": gap}
@hookimpl
def schedules():
    return {"twice": twice}
@hookimpl
def methods():
    return {"paper": paper}
@hookimpl
def backbones():
    return {"tiny": tiny}
@hookimpl
def metrics():
    return {"errors": errors}
@hookimpl
def analyses():
    return {"curve": curve}
@hookimpl
def run_start(run):
    CALLS.append(("run_start", run))
@hookimpl
def log(run, record):
    CALLS.append(("log", record))
@hookimpl
def epoch_end(run, record):
    CALLS.append(("epoch_end", record))
@hookimpl
def run_end(run, results):
    CALLS.append(("run_end", results))
"""

RAISES = """
from kdcore import hookimpl

@hookimpl
def run_start(run):
    print("started")
@hookimpl
def log(run, record):
    raise RuntimeError("no space left")
@hookimpl
def run_end(run, results):
    print("ended")
"""

SIGNATURES = {
    **{family: [] for family in FAMILIES},
    "run_start": ["run"],
    "log": ["run", "record"],
    "epoch_end": ["run", "record"],
    "run_end": ["run", "results"],
}


@pytest.fixture
def example(tmp_path):
    path = tmp_path / "example.py"
    path.write_text(EXAMPLE)
    return str(path)


@pytest.mark.parametrize("hook", FAMILIES + EVENTS)
def test_every_hook_has_the_signature_that_is_promised(hook):
    specification = getattr(hookspecs, hook)
    assert list(inspect.signature(specification).parameters) == SIGNATURES[hook] and specification.__doc__
    assert f"def {hook}({', '.join(SIGNATURES[hook])}):" in EXAMPLE


def test_there_are_no_other_hooks():
    found = {name for name, value in vars(hookspecs).items() if hasattr(value, "kdcore_spec")}
    assert found == set(FAMILIES + EVENTS)
    assert not any(getattr(hookspecs, name).kdcore_spec["firstresult"] for name in found)  # who wins would depend on what is installed


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("exits", "example.pooled"),
        ("soft_targets", "example.shallowest"),
        ("losses", "example.gap"),
        ("schedules", "example.twice"),
        ("methods", "example.paper"),
        ("backbones", "example/tiny"),
        ("metrics", "example.errors"),
        ("analyses", "example.curve"),
    ],
)
def test_each_family_gives_its_parts(example, family, name):
    plugins = Plugins([example])
    assert list(plugins.parts_of("example", family)) == [name]
    assert plugins.part(family, name).target.__name__ == name[8:]
    assert plugins.part(family, "example").name == name


def test_every_hook_takes_part_in_a_run(example, tmp_path):
    trained = kdcore.train(
        "example/tiny", "digits", run=tmp_path / "run", method="example.paper", plugin=[example], labels_per_class=7, epochs=1,
        batch_size=32, amp="none", channels_last=False, device="cpu", img_size=16, log_interval=1,
    )  # fmt: skip
    calls = sys.modules["kdcore_file_example"].CALLS
    assert {"exits", "soft_targets", "losses", "schedules", "methods", "backbones", "metrics", ("sent", "first")} <= {
        call for call in calls if isinstance(call, str) or call[0] == "sent"
    }
    events = [call for call in calls if isinstance(call, tuple) and call[0] in EVENTS]
    names = [name for name, _ in events]
    logs = [fact for name, fact in events if name == "log"]
    assert names == ["run_start", *["log"] * (len(logs) // 2), "epoch_end", *["log"] * (len(logs) // 2), "epoch_end", "run_end"]
    assert events[0][1].path == trained.run.path
    assert {"epoch", "step", "steps", "lr", "loss", "ce", "gap"} == set(logs[0])
    assert [fact for name, fact in events if name == "epoch_end"] == trained.run.metrics()
    assert events[-1][1] == trained.results
    test = trained.results["last"]["test"]
    assert "errors" in str(test), test


def test_one_that_raises_is_reported_and_dropped_and_the_others_go_on(tmp_path, example, capsys):
    (tmp_path / "raises.py").write_text(RAISES)
    reports = []
    events = Events(Plugins([str(tmp_path / "raises.py"), example]), reports.append)
    events.fire("run_start", run="a run")
    for step in range(2):
        events.fire("log", run="a run", record={"step": step})
    events.fire("run_end", run="a run", results={})
    assert len(reports) == 1 and "plugin 'raises'" in reports[0] and "failed in log: RuntimeError: no space left" in reports[0]
    assert capsys.readouterr().out == "started\n"
    calls = sys.modules["kdcore_file_example"].CALLS
    assert calls == [("run_start", "a run"), ("log", {"step": 0}), ("log", {"step": 1}), ("run_end", {})]


def test_a_plugin_is_named_in_the_recipe_of_a_configuration(example):
    from kdcore.config import read_config

    config = read_config({"model": "test_resnet", "data": "digits", "method": "example.paper", "plugin": [example], "smoothing": 0.1})
    recipe = resolve_recipe(config, Plugins(config.plugin))
    assert recipe.method.terms["ce"].loss.label_smoothing == 0.1 and recipe.labels["term gap"] == "loss 'example.gap' (example.py)"
    assert torch.is_tensor(recipe.method.terms["ce"].loss(_step()))


def _step():
    from kdcore import Batch, Outputs, Step

    return Step(Batch(torch.zeros(2, 1, 1, 1), torch.tensor([0, 1])), Outputs([torch.zeros(2, 2)]), torch.zeros(()), torch.zeros(()))

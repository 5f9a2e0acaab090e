"""The docs for authors say what is: generated pages are up to date, the first plugin is the page's, errors are printed as they are quoted."""

import dataclasses
import importlib.util
import inspect
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch

import kdcore
from kdcore import hookspecs
from kdcore.composition import compose
from kdcore.config import Config
from kdcore.errors import KdError
from kdcore.hookspecs import EVENTS, FAMILIES
from kdcore.plugins import Plugins

ROOT = Path(__file__).parents[1]
AUTHORS = ROOT / "docs/authors"
FIRST = AUTHORS / "first_plugin"
TITLED = re.compile(r"^```\w+ title=(\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def reference():
    spec = importlib.util.spec_from_file_location("docs_reference", ROOT / "docs/tools/reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# -- what the code writes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", ["docs/authors/hooks.md", "docs/plugins.md"])
def test_written_pages_are_up_to_date(page):
    assert reference().PAGES[page]() == (ROOT / page).read_text(encoding="utf-8"), (
        f"run python docs/tools/reference.py, which writes {page}"
    )


@pytest.mark.parametrize("hook", FAMILIES + EVENTS)
def test_every_hook_stands_in_the_docs_with_its_signature_and_has_a_test(hook):
    signature = f"@hookimpl\ndef {hook}{inspect.signature(getattr(hookspecs, hook))}:\n"
    assert signature in (AUTHORS / "hooks.md").read_text()
    assert signature in (ROOT / "tests/test_hooks.py").read_text()
    pages = [path.name for path in AUTHORS.glob("*.md") if path.name != "hooks.md" and f"@hookimpl\ndef {hook}(" in path.read_text()]
    assert pages or hook == "log", f"no page has an example of {hook}"


def test_every_field_of_the_vocabulary_stands_in_the_docs():
    text = (AUTHORS / "hooks.md").read_text()
    for module, names in reference().CLASSES.values():
        for name in names:
            found = getattr(importlib.import_module(f"kdcore.{module}"), name)
            section = text.partition(f"### {name}\n")[2].partition("\n### ")[0]
            assert not [f.name for f in dataclasses.fields(found) if f"| `{f.name}` |" not in section], name


def test_every_plugin_stands_in_the_directory():
    text = (ROOT / "docs/plugins.md").read_text()
    for path in ROOT.glob("plugins/*/pyproject.toml"):
        about = tomllib.loads(path.read_text())["project"]
        assert f"`{about['name']}`" in text and about["description"] in text and about["urls"].get("Paper", "") in text


# -- the first plugin -------------------------------------------------------------------------------------------------------


def test_the_page_shows_the_files_of_the_first_plugin():
    shown = dict(TITLED.findall((AUTHORS / "first-plugin.md").read_text()))
    assert set(shown) == {"my_idea.py", "zscore/pyproject.toml", "zscore/tests/test_zscore.py"}
    for name, text in shown.items():
        assert text == (FIRST / name).read_text(), name
    assert (FIRST / "zscore/kdcore_zscore/__init__.py").read_text() == shown["my_idea.py"]


def test_kd_new_writes_the_files_of_the_first_plugin(tmp_path, monkeypatch, capsys):
    from kdcli.main import kd

    monkeypatch.chdir(tmp_path)
    shutil.copy(FIRST / "my_idea.py", tmp_path)
    with pytest.raises(SystemExit) as stop:
        kd.main(["new", "zscore", "--from", "my_idea.py"], prog_name="kd")
    assert stop.value.code in (0, None)
    assert files_of(tmp_path / "zscore") == files_of(FIRST / "zscore")
    written, ours = (tomllib.loads((folder / "zscore/pyproject.toml").read_text()) for folder in (tmp_path, FIRST))
    for about in (written, ours):
        for name in ("description", "keywords", "authors"):  # what is left to the author
            del about["project"][name]
    assert written == ours
    assert (tmp_path / "zscore/kdcore_zscore/__init__.py").read_text() == (FIRST / "my_idea.py").read_text()


def files_of(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file() and "cache" not in str(path)}


def test_the_first_plugin_trains_a_step():
    plugins = Plugins([str(FIRST / "my_idea.py")])
    composed = compose(
        "test_resnet", "deep-supervision", num_classes=4, image_size=32, plugins=plugins, losses=["my_idea.zscore@deepest:shallow"]
    )
    task = composed.task().train()
    answer = task(torch.randn(8, 3, 32, 32), torch.arange(8) % 4)
    answer["loss"].backward()
    assert answer["my_idea.zscore"] > 0
    assert all(parameter.grad is not None for parameter in task.get_clip_parameters())


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_first_plugin_is_installed_and_passes_its_tests(tmp_path):
    copied, site = tmp_path / "zscore", tmp_path / "site"
    shutil.copytree(FIRST / "zscore", copied)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target", str(site), str(copied)]
    subprocess.run(pip, check=True, timeout=300)
    environment = {**os.environ, "PYTHONPATH": str(site), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(copied)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=1200, cwd=copied)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


def test_the_cost_of_a_new_loss_is_counted():
    text = (AUTHORS / "index.md").read_text()
    code = len((FIRST / "my_idea.py").read_text().splitlines())
    packaged = code + len((FIRST / "zscore/pyproject.toml").read_text().splitlines())
    assert f"| kdcore, to try it | logit standardisation | 1 new | {code} |" in text
    assert f"| kdcore, to publish it | logit standardisation | 2 new | {packaged} |" in text
    dkd = (ROOT / "examples/kdcore-dkd/kdcore_dkd/__init__.py").read_text().splitlines()
    assert "| kdcore, to try it | DKD, with its method | 1 new | about 80 |" in text and abs(len(dkd) - 80) <= 5


# -- the kit that the pages describe ----------------------------------------------------------------------------------------


def test_the_page_on_testing_names_what_the_kit_has():
    from kdcore import testing
    from kdcore.testing.base import LIMITS

    text = (AUTHORS / "testing.md").read_text()
    classes = [getattr(testing, name) for name in testing.__all__ if name.endswith("Tests")]
    assert not [kind.__name__ for kind in classes if f"`{kind.__name__}`" not in text]
    checks = {name for kind in classes for name in dir(kind) if name.startswith("test_")}
    assert checks == set(re.findall(r"`(test_\w+)`", text.partition("## What is checked")[2].partition("\n## ")[0]))
    assert not [limit for limit in LIMITS if f"`{limit}`" not in text]


# -- names in Python ---------------------------------------------------------------------------------------------------------


def names_of(heading, column):
    """What stands in backticks in one column of the tables below a heading of the page, up to the next heading of its kind."""
    text = (AUTHORS / "names.md").read_text()
    section = (text.partition(f"{heading}\n")[2] if heading else text).partition("\n## ")[0]
    rows = [line.split(" | ") for line in section.splitlines() if line.startswith("| ")]
    return {name for row in rows for name in re.findall(r"`([\w.]+)`", row[column])}


def test_names_that_the_page_lists_are_those_that_there_are():
    assert names_of("", 1) - {"kdcore"} >= set(kdcore.__all__)
    listed = {name for name in names_of("", 1) if "." not in name and name != "kdcore"}
    assert listed == set(kdcore.__all__) and all(hasattr(kdcore, name) for name in listed)
    within = [name.rpartition(".") for name in names_of("", 0) if name.startswith("kdcore.")]
    assert len(within) > 10
    for module, _, name in within:
        assert hasattr(importlib.import_module(module), name) or importlib.util.find_spec(f"{module}.{name}"), f"{module}.{name}"


def test_keywords_of_compose_that_the_page_lists_are_those_that_there_are():
    listed = {name for name in names_of("## Composing and training", 0) if name != "compose"}
    parameters = inspect.signature(kdcore.compose).parameters.values()
    keywords = {parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}
    train = {name for name, parameter in inspect.signature(kdcore.train).parameters.items() if parameter.kind is parameter.KEYWORD_ONLY}
    facts = {"epochs", "batch_size", "steps_per_epoch", "num_samples", "has_dev", "soft_labels"}
    assert listed - {"train"} == keywords | train | facts | {"method", "loss"}
    assert facts <= {field.name for field in dataclasses.fields(kdcore.Context)} and {"method", "loss"} <= set(Config.model_fields)


# -- the errors that the pages quote ----------------------------------------------------------------------------------------

USES = "import kdcore\nfrom kdcore import CE, Method, MultiExit, Phase, SoftTargets, Term, hookimpl, needs\n"
LOSS = USES + "@hookimpl\ndef losses():\n    return {'x': x}\n"
SOURCE = USES + "@hookimpl\ndef soft_targets():\n    return {'x': x}\n"
METHOD = USES + "@hookimpl\ndef methods():\n    return {'x': x}\n"
EXITS = USES + "@hookimpl\ndef exits():\n    return {'x': x}\n"
SCHEDULE = USES + "@hookimpl\ndef schedules():\n    return {'x': x}\n"
LOSSES, SOURCES = {"losses": ["x"]}, {"losses": ["kl@x"]}
TAKEN, SCHEDULED = {"method": "x"}, {"schedule": "x"}
FOUR = {"method": "deep-supervision"}

ERRORS = [
    ("components", "has no option 'power': options are keyword-only; write", LOSS + "def x(step, targets, power=2): return 0", LOSSES | {"options": {"x.power": 1}}),
    ("components", "option 'power' has no type", LOSS + "def x(step, targets, *, power=2): return 0", LOSSES),
    ("components", "takes **kwargs: name its options as keyword-only parameters", LOSS + "def x(step, targets, **kwargs): return 0", LOSSES),
    ("components", "declares a need that kdcore does not know: teachers", LOSS + "@needs('teachers')\ndef x(step, targets): return 0", LOSSES),
    ("components", "must map names to classes or functions", LOSS + "x = 3", LOSSES),
    ("components", "unknown hook 'loses'; did you mean 'losses'?", USES + "@hookimpl\ndef loses(): return {}", {}),
    ("components", "cannot be imported: ModuleNotFoundError: No module named 'x'", "import x.y", {}),
    ("losses", "must return a scalar tensor, not (4,)", LOSS + "def x(step, targets): return step.outputs.logits[0][:4, 0]", LOSSES),
    ("losses", "a loss must stay finite", LOSS + "def x(step, targets): return step.outputs.logits[0].mean() / 0", LOSSES),
    ("losses", "it was given no soft targets: write --loss NAME@SOURCE", LOSS + "def x(step, targets): return targets.logits[0].mean()", LOSSES),
    ("losses", "reads no soft targets", LOSS + "def x(step, targets): return step.outputs.logits[0].mean()\nx.reads = ()", FOUR | {"losses": ["x@deepest"]}),
    ("losses", "trains nothing: its terms reach no parameter", METHOD + "def loss(step, targets): return step.outputs.logits[0].detach().mean()\ndef x(): return Method(terms={'t': Term(loss)})", TAKEN),
    ("soft-targets", "must return kdcore.SoftTargets, not Tensor", SOURCE + "def x(step): return step.outputs.logits[0]", SOURCES),
    ("soft-targets", "gives Tensor as probs, which must be a list of tensors", SOURCE + "def x(step): return SoftTargets(probs=step.outputs.logits[0])", SOURCES),
    ("soft-targets", "gives 2 logits for 4 exits; one, or one for each, is needed", SOURCE + "def x(step): return SoftTargets(logits=step.outputs.logits[:2])", FOUR | SOURCES),
    ("soft-targets", "have 5 classes and an exit that imitates them has 3", SOURCE + "def x(step): return SoftTargets(logits=[step.outputs.logits[0][:, [0, 1, 2, 0, 1]]])", SOURCES),
    ("soft-targets", "needs a teacher: add --teacher", SOURCE + "@needs('teacher')\ndef x(step): return SoftTargets()", SOURCES),
    ("exits", "must return a module, not list", EXITS + "def x(backbone, context): return []", FOUR | {"exits": "x"}),
    ("exits", "4 branches for 3 taps before the last stage", EXITS + "def x(backbone, context): return MultiExit(backbone, [None] * 4)", FOUR | {"exits": "x"}),
    ("schedules", "must yield kdcore.Phase, not str", SCHEDULE + "def x(context): yield 'main'", SCHEDULED),
    ("schedules", "yields no phase", SCHEDULE + "def x(context):\n    return\n    yield", SCHEDULED),
    ("schedules", "names terms that the method lacks", SCHEDULE + "def x(context): yield Phase(terms=('hint',))", SCHEDULED),
    ("schedules", "has the start 'best'; it can be stands, pretrained, fresh", SCHEDULE + "def x(context): yield Phase(start='best')", SCHEDULED),
    ("schedules", "without a dev split a result has no metrics", SCHEDULE + "def x(context):\n    result = yield Phase()\n    result.metrics['top1']", SCHEDULED | {"has_dev": False}),
    ("schedules", "trains nothing: its terms reach no parameter", SCHEDULE + "def x(context): yield Phase(trains=('teacher',))", SCHEDULED),
    ("methods", "must return a kdcore.Method, not NoneType", METHOD + "def x(): pass", TAKEN),
    ("methods", "has no terms, so there is nothing to train on", METHOD + "def x(): return Method(terms={})", TAKEN),
    ("methods", "its term 'kd' names the source 'mean', and it has none", METHOD + "def x(): return Method(terms={'kd': Term(CE(), source='mean')})", TAKEN),
    ("methods", "its term 'ce' must be a kdcore.Term, not CE", METHOD + "def x(): return Method(terms={'ce': CE()})", TAKEN),
    ("methods", "no term can be called 'loss'", METHOD + "def x(): return Method(terms={'loss': Term(CE())})", TAKEN),
    ("methods", "must be a number or a function of Where", METHOD + "def x(): return Method(terms={'ce': Term(CE(), weight='a')})", TAKEN),
]  # fmt: skip


@pytest.mark.parametrize(("page", "line", "code", "settings"), ERRORS, ids=[f"{page}: {line[:40]}" for page, line, _, _ in ERRORS])
def test_errors_are_printed_as_the_pages_quote_them(page, line, code, settings, tmp_path):
    assert f"`{line}" in (AUTHORS / f"{page}.md").read_text() or f"{line} ..." in (AUTHORS / f"{page}.md").read_text()
    file, rest = tmp_path / "x.py", dict(settings)
    file.write_text(code)
    with pytest.raises(KdError) as caught:
        compose(
            "test_resnet", rest.pop("method", "plain"), num_classes=3, image_size=32, batch_size=4, plugins=Plugins([str(file)]), **rest
        )
    assert line in str(caught.value) and "\n" not in str(caught.value)


def test_a_module_without_an_init_is_a_component(tmp_path):
    code = (
        LOSS
        + "from torch import nn\nclass x(nn.Module):\n    def forward(self, step, targets): return step.outputs.logits[0].square().mean()"
    )
    (tmp_path / "x.py").write_text(code)
    compose("test_resnet", "plain", num_classes=3, image_size=32, plugins=Plugins([str(tmp_path / "x.py")]), losses=["x"])


def test_a_hook_without_its_mark_is_told_where_its_part_is_asked_for(tmp_path):
    (tmp_path / "x.py").write_text("def losses(): return {'x': x}\ndef x(step, targets): return step.outputs.logits[0].mean()")
    with pytest.raises(KdError, match=r"has no loss 'x'; its losses\(\) is not called: write @kdcore.hookimpl above it"):
        Plugins([str(tmp_path / "x.py")]).part("losses", "x")
    (tmp_path / "y.py").write_text("import kdcore\n@kdcore.hookimpl\ndef losses(): return {}")
    with pytest.raises(KdError, match=r"has no loss 'y'; it has none$"):
        Plugins([str(tmp_path / "y.py")]).part("losses", "y")


# -- the site ---------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_site_builds_and_no_link_leads_nowhere(tmp_path):
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(words, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    for page in ("index.html", "tutorial.html", "authors/first-plugin.html", "authors/hooks.html", "plugins/byot.html"):
        assert (tmp_path / "site" / page).is_file(), page

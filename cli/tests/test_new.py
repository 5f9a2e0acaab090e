"""`kd new`: every family's template and loose files become plugins that load, name themselves rightly, and pass their own tests."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from kdcli.new_families import CORE_PARTS, FAMILIES, full_name
from kdcli.new_files import template_part
from kdcore.plugins import CORE, SINGULAR, Plugins, installed

ROOT = Path(__file__).parents[2]
IDEA = '''"""Keeps logits small, and says so (Doe et al., arXiv:2101.00001). A second sentence."""
from dataclasses import dataclass
from typing import Annotated

import click
import torch
from annotated_types import Gt

from kdcore import CE, Method, Term, hookimpl


@dataclass(frozen=True, kw_only=True)
class Small:
    """The logits' mean square. power: of the size, above 0; 2 in the paper. scale: a factor."""

    power: Annotated[float, Gt(0)] = 2.0
    scale: float = 1.0
    reads = ()

    def __call__(self, step, targets=None):
        return self.scale * torch.stack([entry.float().abs().pow(self.power).mean() for entry in step.outputs.logits]).sum()


@hookimpl
def losses():
    return {"small": Small}


@hookimpl
def methods():
    return {"calm": calm}


def calm(*, weight: float = 0.1) -> Method:
    """CE and weight times the size. weight: of the size."""
    return Method(terms={"ce": Term(CE()), "small": Term(Small(), weight=weight)})


@hookimpl
def run_end(run, results):
    print("done")
'''

TAUGHT = '''"""Imitate how a teacher's answers relate, in 8 lines."""
from kdcore import CE, KL, Method, Term, hookimpl, teacher


def taught(*, beta: float = 2.0) -> Method:
    """CE and beta times KL to the teacher. beta: of the teacher."""
    return Method(sources={"teacher": teacher}, terms={"ce": Term(CE()), "kd": Term(KL(), source="teacher", weight=beta)})


@hookimpl
def methods():
    return {"taught": taught}
'''
MEMORY = (
    re.findall(r"```python title=before.py\n(.*?)```", (ROOT / "docs/authors/soft-targets.md").read_text(), re.DOTALL)[0]
    + '''

def remembering(*, alpha: float = 0.5):
    """CE and alpha times KL to the memory. alpha: of the memory."""
    from kdcore import CE, KL, Method, Term

    return Method(sources={"before": Before()}, terms={"ce": Term(CE()), "kd": Term(KL(), source="before", weight=alpha)})


@hookimpl
def methods():
    return {"remembering": remembering}
'''
)
"""The documentation's source with a memory, in a method."""
FIXED = '''"""Embeddings that are drawn to a fixed place: a source that serves no other loss, and a method whose options have no default."""
from typing import Annotated, Literal

import torch
from annotated_types import Gt

from kdcore import CE, Method, SoftTargets, Term, hookimpl, needs


@needs("views")
def origin(step):
    """The origin, for every exit."""
    return SoftTargets(extras={"origin": torch.zeros_like(step.outputs.embeddings[-1])})


def near(step, targets, *, kind: Literal["l1", "l2"] = "l2"):
    """The distance. kind: of the norm."""
    gap = step.outputs.embeddings[-1].float() - targets.extras["origin"]
    return gap.abs().mean() if kind == "l1" else gap.square().mean()


def fixed(*, weight: Annotated[float, Gt(1)], kind: Literal["l1", "l2"]) -> Method:
    """CE and weight times the distance. weight: of the distance. kind: of the norm."""
    from functools import partial

    return Method(sources={"origin": origin}, terms={"ce": Term(CE()), "near": Term(partial(near, kind=kind), source="origin", weight=weight)})


def free(*, weight: float = 0.1) -> Method:
    """The same with less. weight: of the distance."""
    return Method(sources={"origin": origin}, terms={"ce": Term(CE()), "near": Term(near, source="origin", weight=weight)})


@hookimpl
def soft_targets():
    return {"origin": origin}


@hookimpl
def methods():
    return {"fixed": fixed, "free": free}
'''
LOOSE = {"calm_idea": IDEA, "taught": TAUGHT, "before": MEMORY, "fixed": FIXED}


def python_of(folder):
    return sorted(folder.rglob("*.py"))


def install(folder, place, monkeypatch):
    """What `pip install -e` leaves behind, as far as Python reads it: the folder on the path, and the metadata of pyproject.toml."""
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    info = place / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir(parents=True)
    urls = "".join(f"Project-URL: {name}, {link}\n" for name, link in project["urls"].items())
    heads = f"Metadata-Version: 2.4\nName: {project['name']}\nVersion: {project['version']}\nSummary: {project['description']}\n"
    urls += "".join(f"Requires-Dist: {wanted}\n" for wanted in project["dependencies"])
    (info / "METADATA").write_text(f"{heads}Keywords: {','.join(project['keywords'])}\n{urls}")
    entries = project["entry-points"]["kdcore"]
    (info / "entry_points.txt").write_text("[kdcore]\n" + "".join(f"{name} = {module}\n" for name, module in entries.items()))
    monkeypatch.syspath_prepend(str(place))
    monkeypatch.syspath_prepend(str(folder))


def snippets(folder):
    return re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), flags=re.DOTALL)


@pytest.fixture(scope="module")
def every(tmp_path_factory):
    """One plugin of each family, `a-loss` and so on, and one from each loose file."""
    from click.testing import CliRunner

    from kdcli.main import kd

    place = tmp_path_factory.mktemp("every")
    lines = [["new", f"a-{family}", "--family", family] for family in FAMILIES]
    for file, code in LOOSE.items():
        (place / f"{file}.py").write_text(code)
        lines.append(["new", "--from", str(place / f"{file}.py")])
    for line in lines:
        done = CliRunner().invoke(kd, [*line, "--dir", str(place / "plugins"), "--author", "Jane Doe"])
        assert done.exit_code == 0, done.output
    return place / "plugins"


@pytest.mark.parametrize("family", FAMILIES)
def test_files_and_metadata(every, family):
    name, folder = f"a-{family}", every / f"a-{family}"
    module = name.replace("-", "_")
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == {
        *("pyproject.toml", "README.md", "LICENSE", ".gitignore", ".github/workflows/test.yml"),
        *(f"kdcore_{module}/__init__.py", f"tests/test_{module}.py", "tests/test_readme.py"),
    }
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert project["name"] == f"kdcore-{name}"
    assert project["entry-points"]["kdcore"] == {name: f"kdcore_{module}"}
    assert {f"kdcore:{family}", "kdcore-api:1"} <= set(project["keywords"])
    assert project["urls"]["Paper"].startswith("https://")
    assert "kdcore[testing]" in project["optional-dependencies"]["test"][0]
    tests = (folder / "tests" / f"test_{module}.py").read_text()
    assert f"({FAMILIES[family].tests}):" in tests and "(PluginTests):" in tests
    for path in python_of(folder):
        ast.parse(path.read_text())
        assert "$" not in path.read_text()
    assert "Jane Doe" in (folder / "LICENSE").read_text()
    readme = (folder / "README.md").read_text()
    assert re.findall(r"^##? .*", readme, re.MULTILINE) == [
        f"# kdcore-{name}", *("## Install", "## Use", "## Options", "## Test", "## Citation")
    ]  # fmt: skip
    assert "$" not in readme and snippets(folder)
    assert "${{ matrix.python }}" in (folder / ".github/workflows/test.yml").read_text()


def test_every_plugin_is_found_and_its_readme_says_its_options(every, tmp_path, monkeypatch):
    """The tables of the templates stand in kdcli, so that `kd new` needs no torch: here they are held against the code."""
    from kdcli.new_from import found

    for family in FAMILIES:
        install(every / f"a-{family}", tmp_path / "site", monkeypatch)
    plugins = Plugins()
    infos = {info.name: info for info in installed()}
    for family, kind in FAMILIES.items():
        name = f"a-{family}"
        assert infos[name].families == (family.replace("-", "_"),)
        if family == "logger":
            plugins.load(name)
            assert "epoch_end" in dir(plugins.manager.get_plugin(name))
            continue
        (part,) = plugins.parts_of(name, kind.hook).values()
        assert part.name == full_name(name, kind.hook, template_part(name, family).part)
        own = found(part, name)
        assert own.options == kind.options and not own.required
        readme = (every / name / "README.md").read_text()
        for row in kind.options:
            assert f"| `{row.name}` | {row.type} | `{row.default}` | {row.meaning} |" in readme
        assert part.target.__doc__.strip()


@pytest.mark.parametrize("family", ["loss", "soft-targets"])
def test_the_readme_s_snippet_trains_a_step(every, tmp_path, monkeypatch, capsys, family):
    install(every / f"a-{family}", tmp_path / "site", monkeypatch)
    (snippet,) = snippets(every / f"a-{family}")
    names = {}
    exec(compile(snippet, "README.md", "exec"), names)
    assert names["answer"]["loss"] > 0
    assert any(parameter.grad is not None for parameter in names["composed"].student.parameters())


def test_the_metric_and_the_logger_do_what_they_say(every, tmp_path, monkeypatch):
    import torch

    for family in ("metric", "logger"):
        install(every / f"a-{family}", tmp_path / "site", monkeypatch)
    plugins = Plugins(["a-logger"])
    brier = plugins.part("metrics", "a-metric").target
    assert brier(torch.tensor([[60.0, -60.0]]), torch.tensor([1])) == pytest.approx(2)

    class Run:
        path = tmp_path

        def metrics(self):
            return [{"epoch": 1, "dev": {"top1": 50.0}}, {"epoch": 2, "dev": {"top1": 60.0}, "stop": "enough"}]

    plugins.manager.hook.epoch_end(run=Run(), record={})
    assert (tmp_path / "epochs.csv").read_text().splitlines() == ["epoch,dev/top1,stop", "1,50.0,", "2,60.0,enough"]


def test_ruff_has_nothing_to_say(every, tmp_path):
    """By the repository's configuration, where the plugins would stand in it."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "kdcore").symlink_to(ROOT / "kdcore")
    shutil.copytree(every, tmp_path / "plugins")
    for file in LOOSE:
        (tmp_path / "plugins" / file.replace("_", "-") / f"kdcore_{file}/__init__.py").unlink()  # that is its author's
    for line in (["check"], ["format", "--check"]):
        done = subprocess.run([sys.executable, "-m", "ruff", *line, "plugins"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout


def test_a_loose_file_is_packaged_as_it_is(every, tmp_path, monkeypatch):
    folder = every / "calm-idea"
    assert (folder / "kdcore_calm_idea/__init__.py").read_text() == IDEA
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert {"kdcore:loss", "kdcore:method", "kdcore:logger"} <= set(project["keywords"])
    assert project["urls"]["Paper"] == "https://arxiv.org/abs/2101.00001"
    assert project["description"] == "Keeps logits small, and says so (Doe et al., arXiv:2101.00001)"
    assert project["dependencies"][0] == "kdcore>=0.1,<1"
    assert [need.partition(">=")[0] for need in project["dependencies"][1:]] == ["click"]  # torch and annotated_types come with kdcore
    readme = (folder / "README.md").read_text()
    assert "| `power` | float > 0 | `2.0` | of the size, above 0; 2 in the paper |" in readme
    assert "Of the method `calm-idea.calm`:" in readme and "| `weight` | float | `0.1` | of the size |" in readme
    install(folder, tmp_path / "site", monkeypatch)
    plugins = Plugins()
    assert plugins.part("losses", "calm-idea.small").target().power == 2
    assert plugins.part("methods", "calm-idea").name == "calm-idea.calm"


def test_a_loose_file_s_method_is_tried_first(kd, tmp_path):
    (tmp_path / "calm_idea.py").write_text(IDEA)
    told = kd("new", "--from", "calm_idea.py").stdout
    assert re.findall(r"^  (kd .*)", told, re.MULTILINE) == ["kd train test_resnet_32px --data digits --epochs 1 --method calm-idea.calm"]
    assert "a loss 'calm-idea.small', a method 'calm-idea.calm', a logger 'calm-idea'" in told
    assert "word for word" in told and "put your idea" not in told
    readme = (tmp_path / "calm-idea/README.md").read_text()
    assert "### A loss: `calm-idea.small`" in readme and "deep-supervision --loss calm-idea.small\n" in readme  # it reads no soft targets


@pytest.mark.parametrize("name", ["taught", "before", "fixed"])
def test_snippets_of_a_loose_file_have_what_its_parts_need(every, tmp_path, monkeypatch, capsys, name):
    install(every / name, tmp_path / "site", monkeypatch)
    found = snippets(every / name)
    assert len(found) == {"taught": 1, "before": 2, "fixed": 1}[name]
    for snippet in found:
        names = {}
        exec(compile(snippet, "README.md", "exec"), names)
        assert names["answer"]["loss"] > 0


def test_commands_of_a_loose_file_have_what_its_parts_need(every):
    def commands(name):
        return re.findall(r"^kd .*", (every / name / "README.md").read_text(), re.MULTILINE)

    tiny = "kd train test_resnet_32px --data digits --epochs 1"
    assert commands("taught") == [f"{tiny} --run runs/teacher && {tiny} --method taught --teacher runs/teacher"]
    assert commands("before") == [f"{tiny} --method deep-supervision --loss kl@before", f"{tiny} --method before.remembering"]
    # what fits into no other method is shown in its own, and what has no default is given
    assert commands("fixed") == [f"{tiny} --method fixed.free", f"{tiny} --method fixed -o weight=2.0 -o kind=l1"]
    assert 'options = {"weight": 2.0, "kind": "l1"}' in (every / "fixed/tests/test_fixed.py").read_text()


def test_the_kit_takes_options_without_a_default_from_the_test(every, tmp_path, monkeypatch):
    from kdcore.testing import MethodTests

    install(every / "fixed", tmp_path / "site", monkeypatch)
    about = {"component": "fixed", "options": {"weight": 2.0, "kind": "l1"}}
    type("TestFixed", (MethodTests,), about)().test_bad_options_are_refused()
    with pytest.raises(pytest.fail.Exception, match="requires the option kind"):
        type("TestFixed", (MethodTests,), {**about, "options": {"weight": 2.0}})().test_bad_options_are_refused()


def test_a_loose_file_may_be_called_as_an_installed_plugin(kd, distribution, tmp_path):
    distribution("kdcore-taught", "taught", "")
    (tmp_path / "taught.py").write_text(TAUGHT)
    kd("new", "other", "--from", "taught.py")
    assert "--method other.taught --teacher" in (tmp_path / "other/README.md").read_text()


def test_what_the_package_of_a_loose_file_lacks_is_said(kd, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "lies_beside.py").write_text("")
    (tmp_path / "broken.py").write_text("import lies_beside\n" + TAUGHT.replace("KL()", "lambda step, targets: step.outputs.logits[0]"))
    told = " ".join(kd("new", "lost", "--from", "broken.py").stdout.split())
    assert "imports 'lies_beside', which lies beside it and is not in the package: copy it into lost/kdcore_lost," in told
    assert "No step could be trained with 'lost.taught', so the README does not show one: " in told
    assert "kd show lost.taught" in told and "kd train" not in told


def test_a_plugin_without_a_paper_is_told_what_to_do(every, tmp_path, monkeypatch):
    from _pytest.outcomes import Skipped, XFailed

    from kdcore.testing import PluginTests

    whole = type("TestPlugin", (PluginTests,), {"plugin": "a-loss"})
    folder = tmp_path / "a-loss"
    shutil.copytree(every / "a-loss", folder)
    project, readme = folder / "pyproject.toml", (folder / "README.md").read_text()
    assert "A plugin without\na paper: take both out" in readme and 'cannot = {"paper": "unpublished"}' in readme
    assert "paper" not in (every / "calm-idea/README.md").read_text().partition("## Install")[0]  # it has one
    install(folder, tmp_path / "site", monkeypatch)
    with pytest.raises(Skipped, match="take that line out"):
        whole().test_paper()
    project.write_text(re.sub("(?m)^Paper = .*$", "", project.read_text()))
    shutil.rmtree(tmp_path / "site")
    install(folder, tmp_path / "site", monkeypatch)
    with pytest.raises(pytest.fail.Exception, match=r"in the module"):
        whole().test_paper()
    with monkeypatch.context() as patch:
        patch.setattr(whole.module(), "cannot", {"paper": "unpublished"}, raising=False)
        with pytest.raises(XFailed, match="unpublished"):
            whole().test_paper()


def test_ci_against_main_is_skipped_rather_than_empty(every, kd, monkeypatch):
    import yaml

    def jobs(folder):
        return yaml.safe_load((folder / ".github/workflows/test.yml").read_text())["jobs"]

    for job in jobs(every / "a-loss").values():
        assert job["steps"][-1] == {"run": "pytest"}  # no step has a condition: a green job has run them
    assert jobs(every / "a-loss")["main"]["if"] == "vars.KDCORE_MAIN != '' || '' != ''"
    assert "variable KDCORE_MAIN" in kd("new", "mine").stdout
    for module in ("new", "new_files"):
        monkeypatch.setattr(f"kdcli.{module}.repository", lambda: "git+https://example.org/kdcore")
    assert "KDCORE_MAIN" not in kd("new", "other").stdout
    assert jobs(Path("other"))["main"]["env"]["KDCORE_MAIN"] == "${{ vars.KDCORE_MAIN || 'git+https://example.org/kdcore' }}"


def test_a_loose_file_s_parts_are_all_tested(every):
    tests = (every / "calm-idea/tests/test_calm_idea.py").read_text()
    assert re.findall(r"^class (\w+)\((\w+)\):\n    (.*)", tests, re.MULTILINE) == [
        ("TestPlugin", "PluginTests", 'plugin = "calm-idea"'),
        ("TestSmall", "LossTests", 'component = "calm-idea.small"'),
        ("TestCalm", "MethodTests", 'component = "calm-idea.calm"'),
        ("TestLogger", "LoggerTests", 'plugin = "calm-idea"'),
    ]
    assert 'component = "calm-idea.small"\n    method = "calm-idea.calm"' in tests


REFUSED = [
    (["My.Idea"], "has no dot"),
    (["MyIdea"], "cannot be a plugin's name: small letters, digits and single hyphens; kd new my-idea"),
    (["my_idea"], "kd new my-idea"),
    (["2fast"], "kd new fast"),
    (["kdcore-mine"], "kdcore-NAME by itself; kd new mine"),
    (["kdcore"], "belongs to kdcore"),
    (["mean-of-exits"], "belongs to kdcore"),
    (["cli"], "would make the distribution kdcore-cli"),
    ([], "kd new NAME"),
    (["mine", "--family", "los"], "'los' is not one of"),
    (["mine", "--from", "mine.py", "--family", "loss"], "leave --family out"),
    (["--from", "nothing.py"], "--from nothing.py: there is no such file"),
    (["--from", "nothing.txt"], "name ends in .py"),
    (["--from", "MyIdea.py"], "kd new my-idea --from MyIdea.py"),
    (["--from", "bare.py"], "has no hook that gives a part"),
    (["--from", "broken.py"], "cannot be imported: ZeroDivisionError"),
]


@pytest.mark.parametrize(("line", "says"), REFUSED, ids=[" ".join(line) or "nothing" for line, _ in REFUSED])
def test_refusals_are_one_line_and_write_nothing(kd, tmp_path, line, says):
    (tmp_path / "MyIdea.py").write_text("")
    (tmp_path / "bare.py").write_text("def losses():\n    return {}\n")
    (tmp_path / "broken.py").write_text("1 / 0")
    before = sorted(path.name for path in tmp_path.iterdir())
    done = kd("new", *line, status=74 if "no such file" in says else 2)
    assert says in done.output and len(done.output.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_an_installed_plugin_s_name_is_refused_with_its_distribution(kd, distribution):
    distribution("kdcore-sweet-one", "sweet_one", "")
    assert "the plugin name 'sweet_one' belongs to kdcore-sweet-one 1.2" in kd("new", "sweet-one", status=2).output


@pytest.mark.parametrize("kind", ["folder", "file", "dangling link"])
def test_nothing_is_overwritten(kd, tmp_path, kind):
    place = tmp_path / "mine"
    if kind == "folder":
        place.mkdir()
        (place / "kept.txt").write_text("kept")
    elif kind == "file":
        place.write_text("kept")
    else:
        place.symlink_to(tmp_path / "nowhere")
    assert "mine exists already" in kd("new", "mine", status=2).output
    assert not (tmp_path / "nowhere").exists()
    assert kind != "folder" or [path.name for path in place.iterdir()] == ["kept.txt"]


def test_what_it_says_next(kd, tmp_path):
    told = kd("new", "mine", "--dir", "some where").stdout
    assert (tmp_path / "some where/mine/kdcore_mine/__init__.py").is_file()
    commands = re.findall(r"^  (.*)", told, re.MULTILINE)
    assert commands[:2] == ["pip install -e 'some where/mine'", "pytest 'some where/mine'"]
    assert commands[2].startswith("kd train test_resnet_32px --data digits ") and commands[2].endswith("--loss mine.gap@deepest:shallow")
    assert len(commands) == 3
    assert "(rename 'gap' there, in tests/ and in README.md), and run pytest again." in told
    assert "rename" not in kd("new", "whole", "--family", "method").stdout  # it is called as the plugin is


def test_the_author_is_git_s_user_unless_given(kd, tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)
    (tmp_path / "gitconfig").write_text('[user]\n\tname = Émile \\"E\\" Zola\n')
    kd("new", "mine")
    assert tomllib.loads((tmp_path / "mine/pyproject.toml").read_text())["project"]["authors"] == [{"name": 'Émile "E" Zola'}]
    monkeypatch.setenv("PATH", "")
    kd("new", "other")
    assert "the authors of kdcore-other" in (tmp_path / "other/LICENSE").read_text()


def test_the_core_s_names_are_those_of_its_parts():
    plugins = Plugins()
    assert {name for family in SINGULAR for name in plugins.parts_of(CORE, family)} == set(CORE_PARTS)


def test_no_torch(tmp_path):
    code = "import sys\nfrom kdcli.main import kd\ntry:\n    kd.main(sys.argv[1:])\nfinally:\n    print('torch' in sys.modules, 'pydantic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, "new", "mine"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "False False", done.stderr


def test_the_wheel_holds_the_templates(tmp_path):
    from zipfile import ZipFile

    from hatchling.builders.wheel import WheelBuilder

    (wheel,) = WheelBuilder(str(ROOT / "cli")).build(directory=str(tmp_path), versions=["standard"])
    there = {f"kdcli/{path.relative_to(ROOT / 'cli/kdcli').as_posix()}" for path in (ROOT / "cli/kdcli/templates").rglob("*.tmpl")}
    assert len(there) == 6 + 3 * len(FAMILIES)
    assert there <= set(ZipFile(wheel).namelist())


# -- slow: as a user would ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(every, tmp_path_factory):
    """All of them installed by pip, editable, in a folder of their own."""
    place = tmp_path_factory.mktemp("site")
    folders = [word for folder in sorted(every.iterdir()) for word in ("-e", str(folder))]
    line = [
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--disable-pip-version-check",
        "--target",
        str(place),
        *folders,
    ]
    done = subprocess.run([sys.executable, "-m", *line], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return place


NEW = [f"a-{family}" for family in FAMILIES] + [file.replace("_", "-") for file in LOOSE]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", NEW)
def test_its_own_tests_are_green(every, site, name):
    path = os.pathsep.join([str(site), str(every / name)])
    line = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", name]
    done = subprocess.run(line, cwd=every, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-4000:]


@pytest.mark.slow
@pytest.mark.parametrize("name", NEW)
def test_the_command_that_tries_it_runs(every, tmp_path, monkeypatch, kd, name):
    from shlex import split

    install(every / name, tmp_path / "site", monkeypatch)
    lines = re.findall(r"^(kd .*)$", (every / name / "README.md").read_text(), re.MULTILINE)
    assert lines
    for line in dict.fromkeys(command.strip() for command in "&&".join(lines).split("&&")):
        small = ["--labels-per-class", "13", "--img-size", "16"] if line.startswith("kd train") else []
        kd(*split(line)[1:], *small)

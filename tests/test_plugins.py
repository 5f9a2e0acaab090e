"""Discovery: from metadata alone, imported only when named, and every failure named with its distribution."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kdcore.errors import FileError, KdError
from kdcore.mending import upgraded_by
from kdcore.plugins import FAMILIES, Plugins, family_keyword, installed

LOSS = """
from kdcore import hookimpl

def gap(step, targets=None, *, scale: float = 1.0):
    return scale * step.outputs.logits[-1].square().mean()

@hookimpl
def losses():
    return {"gap": gap}
"""


def refusal(call, *args, error=KdError) -> str:
    with pytest.raises(error) as caught:
        call(*args)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_metadata_says_everything_and_nothing_is_imported(distribution):
    module = distribution("one", "raise RuntimeError('imported')", keywords="distillation kdcore:loss,kdcore:soft-targets, kdcore-api:1")
    info = next(info for info in installed() if info.name == "one")
    assert (info.distribution, info.version, info.module, info.summary) == ("idea-one", "1.2", module, "An idea")
    assert (info.families, info.api, info.paper, info.label) == (("loss", "soft_targets"), 1, "https://arxiv.org/abs/1", "idea-one 1.2")
    assert module not in sys.modules
    assert {family_keyword(family) for family in FAMILIES} >= set(info.families)


def test_what_is_installed_here_is_found():
    found = {info.name: info for info in installed()}
    assert found["byot"].distribution == "kdcore-byot" and set(found["byot"].families) == {"exits", "loss", "method", "analysis"}


def test_only_the_plugin_that_is_named_is_imported(distribution):
    one, two = distribution("one"), distribution("two")
    plugins = Plugins()
    assert not {one, two} & set(sys.modules)
    plugins.part("losses", "kl")
    assert not {one, two} & set(sys.modules)
    assert plugins.part("losses", "one.gap").plugin.name == "one"
    assert one in sys.modules and two not in sys.modules
    assert set(plugins.loaded) == {"kdcore", "one"}


def test_a_part_by_its_full_name_or_by_the_plugins_where_it_is_the_only_one(distribution):
    distribution("one")
    distribution("two", LOSS.replace('{"gap": gap}', '{"gap": gap, "other": gap}'))
    distribution("self", LOSS.replace('{"gap": gap}', '{"self": gap, "other": gap}'))
    plugins = Plugins()
    part = plugins.part("losses", "one")
    assert part.name == "one.gap" and part.label == "loss 'one.gap' (idea-one 1.2)"
    assert plugins.part("losses", "one.gap") == part
    assert "plugin 'two' (idea-two 1.2) has no loss 'two'; there is: two.gap, two.other" in refusal(plugins.part, "losses", "two")
    assert "did you mean 'two.gap'?" in refusal(plugins.part, "losses", "two.gpa")
    assert plugins.part("losses", "self").name == "self" and plugins.part("losses", "self.other").name == "self.other"
    assert "has no exit attachment 'one.gap'; it has none" in refusal(plugins.part, "exits", "one.gap")
    assert plugins.name_of("losses", part.target) == part and plugins.name_of("losses", refusal) is None


def test_the_cores_parts_have_no_prefix_and_cannot_be_taken(distribution):
    distribution("kl", LOSS.replace('"gap"', '"kl"'))
    plugins = Plugins()
    assert plugins.part("losses", "kl").plugin.name == "kdcore"
    assert plugins.part("losses", "kl.kl").plugin.name == "kl"
    names = {family: set(plugins.parts_of("kdcore", family)) for family in FAMILIES}
    assert names["exits"] == {"linear"} and names["losses"] == {"ce", "kl", "mse"} and names["schedules"] == {"single"}
    assert names["soft_targets"] == {"deepest", "teacher", "mean-of-exits"} and names["methods"] == {"plain", "deep-supervision", "kd"}
    assert not names["backbones"] | names["metrics"] | names["analyses"]


def test_unknown_names_suggest_the_nearest():
    plugins = Plugins()
    assert "there is no method 'byto'; did you mean 'byot'?" in refusal(plugins.part, "methods", "byto")
    assert "there is no source of soft targets 'depest'; did you mean 'deepest'?" in refusal(plugins.part, "soft_targets", "depest")
    assert "there is no plugin 'byott'; did you mean 'byot'?" in refusal(plugins.load, "byott")
    assert "there is: " in refusal(plugins.part, "schedules", "zzzzzz")


def test_two_distributions_with_one_name_are_refused_with_both_named(distribution):
    distribution("twice", name="idea-first")
    distribution("twice", name="idea-second", version="3.0")
    distribution("one")
    plugins = Plugins()
    assert plugins.part("losses", "one.gap")
    message = refusal(plugins.part, "losses", "twice.gap")
    assert "two distributions claim the plugin name 'twice': idea-first 1.2 and idea-second 3.0; pip uninstall idea-second" in message


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import no_such_thing_at_all", "ModuleNotFoundError: No module named 'no_such_thing_at_all'"),
        ("raise RuntimeError('first line\\nsecond')", "RuntimeError: first line"),
        ("raise ValueError", "ValueError: no message"),
        ("def broken(:", "SyntaxError"),
        ("import sys; sys.exit('gone')", "SystemExit: gone"),
    ],
)
def test_a_plugin_that_cannot_be_imported_touches_no_run_that_does_not_name_it(distribution, code, reason):
    distribution("broken", code)
    distribution("one")
    plugins = Plugins()
    assert plugins.part("losses", "one.gap") and plugins.part("methods", "byot") and plugins.part("losses", "kl")
    message = refusal(plugins.part, "losses", "broken.gap")
    assert f"plugin 'broken' (idea-broken 1.2) cannot be imported: {reason}" in message
    mends = (
        "pip install idea-broken adds what it says it needs"
        if "No module" in reason
        else "pip install --force-reinstall --no-deps idea-broken"
    )
    assert message.endswith(f"; {mends}, or run without it")
    assert "broken" not in plugins.loaded


def test_a_module_that_is_not_there(distribution, tmp_path):
    distribution("ghost")
    (tmp_path / "idea_ghost.py").unlink()
    assert "plugin 'ghost' (idea-ghost 1.2) cannot be imported: ModuleNotFoundError" in refusal(Plugins().load, "ghost")


def test_metadata_that_is_missing(distribution):
    distribution("bare", metadata=False)
    info = next(info for info in installed() if info.name == "bare")
    assert info.families == () and info.api is None
    assert Plugins().part("losses", "bare.gap").plugin == info


@pytest.mark.parametrize(("api", "upgrade"), [(0, "idea-old"), (2, "kdcore")])
def test_another_api_is_refused_with_the_line_that_mends_it(distribution, api, upgrade):
    module = distribution("old", keywords=f"kdcore:loss,kdcore-api:{api}")
    message = refusal(Plugins().load, "old")
    assert f"plugin 'old' (idea-old 1.2) was written for kdcore API {api} and this is API 1; {upgraded_by(upgrade)}" in message
    assert module not in sys.modules


def test_a_misspelt_hook_is_refused(distribution):
    distribution("typo", LOSS.replace("def losses", "def loses"))
    plugins = Plugins()
    message = refusal(plugins.load, "typo")
    assert "plugin 'typo' (idea-typo 1.2)" in message and "'loses'" in message and "hooks are exits, soft_targets, losses" in message
    assert plugins.part("losses", "kl") and "typo" not in plugins.loaded


def test_a_hook_that_wants_arguments_it_does_not_get_is_refused(distribution):
    distribution("wants", LOSS.replace("def losses()", "def losses(config)"))
    message = refusal(Plugins().load, "wants")
    assert "plugin 'wants' (idea-wants 1.2)" in message and "config" in message


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ("[gap]", r"its hook losses() must return a dict of names, not list"),
        ('{"gap": 3}', "its hook losses() must map names to classes or functions, not 'gap' to 3"),
        ("{gap: gap}", "its hook losses() must map names to classes or functions"),
        ("1 / 0", "its hook losses() failed: ZeroDivisionError: division by zero"),
    ],
)
def test_what_a_hook_answers_is_checked(distribution, answer, says):
    distribution("odd", LOSS.replace('{"gap": gap}', answer))
    message = refusal(Plugins().part, "losses", "odd.gap")
    assert "plugin 'odd' (idea-odd 1.2)" in message and says in message


def test_order_does_not_matter(distribution):
    for name in ("one", "two", "three"):
        distribution(name)
    answers = []
    for order in (["one", "two", "three"], ["three", "one", "two"]):
        plugins = Plugins()
        for name in order:
            plugins.load(name)
        answers.append({(p, name, part.label) for p in order for name, part in plugins.parts_of(p, "losses").items()})
    assert answers[0] == answers[1] and len(answers[0]) == 3


# -- loose files ----------------------------------------------------------------------------------------------------------------


def loose(tmp_path, name="my_idea.py", code=LOSS) -> str:
    (tmp_path / name).write_text(code)
    return str(tmp_path / name)


def test_a_loose_file_is_a_plugin(tmp_path, distribution):
    path = loose(tmp_path)
    plugins = Plugins([path])
    part = plugins.part("losses", "my_idea.gap")
    assert part.name == "my_idea.gap" and part.label == "loss 'my_idea.gap' (my_idea.py)" and plugins.part("losses", "my_idea") == part
    assert Plugins([path, path]).part("losses", "my_idea") and "my_idea" not in Plugins().infos


def test_a_plugin_is_brought_by_its_name(distribution):
    module = distribution("one")
    assert "one" in Plugins(["one"]).loaded and module in sys.modules


@pytest.mark.parametrize(
    ("name", "code", "says"),
    [
        ("byot.py", LOSS, "the name 'byot' belongs to kdcore-byot"),
        ("kdcore.py", LOSS, "the name 'kdcore' belongs to kdcore"),
        ("my.idea.py", LOSS, "a plugin's name has no dot"),
        ("broken.py", "import no_such_thing", "cannot be imported: ModuleNotFoundError"),
        ("leaves.py", "raise SystemExit(3)", "cannot be imported: SystemExit: 3"),
        ("typo.py", LOSS.replace("def losses", "def lossses"), "lossses"),
    ],
)
def test_a_loose_file_that_will_not_do(tmp_path, distribution, name, code, says):
    path = loose(tmp_path, name, code)
    plugins = Plugins()
    assert says in refusal(plugins.add, path) and Path(name).stem not in plugins.loaded
    if code is not LOSS and name != "kdcore.py":
        (tmp_path / name).write_text(LOSS)  # mended within the same process
        assert plugins.add(path).name == Path(name).stem


def test_a_loose_file_that_is_not_there(tmp_path):
    assert "there is no such file" in refusal(Plugins, [str(tmp_path / "none.py")], error=FileError)


# -- a real one: built, installed, used, broken and uninstalled by pip in an environment of its own --------------------------------

THIRD_PARTY = '''
"""A third party's plugin, outside the repository."""

from typing import Annotated

from annotated_types import Ge
from torch import Tensor

from kdcore import SoftTargets, Step, hookimpl


class Margin:
    """The mean of what the best wrong answer lacks to the margin, over every exit."""

    def __init__(self, *, margin: Annotated[float, Ge(0)] = 1.0) -> None:
        self.margin = margin

    def __call__(self, step: Step, targets: SoftTargets | None = None) -> Tensor:
        labels = step.batch.labels[:, None]
        return sum(self.of(logits, labels) for logits in step.outputs.logits)

    def of(self, logits: Tensor, labels: Tensor) -> Tensor:
        right = logits.gather(1, labels)[:, 0]
        wrong = logits.scatter(1, labels, float("-inf")).amax(dim=1)
        return (self.margin - right + wrong).clamp_min(0).mean()


@hookimpl
def losses():
    return {"part": Margin}
'''

PYPROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "{name}"
version = "0.3"
keywords = ["kdcore:loss", "kdcore-api:1"]
dependencies = ["kdcore"]

[project.entry-points.kdcore]
thatplugin = "{module}"

[tool.hatch.build.targets.wheel]
packages = ["{module}"]
"""


SAY = """
import importlib
from kdcore.recipes import resolve

while input() == "say":
    importlib.invalidate_caches()
    for losses in (["thatplugin.part=0.1"], []):
        try:
            print(resolve("byot", losses=losses).labels.get("term thatplugin.part", "without it"), flush=True)
        except Exception as error:
            print(error, flush=True)
"""


def source(folder: Path, name: str) -> Path:
    module = name.replace("-", "_")
    (folder / name / module).mkdir(parents=True)
    (folder / name / "pyproject.toml").write_text(PYPROJECT.format(name=name, module=module))
    (folder / name / module / "__init__.py").write_text(THIRD_PARTY)
    return folder / name


@pytest.fixture
def environment(tmp_path):
    """A virtual environment that sees this one's packages: what is installed there is seen by nobody else."""
    home = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
    python = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    there = Path(subprocess.run([python, "-c", ask], check=True, capture_output=True, text=True).stdout.strip())
    here = [path for path in sys.path if path.endswith("site-packages")]
    (there / "outer.pth").write_text("".join(f"import site; site.addsitedir({path!r})\n" for path in here))

    def run(*command) -> str:
        done = subprocess.run([python, *map(str, command)], capture_output=True, text=True, timeout=120, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run.packages, run.python = there, python
    return run


def test_a_third_partys_plugin_installed_used_broken_and_uninstalled(tmp_path, environment):
    pip = ["-m", "pip", "--disable-pip-version-check", "--quiet"]
    install = [*pip, "install", "--no-deps", "--no-build-isolation", "--no-index"]
    environment(*install, source(tmp_path, "that-plugin"))
    short = ["--labels-per-class", 10, "--epochs", 1, "--img-size", 16, "--device", "cpu", "--run", tmp_path / "run"]
    use = ["--method", "byot", "--loss", "thatplugin.part=0.1", "-o", "thatplugin.part.margin=2"]
    environment("-m", "kdcli", "train", "test_resnet_32px", "--data", "digits", *use, *short)
    [record] = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert 0 < json.loads(record)["train"]["thatplugin.part"] < 100
    plugins = json.loads((tmp_path / "run" / "environment.json").read_text())["plugins"]
    [kept] = [plugin for plugin in plugins if plugin["name"] == "thatplugin"]
    assert (kept["distribution"], kept["version"], len(kept["files"])) == ("that-plugin", "0.3", 64)

    (tmp_path / "say.py").write_text(SAY)
    with subprocess.Popen(
        [environment.python, "say.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=tmp_path
    ) as process:

        def say() -> list[str]:
            """What a run that names the plugin says now, and one that does not."""
            print("say", file=process.stdin, flush=True)
            return [process.stdout.readline().strip() for _ in range(2)]

        environment(*install, source(tmp_path, "other-plugin"))
        named, unnamed = say()
        assert "two distributions claim the plugin name 'thatplugin': other-plugin 0.3 and that-plugin 0.3" in named
        assert unnamed == "without it"

        environment(*pip, "uninstall", "--yes", "other-plugin")
        code = environment.packages / "that_plugin" / "__init__.py"
        working = code.read_text()
        code.write_text("import something_that_is_gone\n")
        named, unnamed = say()
        assert (
            "plugin 'thatplugin' (that-plugin 0.3) cannot be imported: ModuleNotFoundError" in named and "something_that_is_gone" in named
        )
        assert unnamed == "without it"

        code.write_text(working)
        assert say() == ["loss 'thatplugin.part' (that-plugin 0.3)", "without it"]

        environment(*pip, "uninstall", "--yes", "that-plugin")
        named, unnamed = say()
        assert named.startswith("there is no loss 'thatplugin.part'") and unnamed == "without it"
        print("stop", file=process.stdin, flush=True)

"""Life with many plugins: quick listings, plugins that are left out, hook calls that are traced, and runs that know what they were made with."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import kdcore
from kdcore import installed as found
from kdcore import provenance
from kdcore.comparison.ray_engine import run_task
from kdcore.errors import KdError
from kdcore.installed import blocking, directory, file_hash
from kdcore.plugins import Plugins, installed
from kdcore.recipes import resolve
from kdcore.runs import Run

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "torchvision", "timm", "numpy", "pydantic")


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch):
    for name in ("KD_PLUGINS_ONLY", "KD_NO_PLUGIN", "KD_TRACE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def kd():
    """`kd(...)` in this process, with its exit status."""
    from click.testing import CliRunner

    from kdcli.main import kd

    def invoke(*args, status=0):
        done = CliRunner().invoke(kd, [str(arg) for arg in args])
        assert done.exit_code == status, done.output
        return done

    return invoke


def refusal(call, *args, **more) -> str:
    with pytest.raises(KdError) as caught:
        call(*args, **more)
    return str(caught.value)


# -- twenty-five of them ----------------------------------------------------------------------------------------------------------------

CODE = """
import os, sys
from kdcli.main import kd
try:
    kd.main(sys.argv[1:], prog_name="kd")
finally:
    print(sum(os.times()[:2]), *sorted(set(sys.modules)), file=sys.stderr)
"""


@pytest.mark.parametrize("line", ["--help", "plugins"])
def test_twenty_five_plugins_cost_nothing(distribution, tmp_path, line):
    """CPU seconds of the whole process, the best of several: a machine that is busy with other things does not fail it."""
    for number in range(25):
        distribution(f"many{number}", "raise RuntimeError('imported')", keywords="kdcore:loss,kdcore:method,kdcore-api:1")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])}
    took = []
    for _ in range(5):
        done = subprocess.run([sys.executable, "-c", CODE, line], capture_output=True, text=True, timeout=120, env=environment)
        assert done.returncode == 0, done.stderr
        seconds, *modules = done.stderr.split()
        assert not {*HEAVY, *(f"idea_many{number}" for number in range(25))} & set(modules)
        assert line == "--help" or all(f"many{number} " in done.stdout for number in range(25))
        took.append(float(seconds))
        if took[-1] < 0.5:
            return
    pytest.fail(f"{min(took):.2f} CPU seconds at best")


# -- left out ---------------------------------------------------------------------------------------------------------------------------


def test_a_plugin_that_is_left_out_is_as_if_it_were_not_there(distribution):
    module = distribution("one")
    distribution("two")
    with blocking(without=["one"]):
        assert os.environ["KD_NO_PLUGIN"] == "one"
        assert {"one", "two"} & {info.name for info in installed()} == {"two"}
        assert Plugins().part("losses", "two.gap") and module not in sys.modules
        line = "plugin 'one' (idea-one 1.2) is blocked by --no-plugin one; leave that out, or run without the plugin"
        assert refusal(Plugins().part, "losses", "one.gap") == refusal(Plugins, ["one"]) == line
        assert refusal(resolve, "plain", losses=["one.gap"]) == line
    assert "KD_NO_PLUGIN" not in os.environ and Plugins().part("losses", "one.gap")


def test_only_some_plugins(distribution):
    for name in ("one", "two", "three"):
        distribution(name)
    with blocking(only=["one", "idea-two"]):
        assert [info.name for info in installed()] == ["one", "two"]
        line = "plugin 'three' (idea-three 1.2) is blocked by --plugins-only one,idea-two; leave that out, or run without the plugin"
        assert refusal(Plugins().load, "three") == line
        with blocking(without=["two"]):
            assert [info.name for info in installed()] == ["one"]
    with blocking(only=["kdcore"]):
        assert not installed() and Plugins().part("losses", "kl")


def test_the_environment_leaves_out_too_and_is_named(distribution, monkeypatch):
    distribution("one")
    monkeypatch.setenv("KD_NO_PLUGIN", "other, Idea_One")
    assert "is blocked by KD_NO_PLUGIN=Idea_One;" in refusal(Plugins().load, "one")
    with blocking(without=["byot"]):  # more of them, not others
        assert "KD_NO_PLUGIN=Idea_One" in refusal(Plugins().load, "one") and "--no-plugin byot" in refusal(Plugins().load, "byot")
    monkeypatch.delenv("KD_NO_PLUGIN")
    monkeypatch.setenv("KD_PLUGINS_ONLY", "byot")
    assert "is blocked by KD_PLUGINS_ONLY=byot;" in refusal(Plugins().load, "one") and Plugins().load("byot")


def test_one_of_two_that_clash_is_left_out_by_its_distribution(distribution):
    distribution("twice", name="idea-first")
    distribution("twice", name="idea-second")
    assert "kd --no-plugin idea-second" in refusal(Plugins().load, "twice")
    with blocking(without=["idea-second"]):
        assert Plugins().part("losses", "twice.gap").plugin.distribution == "idea-first"


def test_a_loose_file_may_have_the_name_of_a_plugin_that_is_left_out(distribution, tmp_path):
    distribution("one")
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "one.py").write_text((tmp_path / "idea_one.py").read_text())
    assert "belongs to idea-one 1.2" in refusal(Plugins, [str(tmp_path / "files" / "one.py")])
    with blocking(without=["one"]):
        assert Plugins([str(tmp_path / "files" / "one.py")]).part("losses", "one.gap").plugin.distribution == "one.py"


@pytest.mark.parametrize(
    ("how", "line"),
    [
        ({"without": ["byto"]}, "--no-plugin byto: there is no plugin 'byto'; did you mean 'byot'?"),
        ({"only": ["byto"]}, "--plugins-only byto: there is no plugin 'byto'; did you mean 'byot'?"),
        ({"without": ["kdcore"]}, "--no-plugin kdcore: the core's own parts cannot be left out"),
    ],
)
def test_names_that_leave_out_nothing_or_everything(how, line):
    def enter():
        with blocking(**how):
            raise AssertionError

    assert refusal(enter) == line


def test_the_options_of_kd_may_stand_anywhere(kd, distribution):
    distribution("one")
    for args in (["--no-plugin", "one,byot", "plugins"], ["plugins", "--no-plugin=one", "--no-plugin", "byot"]):
        text = kd(*args).stdout
        assert "blocked: one, by --no-plugin one" in text and "blocked: byot, by --no-plugin byot" in text
    [one] = [plugin for plugin in json.loads(kd("plugins", "--plugins-only", "byot", "--json").stdout) if plugin["name"] == "one"]
    assert (one["status"], one["reason"]) == ("blocked", "--plugins-only byot")
    both = json.loads(kd("plugins", "--plugins-only", "byot", "--plugins-only=one", "--json").stdout)
    assert {plugin["name"] for plugin in both if plugin["status"] != "blocked"} == {"byot", "one"}
    assert "KD_PLUGINS_ONLY" not in os.environ
    assert "plugin 'byot'" in kd("train", "resnet18", "--data", "digits", "--method", "byot", "--no-plugin", "byot", status=2).stderr
    assert "--no-plugin needs the name of a plugin" in kd("plugins", "--no-plugin", status=2).stderr


def test_worker_processes_leave_out_the_same(distribution, monkeypatch, tmp_path):
    """A cell that Ray gives to another machine; processes of `kd compare` on this one inherit the environment."""
    distribution("one")
    with blocking(without=["one"]):
        environment = found.handed_on()
    assert environment == {"KD_NO_PLUGIN": "one"} and not found.handed_on()
    monkeypatch.setenv("KD_NO_PLUGIN", "")  # so that it is put back
    monkeypatch.setattr(sys, "argv", sys.argv)
    (tmp_path / "comparison" / "cells").mkdir(parents=True)
    settings = {"model": "test_resnet_32px", "data": "digits", "method": "plain", "loss": ["one.gap=.1"], "device": "cpu"}
    outcome = run_task(str(tmp_path / "comparison" / "cells" / "one"), settings, 1, "", ["kd"], environment)
    assert outcome["state"] == "failed" and "is blocked by KD_NO_PLUGIN=one" in outcome["error"]


# -- not installed ----------------------------------------------------------------------------------------------------------------------


def test_the_bundled_directory_is_that_of_this_repository():
    spec = importlib.util.spec_from_file_location("directory", ROOT / "plugins" / "directory.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.FILE.read_bytes().decode() == script.text(), "run: python plugins/directory.py"
    assert directory()["byot"] == "kdcore-byot"


def test_a_plugin_that_is_missing_is_named_with_its_pip_line_only_from_the_directory(kd, monkeypatch):
    monkeypatch.setattr(found, "_entries", list)
    line = "plugin 'byot' is not installed; pip install kdcore-byot"
    assert refusal(Plugins().part, "methods", "byot") == refusal(Plugins().part, "losses", "byot.hint") == line
    assert refusal(Plugins().load, "byot") == refusal(Plugins, ["byot"]) == line
    assert kd("train", "resnet18", "--data", "digits", "--method", "byot", status=2).stderr == f"kd: {line}\n"
    for name in ("nobodys", "byott", "kdcore-byot"):
        assert "pip install" not in refusal(Plugins().part, "methods", name) + refusal(Plugins().load, name)
    assert kd("plugins").stdout.startswith("no plugin is installed")


# -- traced -----------------------------------------------------------------------------------------------------------------------------

HOOKS = """
from kdcore import hookimpl

@hookimpl
def losses():
    return {"gap": max, "other": min}

@hookimpl
def metrics():
    raise RuntimeError("went off")

@hookimpl
def run_start(run):
    pass
"""


def test_each_call_of_a_hook_is_traced(distribution, monkeypatch, capsys):
    from kdcore.events import Events

    distribution("one", HOOKS)
    Plugins().part("losses", "one.gap")
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("KD_TRACE", "1")
    plugins = Plugins()
    plugins.part("losses", "one.gap")
    refusal(plugins.parts_of, "one", "metrics")
    Events(plugins, print).fire("run_start", run="a run")
    lines = [
        " ".join(word for word in line.split() if not word.replace(".", "").isdigit()) for line in capsys.readouterr().err.splitlines()
    ]
    assert [line for line in lines if " one: " in line] == [
        "kd: trace: one: import idea_one ms",
        "kd: trace: one: losses() ms: gap, other",
        "kd: trace: one: metrics() ms: raised RuntimeError: went off",
        "kd: trace: one: run_start(run) ms: nothing",
    ]
    assert "kd: trace: kdcore: losses() ms: ce, kl, mse" in lines


ODD = """
from kdcore import hookimpl

class Odd:
    def __bool__(self):
        raise ValueError("the truth of an array is not known")

class Silent(Odd):
    def __repr__(self):
        raise RuntimeError("no words")

@hookimpl
def losses():
    return Odd()

@hookimpl
def metrics():
    return Silent()
"""


def test_tracing_changes_nothing(distribution, monkeypatch, capsys):
    distribution("odd", ODD)
    families = ("losses", "metrics")
    plain = [refusal(Plugins().parts_of, "odd", family) for family in families]
    monkeypatch.setenv("KD_TRACE", "1")
    assert [refusal(Plugins().parts_of, "odd", family) for family in families] == plain
    traced = [line for line in capsys.readouterr().err.splitlines() if " odd: " in line and "import" not in line]
    assert "<idea_odd.Odd object" in traced[0] and traced[1].endswith("an answer whose text raised RuntimeError")


# -- what a run was made with -------------------------------------------------------------------------------------------------------------


def test_the_hash_of_a_plugins_files(distribution, tmp_path):
    module = distribution("one")
    [info] = [info for info in installed() if info.name == "one"]
    first = file_hash(info)
    assert len(first) == 64 and module not in sys.modules
    (tmp_path / f"{module}.py").write_text((tmp_path / f"{module}.py").read_text() + "\n")
    assert file_hash(info) not in ("", first)
    (tmp_path / f"{module}.py").unlink()
    assert file_hash(info) == ""
    package = tmp_path / module
    package.mkdir()
    importlib.invalidate_caches()
    (package / "__init__.py").write_text("")
    (package / "__pycache__").mkdir()
    whole = file_hash(info)
    (package / "__pycache__" / "x.py").write_text("x")
    assert file_hash(info) == whole
    (package / "inner").mkdir()
    (package / "inner" / "more.py").write_text("")
    assert file_hash(info) != whole


def test_a_run_that_goes_on_or_is_evaluated_with_other_plugins_says_so(distribution, tmp_path):
    module = distribution("one")
    settings = {"loss": ["one.gap=0.1"], "img_size": 16, "labels_per_class": 7, "epochs": 1, "batch_size": 32, "amp": "none"}
    run = kdcore.train(
        "test_resnet_32px", "digits", run=tmp_path / "run", method="plain", channels_last=False, device="cpu", **settings
    ).run  # fmt: skip
    written = json.loads((run.path / "environment.json").read_text())["plugins"]
    plugins = Plugins(["one"])
    assert written == provenance.recorded(plugins) and [plugin["name"] for plugin in written] == ["kdcore", "one"]
    assert kdcore.evaluate(run.path)["notes"] == [] == provenance.plugin_changes(run, plugins)

    (tmp_path / f"{module}.py").write_text((tmp_path / f"{module}.py").read_text() + "# edited\n")
    edited = "plugin 'one' (idea-one 1.2) has other files than those that the run was made with: its numbers may differ"
    assert kdcore.evaluate(run.path)["notes"] == [edited]
    about = tmp_path / "idea_one-1.2.dist-info" / "METADATA"
    about.write_text(about.read_text().replace("Version: 1.2", "Version: 1.3"))
    newer = "plugin 'one' is idea-one 1.3 here, and the run was made with idea-one 1.2: its numbers may differ"
    assert provenance.plugin_changes(Run.open(run.path), Plugins(["one"])) == [newer]

    from kdcore.config import read_config
    from kdcore.starting import make_ready

    assert newer in make_ready(read_config(run.config()), run=run).prepared.notes


def test_the_plan_says_where_every_part_comes_from(kd, distribution):
    distribution("one")
    args = ["plan", "test_resnet_32px", "--data", "digits", "--img-size", "16", "--labels-per-class", "7", "--amp", "none", "--json"]
    plan = json.loads(kd(*args, "--method", "deep-supervision", "--loss", "one.gap=.1", "-p", "tensorboard").stdout)
    places = {part["place"]: (part["plugin"], part["distribution"], part["version"]) for part in plan["parts"]}
    assert places["term one.gap"] == ("one", "idea-one", "1.2")
    assert all(plugin == "kdcore" for place, (plugin, _, _) in places.items() if place != "term one.gap")
    assert {plugin["name"]: plugin["gives"] for plugin in plan["plugins"]} == {
        "kdcore": ["deep-supervision", "single", "linear", "ce"],
        "one": ["one.gap"],
        "tensorboard": ["run_start()", "log()", "epoch_end()", "run_end()"],
    }
    assert all(len(plugin["files"]) == 64 for plugin in plan["plugins"])

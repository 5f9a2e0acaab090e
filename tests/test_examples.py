"""`examples/`: loops of others train with a kdcore task, and two papers outside `plugins/` are packages that work when they are installed."""

import re
import runpy
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest
import torch

import kdcore
from kdcore.plugins import Plugins

ROOT = Path(__file__).parents[1]
LOOPS = sorted((ROOT / "examples/loops").glob("*.py"))
PACKAGES = {"dkd": "kdcore-dkd", "pskd": "kdcore-pskd"}

# -- a kdcore task in other people's loops --------------------------------------------------------------------------------


@pytest.mark.parametrize("path", LOOPS, ids=lambda path: path.stem)
def test_a_loop_trains(path, capsys):
    if "accelerate" in path.stem:
        pytest.importorskip("accelerate")
    torch.manual_seed(0)
    accuracy = runpy.run_path(str(path))["main"](epochs=4, count=256)
    assert accuracy > 15  # 10 without learning; 23 to 68 over four seeds
    assert f"{accuracy:.1f} % of 1541 new digits are right" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("path", LOOPS, ids=lambda path: path.stem)
def test_a_loop_learns(path):
    assert runpy.run_path(str(path))["main"](epochs=5) > 80


def test_the_loops_are_short_and_stand_in_the_docs():
    page = (ROOT / "docs/loops.md").read_text()
    assert len(LOOPS) == 3
    for path in LOOPS:
        text = path.read_text()
        assert len(text.splitlines()) < 40, path
        assert f"```python title={path.name}\n{text}```" in page, f"docs/loops.md shows another {path.name}"


# -- packages outside plugins/ --------------------------------------------------------------------------------------------


@pytest.fixture(params=PACKAGES)
def plugin(request, tmp_path, monkeypatch):
    """One of the packages as pip would have installed it: its folder on the path, and its metadata."""
    folder = ROOT / "examples" / PACKAGES[request.param]
    about = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    info = tmp_path / f"{about['name'].replace('-', '_')}-{about['version']}.dist-info"
    info.mkdir()
    lines = [f"Name: {about['name']}", f"Version: {about['version']}", f"Summary: {about['description']}"]
    lines += [f"Keywords: {','.join(about['keywords'])}", f"Project-URL: Paper, {about['urls']['Paper']}"]
    lines += [f"Requires-Dist: {wanted}" for wanted in about["dependencies"]]
    (info / "METADATA").write_text("\n".join(["Metadata-Version: 2.4", *lines, "", ""]))
    (info / "entry_points.txt").write_text("[kdcore]\n" + "".join(f"{k} = {v}\n" for k, v in about["entry-points"]["kdcore"].items()))
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield request.param
    for module in [name for name in sys.modules if name.partition(".")[0] == f"kdcore_{request.param}"]:
        del sys.modules[module]


def test_a_package_is_found_and_its_readme_runs(plugin, capsys):
    info = Plugins().load(plugin)
    assert (info.distribution, info.api) == (f"kdcore-{plugin}", kdcore.API)
    readme = (ROOT / "examples" / PACKAGES[plugin] / "README.md").read_text()
    snippets = re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL)
    assert snippets  # they take steps
    for snippet in snippets:
        exec(compile(snippet, f"README of {plugin}", "exec"), {})


def test_the_readmes_commands_name_what_is_there(plugin):
    from kdcli import flags
    from kdcli.train import train
    from kdcore.preparing import resolve_recipe

    readme = (ROOT / "examples" / PACKAGES[plugin] / "README.md").read_text()
    commands = re.findall(r"^kd train ([^#\n]*)", readme, flags=re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        values = train.make_context("kd train", command.split()).params
        settings = {name: values[name] for name in values if name not in ("run", "resume", "file", "quiet", "as_json", "json_lines")}
        config = flags.read_config(flags.read_settings(settings, None, "train"))
        assert resolve_recipe(config, Plugins()).method.terms


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_is_one_short_module(name):
    (module,) = (ROOT / "examples" / PACKAGES[name]).glob("kdcore_*/*.py")
    assert len(module.read_text().splitlines()) <= 80


@pytest.mark.slow
@pytest.mark.parametrize("plugin", ["pskd"], indirect=True)
def test_a_run_with_a_past_resumes_to_the_same_numbers(plugin, tmp_path):
    from kdcore.training import Watch

    class Killed(Watch):
        def epoch(self, record) -> None:
            if record["epoch"] == 2:
                raise KeyboardInterrupt

    settings = {"method": "pskd", "img_size": 8, "labels_per_class": 8, "epochs": 3, "batch_size": 16, "lr": 0.1}
    whole = kdcore.train("test_resnet_32px", "digits", run=tmp_path / "whole", **settings)
    with pytest.raises(KeyboardInterrupt):
        kdcore.train("test_resnet_32px", "digits", run=tmp_path / "parts", watch=Killed(), **settings)
    parts = kdcore.train(run=tmp_path / "parts", resume=True)
    assert [line["train"] for line in whole.run.metrics()] == [line["train"] for line in parts.run.metrics()]
    assert (whole.run.path / "student.safetensors").read_bytes() == (parts.run.path / "student.safetensors").read_bytes()


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", PACKAGES)
def test_pip_installs_it_and_its_tests_pass(name, tmp_path):
    """In an environment of its own, which sees what is installed here; with the conformance kit."""
    venv.create(tmp_path / "env", symlinks=True)
    python = tmp_path / "env/bin/python"
    here = next(path for path in sys.path if path.endswith("site-packages"))
    place = subprocess.check_output([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True).strip()
    (Path(place) / "here.pth").write_text(f"import site; site.addsitedir({here!r})\n")
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "--disable-pip-version-check",
    ]
    subprocess.run([*pip, "-e", ROOT / "examples" / PACKAGES[name]], check=True)
    tests = subprocess.run(
        [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "."],
        cwd=ROOT / "examples" / PACKAGES[name],
        capture_output=True,
        text=True,
        check=False,
    )
    assert tests.returncode == 0, tests.stdout[-4000:]

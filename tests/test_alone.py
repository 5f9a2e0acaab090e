"""Each plugin by itself: a fresh environment with kdcore, kdcore-cli and that plugin alone, from wheels. Slow: PyTorch is installed once."""

import json
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PLUGINS = sorted(path.parent.name for path in ROOT.glob("plugins/*/pyproject.toml"))
SMALL = ("--data", "digits", "--epochs", "1", "--train-limit", "64", "--batch-size", "16", "--device", "cpu")
RUNS = {
    "byot": [("test_resnet_32px", "--method", "byot")],
    "cifar": [("cifar/resnet8", "--method", "plain")],
    "iskd": [("test_resnet_32px", "--method", "iskd", "-o", "iskd.generations.start=fresh", "-o", "iskd.generations.max_generations=2")],
    "mango": [("test_resnet_32px", "--method", "mango")],
    "mskd": [
        ("test_resnet_32px", "--method", "plain", "--run", "teacher", "--epochs", "6", "--train-limit", "1000", "--lr", "0.1"),
        ("test_resnet_32px", "--method", "mskd", "--teacher", "teacher"),
    ],
    "osakd": [("osakd/lenet", "--method", "osakd", "--img-size", "16")],
    "tensorboard": [("test_resnet_32px", "--method", "plain", "-p", "tensorboard")],
    "tfkd": [("test_resnet_32px", "--method", "tfkd.reg")],
}
"""What `kd train` is given with each plugin; a plugin that has no line here fails."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def run(*words, cwd):
    """The output of a command that must succeed, without what this process has installed or set."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "KD_")) and name != "VIRTUAL_ENV"}
    done = subprocess.run(list(map(str, words)), cwd=cwd, env={**clean, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(map(str, words))}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheels")
    rooms = [ROOT, ROOT / "cli", *(ROOT / "plugins" / name for name in PLUGINS)]
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, *rooms, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def base(wheels, tmp_path_factory):
    """An environment with kdcore and kdcore-cli and what they need."""
    folder = tmp_path_factory.mktemp("base") / "env"
    venv.create(folder, with_pip=True)
    install(folder, wheels, "kdcore", "kdcore-cli")
    return folder


def install(environment, wheels, *names):
    found = [next(wheels.glob(f"{name.replace('-', '_')}-[0-9]*.whl")) for name in names]
    python = environment / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", ROOT / "constraints.txt", *found, cwd=environment)


@pytest.mark.parametrize("name", PLUGINS)
def test_alone(name, base, wheels, tmp_path):
    environment = tmp_path / "env"
    shutil.copytree(base, environment, symlinks=True, copy_function=os.link)  # the environment again, without its gigabytes
    install(environment, wheels, f"kdcore-{name}")
    python, work = environment / "bin" / "python", tmp_path / "work"
    work.mkdir()

    assert [plugin["name"] for plugin in json.loads(run(python, "-m", "kdcli", "plugins", "--json", cwd=work))] == [name]
    for number, snippet in enumerate(
        re.findall(r"```python\n(.*?)```", (ROOT / "plugins" / name / "README.md").read_text(), flags=re.DOTALL)
    ):
        (work / f"snippet{number}.py").write_text(snippet)
        run(python, f"snippet{number}.py", cwd=work)
    for words in RUNS[name]:
        folder = words[words.index("--run") + 1] if "--run" in words else "run"
        run(python, "-m", "kdcli", "train", *SMALL, *words, *(() if "--run" in words else ("--run", folder)), cwd=work)
        assert (work / folder / "student.safetensors").is_file()

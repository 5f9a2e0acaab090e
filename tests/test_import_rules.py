"""Imports point one way: `plugins/* -> kdcore <- cli`. The syntax trees are read, so that an import inside a function counts too."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PLUGINS = sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))
PLUGIN_NAMES = [folder.name for folder in PLUGINS]
HEAVY = ("torch", "torchvision", "timm", "numpy")
LIGHT_MODULES = ("options", "plugins", "methods", "phases", "hookspecs", "errors")


def imports(tree, package=""):
    """All that a module imports, as dotted names: `from a import b` is `a.b`. `package` resolves relative imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in ("import_module", "__import__"):
            yield from (argument.value for argument in node.args[:1] if isinstance(argument, ast.Constant))


def is_private(name):
    return name.startswith("_") and not name.endswith("__")


def private_uses(tree):
    """What a module takes from kdcore that begins with an underscore: imported, or reached through an imported name."""
    ours = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            ours |= {(alias.asname or "kdcore") for alias in node.names if alias.name.split(".")[0] == "kdcore"}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "kdcore" and not node.level:
            ours |= {alias.asname or alias.name for alias in node.names}
    yield from (name for name in imports(tree) if name.split(".")[0] == "kdcore" and any(map(is_private, name.split("."))))
    for node in ast.walk(tree):
        chain = ast.unparse(node).split(".") if isinstance(node, ast.Attribute) else []
        if chain and chain[0] in ours and is_private(chain[-1]):
            yield ".".join(chain)


def plugin_names(tree, known=PLUGIN_NAMES):
    """Where code names a plugin: a package `kdcore_*`, or a string that is the name of one of ours. Docstrings may give examples."""
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)}
    yield from (name for name in imports(tree) if name.startswith("kdcore_"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id.startswith("kdcore_"):
            yield node.id
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            for plugin in known:
                if re.search(rf"\bkdcore[-_]{plugin}\b|^{plugin}(\.|$)", node.value):
                    yield node.value


def modules(folder):
    """Pairs of (path, syntax tree, package) of all Python files under a folder of the repository."""
    for path in sorted((ROOT / folder).rglob("*.py")):
        yield path.relative_to(ROOT), ast.parse(path.read_text(encoding="utf-8")), package_of(path)


def package_of(path):
    names = []
    while (path.parent / "__init__.py").exists():
        path = path.parent
        names.insert(0, path.name)
    return ".".join(names)


def offences(folder, found_in):
    return [f"{path}: {found}" for path, tree, package in modules(folder) for found in found_in(tree, package)]


def test_the_core_names_neither_a_plugin_nor_the_command():
    assert any(modules("kdcore"))
    assert not offences("kdcore", lambda tree, _: plugin_names(tree))
    assert not offences("kdcore", lambda tree, package: (name for name in imports(tree, package) if name.split(".")[0] == "kdcli"))


def test_the_command_imports_the_core_and_no_plugin():
    assert not offences("cli", lambda tree, package: (name for name in imports(tree, package) if name.startswith("kdcore_")))


@pytest.mark.parametrize("plugin", PLUGIN_NAMES)
def test_a_plugin_imports_the_public_core_alone(plugin):
    own = f"kdcore_{plugin.replace('-', '_')}"

    def foreign(tree, package):
        packages = ((name, name.split(".")[0]) for name in imports(tree, package))
        return (name for name, package in packages if package == "kdcli" or (package.startswith("kdcore_") and package != own))

    assert not offences(f"plugins/{plugin}", foreign)
    assert not offences(f"plugins/{plugin}", lambda tree, _: private_uses(tree))


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import kdcore_a", ["kdcore_a"]),
        ("def f():\n    from kdcore_a.b import c", ["kdcore_a.b.c"]),
        ("import importlib\nimportlib.import_module('kdcore_a')", ["importlib", "kdcore_a"]),
        ("from . import a\nfrom ..b import c", ["x.y.a", "x.b.c"]),
    ],
)
def test_imports_are_found(source, found):
    assert list(imports(ast.parse(source), "x.y")) == found


@pytest.mark.parametrize(
    "source",
    [
        "from kdcore._a import b",
        "from kdcore.a import _b",
        "import kdcore._a",
        "import kdcore\nkdcore.plugins._reason",
        "import kdcore.losses as l\nl._softened()",
        "from kdcore import losses\nlosses._softened()",
    ],
)
def test_private_uses_are_found(source):
    assert list(private_uses(ast.parse(source)))


def test_public_uses_and_own_private_names_are_not_offences():
    source = "import kdcore\nfrom kdcore import hookimpl\nfrom kdcore.losses import KL\n_own = kdcore.__version__\nself._own = KL()"
    assert not list(private_uses(ast.parse(source)))


@pytest.mark.parametrize("source", ["import kdcore_byot", "name = 'byot.hint'", "pip = 'pip install kdcore-byot'", "kdcore_byot"])
def test_names_of_plugins_are_found(source):
    assert list(plugin_names(ast.parse(source), ["byot"]))


def test_docstrings_may_give_examples():
    assert not list(plugin_names(ast.parse('"""As in `kdcore-byot`."""\ndef f():\n    """byot.hint"""\n'), ["byot"]))


@pytest.mark.parametrize("names", [("kdcore",), tuple(f"kdcore.{name}" for name in LIGHT_MODULES)], ids=["kdcore", "contract"])
def test_importing_the_core_imports_nothing_heavy(names):
    code = f"import {', '.join(names)}, sys; print(*sorted(set({HEAVY}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []

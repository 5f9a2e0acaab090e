import json
import os
import sys
import textwrap

import pytest

# No test asks the network for weights: a forgotten `pretrained` fails at once, and the same everywhere.
os.environ["HF_HUB_OFFLINE"] = "1"

# Networks this small are slower on two threads than on one, and ten times slower where the cores are busy with something else.
os.environ.setdefault("OMP_NUM_THREADS", "1")

LOSS = """
from kdcore import hookimpl

def gap(step, targets=None, *, scale: float = 1.0):
    return scale * step.outputs.logits[-1].square().mean()

@hookimpl
def losses():
    return {"gap": gap}
"""


@pytest.fixture
def distribution(tmp_path, monkeypatch):
    """`distribution("one", code)` puts a distribution with one plugin where Python finds it, as pip would that has it from an index.

    direct: what `direct_url.json` says where it came from elsewhere. Modules are forgotten after.
    """
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("KDCORE_CACHE", str(tmp_path / "cache"))
    before = set(sys.modules)

    def make(plugin, code=LOSS, *, name=None, version="1.2", module=None, keywords="kdcore:loss,kdcore-api:1", metadata=True, direct=None):
        name, module = name or f"idea-{plugin}", module or f"idea_{plugin}"
        folder = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir()
        if metadata:
            about = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nSummary: An idea\nKeywords: {keywords}\n"
            (folder / "METADATA").write_text(about + "Project-URL: Paper, https://arxiv.org/abs/1\nRequires-Dist: kdcore>=0.1\n")
        (folder / "INSTALLER").write_text("pip\n")
        if direct is not None:
            (folder / "direct_url.json").write_text(json.dumps(direct))
        (folder / "entry_points.txt").write_text(f"[kdcore]\n{plugin} = {module}\n")
        (tmp_path / f"{module}.py").write_text(textwrap.dedent(code))
        return module

    yield make
    for module in set(sys.modules) - before:
        if module.startswith(("idea_", "kdcore_file_")):
            del sys.modules[module]

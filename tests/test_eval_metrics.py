"""`kd eval` reports what the run itself reported: the metrics of its method's plugin too, whether that is installed or a loose file."""

import numpy as np
import pytest

import kdcore
from kdcore import plugins

MARKED = """
from kdcore import CE, Method, Term, hookimpl

def own() -> Method:
    return Method(terms={"ce": Term(CE())})

def grades(logits, labels):
    return float(len(labels))

@hookimpl
def methods():
    return {"own": own}

@hookimpl
def metrics():
    return {"grades": grades}
"""


@pytest.mark.parametrize("installed", [True, False])
def test_metrics_of_the_methods_plugin(tmp_path, monkeypatch, installed):
    (tmp_path / "marked.py").write_text(MARKED)
    rng = np.random.default_rng(0)
    arrays = {f"{split}_images": rng.integers(0, 256, (24, 16, 16), dtype=np.uint8) for split in ("train", "test")}
    np.savez(tmp_path / "set.npz", **arrays, train_labels=np.arange(24) % 2, test_labels=np.arange(24) % 2)
    more = {}
    if installed:
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.setattr(plugins, "installed", lambda blocked=False: [plugins.PluginInfo("marked", "kdcore-marked", "1", "marked")])
    else:
        more["plugin"] = [str(tmp_path / "marked.py")]
    settings = {"epochs": 1, "batch_size": 8, "workers": 0, "amp": "none", "device": "cpu", **more}
    done = kdcore.train("test_resnet_32px", str(tmp_path / "set.npz"), method="marked.own", run=tmp_path / "run", **settings)
    found = kdcore.evaluate(tmp_path / "run")
    assert found["test"] == done.results["best"]["test"] and found["test"]["exits"][-1]["marked.grades"] == 24.0

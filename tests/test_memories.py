"""What components remember where gradients are accumulated: every batch of it, and the weights' own steps apart. Also in a run that goes on."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import kdcore
from kdcore.runs import Run
from kdcore.training import Watch

PAGE = Path(__file__).parents[1] / "docs/authors/soft-targets.md"

COUNTS = """
import torch
from torch import nn
from kdcore import hookimpl

class Counts(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("steps", torch.zeros(()))
        self.register_buffer("updates", torch.zeros(()))

    def forward(self, step, targets=None):
        return step.outputs.logits[-1].square().mean()

    def after_step(self):
        self.steps += 1

    def after_update(self):
        self.updates += 1

@hookimpl
def losses():
    return {"counts": Counts}
"""


class Stop(KeyboardInterrupt):
    pass


class Killed(Watch):
    def epoch(self, record) -> None:
        raise Stop


@pytest.fixture
def settings(tmp_path):
    """Five batches of 16 an epoch, the memory of docs/authors/soft-targets.md, and a loss that counts."""
    (code,) = re.findall(r"```python title=before.py\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    (tmp_path / "before.py").write_text(code, encoding="utf-8")
    (tmp_path / "counts.py").write_text(COUNTS, encoding="utf-8")
    return {
        "model": "test_resnet_32px", "data": "digits", "img_size": 8, "labels_per_class": 8, "epochs": 2, "batch_size": 16, "amp": "none",
        "channels_last": False, "device": "cpu", "method": "plain", "loss": ["kl@before=0.5", "counts=0.1"],
        "plugin": [str(tmp_path / "before.py"), str(tmp_path / "counts.py")], "grad_accum_steps": 2,
    }  # fmt: skip


def held(run, epoch):
    (path,) = run.path.glob(f"checkpoints/*/epoch-{epoch:04}.safetensors")
    return load_file(path)


def test_every_batch_is_remembered_and_only_the_optimisers_steps_are_updates(settings, tmp_path):
    whole = kdcore.train(**settings, run=tmp_path / "whole").run
    with pytest.raises(Stop):
        kdcore.train(**settings, run=tmp_path / "parts", watch=Killed())
    first = held(Run.open(tmp_path / "parts"), 1)
    assert (first["source:before.memory"] != 0.1).any(dim=1).all()  # uniform before a sample's first visit
    assert (first["term:counts.steps"], first["term:counts.updates"]) == (5, 3)
    again = kdcore.train(run=tmp_path / "parts", resume=True).run
    one, other = held(whole, 2), held(again, 2)
    assert one["term:counts.updates"] == 6 and one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)

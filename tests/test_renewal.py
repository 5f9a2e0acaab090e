"""A phase that begins with a new student begins with new losses and sources too; what --keep-all keeps; a checkpoint as a teacher."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from torch import nn

import kdcore
from kdcore import CE, Method, Phase, Term, compose
from kdcore.renewal import first_tensors, renew
from kdcore.training import Watch

PLUGIN = """
import torch
from torch import nn
from kdcore import CE, Method, Phase, Term, hookimpl

class Memory(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lazy = nn.LazyLinear(8)
        self.register_buffer("steps", torch.zeros(()))
        self.register_buffer("unsaved", torch.zeros(()), persistent=False)
        self.register_buffer("began", torch.zeros(()))

    def setup(self, context):
        self.began.fill_(next(context.student.parameters()).sum().item())  # of the weights that the run began with

    def forward(self, step, targets=None):
        return self.lazy(step.outputs.embeddings[0]).square().mean()

    def after_step(self):
        self.steps += 1
        self.unsaved += 1

def generations(context):
    yield Phase("first", epochs=1)
    yield Phase("on", epochs=1)
    yield Phase("second", epochs=2, start="fresh", generation=2)

def remembered():
    return Method(terms={"ce": Term(CE()), "memory": Term(Memory)}, schedule=generations)

@hookimpl
def methods():
    return {"remembered": remembered}
"""

SMALL = {"epochs": 2, "img_size": 16, "batch_size": 32, "amp": "none", "channels_last": False, "device": "cpu"}


class Stop(KeyboardInterrupt):
    pass


class Killed(Watch):
    """Ends the run in a phase, after its first epoch."""

    def __init__(self, number: int) -> None:
        self.at = number

    def epoch(self, record) -> None:
        if record["phase_number"] == self.at:
            raise Stop


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """96 digits, so that an epoch has three steps, and a plugin whose loss has weights and counts its steps."""
    folder, read = tmp_path_factory.mktemp("data"), load_digits()
    pixels = (read.images * 15).astype(np.uint8)
    arrays = {}
    for name, part in {"train": slice(0, 96), "val": slice(100, 140), "test": slice(140, 180)}.items():
        arrays |= {f"{name}_images": pixels[part], f"{name}_labels": read.target[part][:, None]}
    np.savez(folder / "few.npz", **arrays)
    (folder / "memory.py").write_text(PLUGIN)
    return {"model": "test_resnet_32px", "data": str(folder / "few.npz"), "plugin": [str(folder / "memory.py")], **SMALL}


def memory_of(checkpoint):
    return {name.rpartition("memory.")[2]: tensor for name, tensor in load_file(checkpoint).items() if name.startswith("term:memory.")}


def test_a_new_generation_has_new_losses_and_a_phase_that_goes_on_has_not(settings, tmp_path):
    whole = kdcore.train(**settings, method="memory.remembered", run=tmp_path / "whole")
    steps = {path.parent.name: memory_of(path)["steps"].item() for path in whole.run.path.glob("checkpoints/*/epoch-*.safetensors")}
    assert steps["01-first"] == 3 and steps["02-on"] == 6 and steps["03-second"] <= 6  # of two epochs of its own
    with pytest.raises(Stop):
        kdcore.train(**settings, method="memory.remembered", run=tmp_path / "parts", watch=Killed(2))
    again = kdcore.train(run=tmp_path / "parts", resume=True)
    assert [r["train"] for r in again.run.metrics()] == [r["train"] for r in whole.run.metrics()]
    for one in whole.run.path.glob("checkpoints/*/epoch-*.safetensors"):
        ours, theirs = memory_of(one), memory_of(again.run.path / one.relative_to(whole.run.path))
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


class Grown(nn.Module):
    """Lazy weights, a buffer that no checkpoint has, and one that grows."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LazyLinear(4)
        self.register_buffer("hidden", torch.zeros(2), persistent=False)
        self.register_buffer("bank", torch.zeros(0, 3))

    def forward(self, step, targets=None):
        return self.layer(step.outputs.embeddings[0]).square().mean()


def test_components_are_put_back_to_the_bit_and_only_for_a_new_student():
    def schedule(context):
        yield Phase("first")
        yield Phase("stands")
        yield Phase("second", start="pretrained")

    composed = compose("test_resnet", Method({"ce": Term(CE()), "grown": Term(Grown)}, schedule=schedule), num_classes=3, image_size=32)
    grown = composed.terms[1].run
    drawn = {name: tensor.clone() for name, tensor in first_tensors({"grown": grown}).items()}
    assert len(drawn) == 4 and drawn["grown.layer.weight"].abs().sum() > 0
    with torch.no_grad():
        grown.layer.weight += 1
        grown.hidden += 1
        grown.bank = torch.ones(7, 3)
    composed.start(composed.phases[1])
    assert grown.hidden.sum() == 2 and grown.bank.shape == (7, 3)
    weight = grown.layer.weight
    composed.start(composed.phases[2])
    now = first_tensors({"grown": grown})
    assert all(torch.equal(now[name], drawn[name]) for name in drawn) and grown.layer.weight is weight  # optimisers keep the parameter


def test_nothing_is_kept_where_no_phase_begins_anew():
    def schedule(context):
        yield Phase("first")
        yield Phase("second")

    composed = compose("test_resnet", Method({"grown": Term(Grown), "ce": Term(CE())}, schedule=schedule), num_classes=3, image_size=32)
    assert composed.first_components == {}
    renew({"grown": nn.Linear(1, 1)}, {})  # and nothing is put back


def test_every_checkpoint_is_kept_where_asked_and_each_can_teach(settings, tmp_path):
    kept = kdcore.train(**{**settings, "epochs": 4, "lr": 1e-6}, method="deep-supervision", keep_all=True, run=tmp_path / "all")
    names = sorted(path.name for path in kept.run.path.glob("checkpoints/*/*.safetensors"))
    assert names == [f"epoch-{epoch:04d}.safetensors" for epoch in (1, 2, 3, 4)]
    teacher = kept.run.path / "checkpoints/01-main/epoch-0002.safetensors"
    taught = kdcore.train(**{**settings, "epochs": 1}, method="kd", teacher=str(teacher), run=tmp_path / "taught")
    assert taught.results["teacher"] == f"test_resnet_32px ({teacher})" and taught.run.metrics()[0]["train"]["kd"] > 0


def test_without_it_the_last_and_the_best_are(settings, tmp_path):
    plain = kdcore.train(**{**settings, "epochs": 4, "lr": 1e-6}, method="plain", run=tmp_path / "plain")
    assert len(list(plain.run.path.glob("checkpoints/*/*.safetensors"))) <= 2

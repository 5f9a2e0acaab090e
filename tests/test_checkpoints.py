import json
import math
import os
import resource

import pytest
import torch
from timm.optim import create_optimizer_v2
from torch import nn

from kdcore.checkpoints import load_tensors, restore, save_tensors, state_of
from kdcore.errors import FileError, KdError
from kdcore.files import read_json, write_json, write_text
from kdcore.optimizer_state import optimizer_tensors, restore_optimizer

OPTIMIZERS = {
    "sgd": lambda net: torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4),
    "plain sgd": lambda net: torch.optim.SGD(net.parameters(), lr=0.1),
    "adamw": lambda net: torch.optim.AdamW([{"params": net[:2].parameters(), "lr": 0.01}, {"params": net[2:].parameters()}], amsgrad=True),
    "tensor lr": lambda net: torch.optim.AdamW(net.parameters(), lr=torch.tensor(0.01)),
    "lamb": lambda net: create_optimizer_v2(net, opt="lamb", lr=0.01, weight_decay=0.02),
    "lookahead": lambda net: create_optimizer_v2(net, opt="lookahead_adamw", lr=0.01, weight_decay=0.02),
    "adafactor": lambda net: create_optimizer_v2(net, opt="adafactor", lr=0.01),
}


class Tied(nn.Module):
    def __init__(self, out: int = 10) -> None:
        super().__init__()
        self.first = nn.Linear(96, out)
        self.second = nn.Linear(96, out)
        self.second.weight = self.first.weight
        self.register_buffer("steps", torch.tensor(0))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 5)).to(memory_format=torch.channels_last)


def train(net: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        loss = net(torch.randn(6, 3, 8, 8, generator=generator)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for group in optimizer.param_groups:
            group["lr"] = group["lr"] * 0.97


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def one_line(error) -> str:
    line = str(error.value)
    assert "\n" not in line and error.value.exit_status == 74
    return line


@pytest.mark.parametrize("suffix", ["", ".safetensors", ".json"])
def test_a_checkpoint_comes_back(tmp_path, suffix):
    shared = torch.arange(12.0).reshape(3, 4)
    tensors = {
        "half": torch.randn(2, 3).bfloat16(),
        "scalar": torch.tensor(3),
        "empty": torch.zeros(0, 4),
        "flags": torch.tensor([True, False]),
        "view": shared.T,
        "row": shared[1],
        "again": shared,
    }
    about = {"epoch": 3, "name": "größe", "nested": {"none": None, "list": [1, 2.5, True]}, "tensors": "a name like any other"}
    save_tensors(tmp_path / f"new/best.3{suffix}", tensors, about)
    assert sorted(os.listdir(tmp_path / "new")) == ["best.3.json", "best.3.safetensors"]
    loaded, back = load_tensors(str(tmp_path / f"new/best.3{suffix}"))
    assert same(loaded, tensors) and back == about
    assert all(loaded[name].dtype == tensor.dtype and loaded[name].is_contiguous() for name, tensor in tensors.items())
    said = read_json(tmp_path / "new/best.3.json")
    assert said["about"] == about and said["tensors"]["file"] == "best.3.safetensors"
    assert said["tensors"]["bytes"] == (tmp_path / "new/best.3.safetensors").stat().st_size
    (tmp_path / "ordinary").touch()
    assert (tmp_path / "new/best.3.safetensors").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


@pytest.mark.parametrize("again", [1, 2, 3])
@pytest.mark.parametrize("dies_at", [1, 2, 3])
def test_whoever_dies_while_saving_leaves_the_former_checkpoint(tmp_path, monkeypatch, dies_at, again):
    path, replace = tmp_path / "last", os.replace

    def save(epoch: int, dies_at: int | None = None) -> bool:
        calls = []

        def dying(*args):
            calls.append(args)
            if len(calls) == dies_at:
                raise KeyboardInterrupt
            replace(*args)

        monkeypatch.setattr(os, "replace", dying)
        try:
            save_tensors(path, {"w": torch.full((4,), float(epoch))}, {"epoch": epoch})
        except KeyboardInterrupt:
            return False
        finally:
            monkeypatch.setattr(os, "replace", replace)
        return True

    def stands() -> int:
        tensors, about = load_tensors(path)
        assert tensors["w"].tolist() == [about["epoch"]] * 4
        return about["epoch"]

    assert save(1) and stands() == 1
    assert not save(2, dies_at) and stands() == 1
    done = save(3, again)  # with the former tensors aside already there are fewer moves, and it may come through
    assert stands() == (3 if done else 1)
    assert save(4) and stands() == 4
    assert sorted(os.listdir(tmp_path)) == ["last.json", "last.safetensors"]


def test_the_first_checkpoint_is_none_until_its_json_is_there(tmp_path, monkeypatch):
    replace, calls = os.replace, []

    def dying(*args):
        calls.append(args)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        replace(*args)

    monkeypatch.setattr(os, "replace", dying)
    with pytest.raises(FileError) as error:
        save_tensors(tmp_path / "last", {"w": torch.zeros(2)}, {})
    assert one_line(error) == f"cannot write {tmp_path}/last.json: No space left on device"
    with pytest.raises(FileError) as error:
        load_tensors(tmp_path / "last")
    assert "there is no checkpoint" in one_line(error)


def test_what_cannot_be_written_is_refused_before_anything_is(tmp_path):
    for about in ({"loss": math.nan}, {"loss": [math.inf]}):
        with pytest.raises(FileError) as error:
            save_tensors(tmp_path / "last", {"w": torch.zeros(2)}, about)
        assert "last.json" in one_line(error)
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_one_line_and_leaves_the_former_checkpoint(tmp_path):
    save_tensors(tmp_path / "last", {"w": torch.zeros(2)}, {"epoch": 1})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.raises(FileError) as error:
            save_tensors(tmp_path / "last", {"w": torch.zeros(5000)}, {"epoch": 2})
        with pytest.raises(FileError) as other:
            write_text(tmp_path / "a.txt", "x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "last.safetensors" in one_line(error) and "too large" in one_line(error) and "too large" in one_line(other)
    assert load_tensors(tmp_path / "last")[1] == {"epoch": 1}
    assert sorted(os.listdir(tmp_path)) == ["last.json", "last.safetensors"]


def test_damage_is_seen(tmp_path):
    path = tmp_path / "last"
    for damage in (
        lambda: os.truncate(f"{path}.safetensors", 50),
        lambda: os.remove(f"{path}.safetensors"),
        lambda: (tmp_path / "last.safetensors").write_bytes(b"\xff" * (tmp_path / "last.safetensors").stat().st_size),
        lambda: os.truncate(f"{path}.json", 20),
        lambda: (tmp_path / "last.json").write_text("[]"),
        lambda: (tmp_path / "last.json").write_bytes(b"\xff\xfe"),
        lambda: os.replace(tmp_path / "other.safetensors", f"{path}.safetensors"),
    ):
        save_tensors(path, {"w": torch.zeros(4)}, {"epoch": 1})
        save_tensors(tmp_path / "other", {"w": torch.ones(4)}, {"epoch": 2})
        damage()
        with pytest.raises(FileError) as error:
            load_tensors(path)
        assert "damaged" in one_line(error)


def test_shared_parameters_are_saved_once(tmp_path):
    net = Tied()
    state = state_of(net)
    assert set(state) == {"first.weight", "first.bias", "second.bias", "steps"}
    save_tensors(tmp_path / "tied", state, {})
    other = Tied()
    restore(other, load_tensors(tmp_path / "tied")[0])
    assert same(other.state_dict(), net.state_dict()) and other.second.weight is other.first.weight
    restore(other, net.state_dict())  # an ordinary state dict, with both names
    del state["first.weight"]
    state["second.weight"] = torch.ones(10, 96)  # saved where another name came first
    restore(other, state)
    assert (other.first.weight == 1).all()


def test_memory_that_is_shared_without_one_parameter_is_saved_once():
    net = Tied()
    net.second.weight = nn.Parameter(net.first.weight.data)
    assert "second.weight" not in state_of(net)
    net.second.weight = nn.Parameter(net.first.weight.data[:5])
    assert state_of(net)["second.weight"].shape == (5, 96)


def test_a_state_is_a_copy():
    net = network()
    state = state_of(net)
    before = {name: tensor.clone() for name, tensor in state.items()}
    train(net, OPTIMIZERS["sgd"](net), range(2))
    assert same(state, before) and not same(state, dict(net.state_dict()))
    assert all(tensor.is_contiguous() and not tensor.requires_grad for tensor in state.values())
    restore(net, state)
    assert same(dict(net.state_dict()), before) and net[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_what_does_not_fit_is_named_and_changes_nothing():
    net, state = Tied(7), state_of(Tied(10))
    before = state_of(net)
    with pytest.raises(KdError) as error:
        restore(net, state, who="teacher.safetensors")
    assert str(error.value) == "teacher.safetensors: 'first.weight' is [10, 96] in the checkpoint and [7, 96] here"
    with pytest.raises(KdError, match=r"\[10, 96\] in the checkpoint"):
        restore(net, state, strict=False)
    with pytest.raises(KdError, match=r"'second\.weight' is"):
        restore(net, {**before, "second.weight": torch.zeros(3, 3)})
    with pytest.raises(KdError, match=r"^checkpoint lacks 'first.weight' and 1 more, which this model has$"):
        restore(net, {"first.bias": torch.ones(7), "second.bias": torch.ones(7), "steps": torch.tensor(3)})
    with pytest.raises(KdError, match=r"^checkpoint has 'third.weight', which this model lacks$"):
        restore(net, {**before, "first.bias": torch.ones(7), "third.weight": torch.zeros(1)})
    assert same(state_of(net), before)
    restore(net, {"first.bias": torch.ones(7), "third.weight": torch.zeros(1)}, strict=False)
    assert (net.first.bias == 1).all() and torch.equal(net.first.weight, before["first.weight"])


def test_a_model_with_state_that_is_no_tensor_is_refused():
    class Odd(nn.Linear):
        def get_extra_state(self):
            return {"a": 1}

    with pytest.raises(KdError, match=r"'_extra_state'.* dict"):
        state_of(Odd(2, 2))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_goes_on_bit_for_bit(tmp_path, name):
    net = network()
    optimizer = OPTIMIZERS[name](net)
    train(net, optimizer, range(7))
    tensors, about = optimizer_tensors(optimizer)
    save_tensors(tmp_path / "net", state_of(net), {})
    save_tensors(tmp_path / "optimizer", tensors, about)
    train(net, optimizer, range(7, 12))

    other = network()
    resumed = OPTIMIZERS[name](other)
    restore(other, load_tensors(tmp_path / "net")[0])
    restore_optimizer(resumed, *load_tensors(tmp_path / "optimizer"))
    assert [group.get("betas") for group in resumed.param_groups] == [group.get("betas") for group in optimizer.param_groups]
    train(other, resumed, range(7, 12))
    assert same(dict(other.state_dict()), dict(net.state_dict()))
    one, two = optimizer_tensors(optimizer), optimizer_tensors(resumed)
    assert same(one[0], two[0]) and one[1] == two[1]


def test_an_optimiser_restored_from_the_same_tensors_twice_shares_nothing():
    net = network()
    optimizer = OPTIMIZERS["adamw"](net)
    train(net, optimizer, range(3))
    tensors, about = optimizer_tensors(optimizer)
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    restore_optimizer(optimizer, tensors, about)
    train(net, optimizer, range(3))
    assert same(tensors, before)


def test_names_and_odd_values_of_an_optimisers_state():
    net = network()
    optimizer = OPTIMIZERS["sgd"](net)
    train(net, optimizer, range(1))
    weight = net[0].weight
    odd = {
        "count": 3,
        "best": -math.inf,
        "pair": (1, [2.0, None]),
        "history": [torch.ones(2)],
        "wide": torch.ones(2).double(),
        "mode": "min",
    }
    optimizer.state[weight].update(odd)
    tensors, about = optimizer_tensors(optimizer)
    assert {"0.momentum_buffer", "3.momentum_buffer", "0.history.0", "0.wide"} <= set(tensors)
    about = json.loads(json.dumps(about, allow_nan=False))
    del optimizer.state[weight]
    restore_optimizer(optimizer, tensors, about)
    back = optimizer.state[weight]
    assert back["count"] == 3 and back["best"] == -math.inf and back["pair"] == (1, [2.0, None]) and back["mode"] == "min"
    assert torch.equal(back["history"][0], torch.ones(2)) and back["wide"].dtype == torch.float64
    optimizer.state[weight]["other"] = object()
    with pytest.raises(KdError, match=r"'0\.other' cannot be saved: it is of type object"):
        optimizer_tensors(optimizer)


def test_another_models_optimiser_state_is_refused():
    net = network()
    tensors, about = optimizer_tensors(OPTIMIZERS["adamw"](net))
    with pytest.raises(KdError, match=r"groups have \[4, 2\] parameters in the checkpoint and \[6\] here"):
        restore_optimizer(OPTIMIZERS["sgd"](net), tensors, about)
    optimizer = OPTIMIZERS["sgd"](net)
    train(net, optimizer, range(1))
    tensors, about = optimizer_tensors(optimizer)
    del tensors["0.momentum_buffer"]
    with pytest.raises(KdError, match=r"lacks the optimiser's '0\.momentum_buffer'"):
        restore_optimizer(optimizer, tensors, about)


def test_json_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "deep/er/a.json"
    write_json(path, {"a": [1, None], "é": "\udcff"})
    assert read_json(path) == {"a": [1, None], "é": "\udcff"}
    for bad in (math.nan, [math.inf]):
        with pytest.raises(FileError) as error:
            write_json(path, bad)
        assert str(path) in one_line(error)
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    with pytest.raises(FileError) as error:
        write_json(path, 1)
    assert one_line(error) == f"cannot write {path}: Permission denied"
    assert read_json(path)["a"] == [1, None] and os.listdir(path.parent) == ["a.json"]


def test_a_file_in_the_way_is_one_line(tmp_path):
    (tmp_path / "file").write_text("mine")
    for write in (
        lambda path: write_json(path, 1),
        lambda path: write_text(path, "x"),
        lambda path: save_tensors(path, {"w": torch.zeros(1)}, {}),
    ):
        for path in (tmp_path / "file/a.json", tmp_path / "file/b/a.json"):
            with pytest.raises(FileError) as error:
                write(path)
            assert "file" in one_line(error) and "not a folder" in one_line(error)
    with pytest.raises(FileError) as error:
        write_text(tmp_path, "x")
    one_line(error)
    assert (tmp_path / "file").read_text() == "mine"


def test_what_cannot_be_read_is_one_line(tmp_path):
    with pytest.raises(FileError) as error:
        read_json(tmp_path / "none.json")
    assert one_line(error) == f"cannot read {tmp_path}/none.json: No such file or directory"
    (tmp_path / "bad.json").write_text("{\n1")
    with pytest.raises(FileError) as error:
        read_json(tmp_path / "bad.json")
    assert "damaged" in one_line(error)
    with pytest.raises(FileError) as error:
        write_text(tmp_path / "t.txt", "\udcff")
    assert "not a character" in one_line(error) and not (tmp_path / "t.txt").exists()

"""A comparison's grid: what is typed, where it stands, what is refused, who has a cell, and that equal seeds are pairs."""

import os
import signal
import subprocess
import sys

import pytest
import torch

from kdcore.comparison.arms import parse_arm, parse_arms, parse_seeds
from kdcore.comparison.cells import clear_unbegun, holder, taken
from kdcore.comparison.existing import names
from kdcore.comparison.grid import Grid, agree, read_grid, write_grid
from kdcore.config import Config
from kdcore.errors import FileError, KdError

TINY = {"data": "digits", "img_size": 16, "train_limit": 64, "epochs": 1, "batch_size": 32, "amp": "none"}


def test_arms_are_read_as_they_are_typed():
    found = parse_arms(["plain,byot:preset=final:alpha=0.5:--cutout=16", "plain,kd:--no-aug:--scratch:--amp=bfloat16"])
    assert [(arm.method, arm.options, arm.settings) for arm in found] == [
        ("plain", {}, {}),
        ("byot", {"preset": "final", "alpha": 0.5}, {"cutout": 16}),
        ("kd", {}, {"aug": False, "pretrained": False, "amp": "bfloat16"}),
    ]
    assert found[1].text == "byot:preset=final:alpha=0.5:--cutout=16"


def test_commas_and_colons_within_quotes_and_brackets_belong_to_the_value():
    first, second = parse_arms(["a:sizes=[1,2]:--loss='kl@deepest:shallow=0.5',b:--decay-milestones=[3,5]:--taps=\"layer2,layer4\""])
    assert first.options == {"sizes": [1, 2]} and first.settings == {"loss": ["kl@deepest:shallow=0.5"]}
    assert second.settings == {"decay_milestones": [3, 5], "taps": "layer2,layer4"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("byot:preset", "'preset' is neither"),
        (":alpha=1", "write NAME"),
        ("byot:--cutuot=2", "did you mean 'cutout'?"),
        ("byot:--cutout", "needs a value"),
        ("byot:--freeze=1", "takes no value"),
        ("byot:--seed=3", "--seeds says"),
        ("byot:--data=digits", "every row sees the same data"),
        ("byot:--epochs=0", "greater than or equal to 1"),
    ],
)
def test_a_slip_in_an_arm_is_one_line(text, said):
    with pytest.raises(KdError, match="--method") as error:
        parse_arm(text)
    assert said in str(error.value)


def test_seeds():
    assert parse_seeds("5") == parse_seeds(5) == [0, 1, 2, 3, 4]
    assert (parse_seeds("7,"), parse_seeds("3, 7,3"), parse_seeds([4])) == ([7], [3, 7], [4])
    for wrong in ("0", "two", "1-3", ""):
        with pytest.raises(KdError, match="--seeds"):
            parse_seeds(wrong)


def grid(*texts, models=("a",), **shared):
    made = Grid(seeds=[0, 1], shared={"data": "digits", **shared})
    made.add_rows(models, parse_arms(texts))
    return made


def test_rows_are_models_by_methods_each_once():
    made = grid("plain", "byot:alpha=1:--epochs=2", models=("a", "x/b"))
    assert [row.name for row in made.rows] == ["a plain", "a byot:alpha=1:--epochs=2", "x/b plain", "x/b byot:alpha=1:--epochs=2"]
    assert len({row.folder for row in made.rows}) == 4 and all("/" not in row.folder and ":" not in row.folder for row in made.rows)
    made.add_rows(["a"], parse_arms(["plain", "byot:--epochs=2:alpha=1"]))
    assert len(made.rows) == 4
    assert [row.is_baseline for row in made.rows] == [True, False, True, False]


def test_a_label_is_what_a_row_is_called(tmp_path):
    made = grid("plain", "light=byot:preset=final:--taps='a=b,c':--lr=0.01,kd:temperature=2")
    assert [(row.name, row.folder) for row in made.rows] == [
        ("plain", "plain"),
        ("light", "light"),
        ("kd:temperature=2", "kd-temperature=2"),
    ]
    assert made.rows[1].options == {"preset": "final"} and made.rows[1].settings == {"taps": "a=b,c", "lr": 0.01}
    write_grid(tmp_path, made, None)
    again = read_grid(tmp_path)
    assert again.rows == made.rows and "typed" not in (tmp_path / "compare.toml").read_text().partition("light")[0]
    again.add_rows(["a"], parse_arms([made.rows[1].typed]))  # typed again, it is the same row
    assert len(again.rows) == 3
    again.add_rows(["b"], parse_arms(["light=byot:preset=final"]))
    assert again.rows[3].name == "b light"


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["=byot"], "a label is LABEL=NAME"),
        (["light="], "a label is LABEL=NAME"),
        (["--lr=0.1"], "a label is LABEL=NAME"),
        (["kd=temperature=2"], "write NAME"),
        (["my light=byot"], "one word"),
        (["plain=byot"], "plain is the baseline"),
        (["base=deep-supervision"], "deep-supervision is the baseline"),
        (["a=byot", "a=kd"], "another row is called 'a'"),
        (["a=byot", "b=byot"], "is called 'a'; leave out the label"),
        (["kd", "kd=byot"], "another row is called 'kd'"),
    ],
)
def test_a_label_that_misleads_is_refused(texts, said):
    with pytest.raises(KdError, match="--method ") as error:
        grid(*texts)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_no_row_may_differ_from_cell_to_cell():
    for text in ("m:--minutes=3", "m:--amp=try"):
        with pytest.raises(KdError, match=text.partition("=")[0][2:].replace("-", "")):
            grid(text)


def test_folders_of_rows_stay_apart_and_short():
    made = grid("m:a=1", "m:a='1'", "m:A=1", "m:name=" + "x" * 200)
    assert len({row.folder.lower() for row in made.rows}) == 4
    assert max(len(row.folder) for row in made.rows) < 70


def test_a_rows_settings_go_over_those_of_all():
    made = grid("m:a=1:--no-aug:--epochs=2", epochs=9, cutout=8, options={"a": 0, "b": 3})
    assert made.row_settings(made.rows[0]) == {
        "data": "digits", "epochs": 2, "aug": False, "model": "a", "method": "m", "options": {"a": 1, "b": 3}
    }  # fmt: skip


def test_the_grid_is_what_compare_toml_says(tmp_path):
    loose = tmp_path / "mine.py"
    loose.write_text("first = 1")
    made = grid("plain", "m:a=1.5:sizes=[1,2]:--no-aug", plugin=[str(loose)], lr=0.1, options={"ce.label_smoothing": 0.1})
    write_grid(tmp_path / "c", made, None)
    loose.write_text("second = 2")
    again = read_grid(tmp_path / "c")
    assert (again.rows, again.seeds) == (made.rows, made.seeds)
    kept = again.shared.pop("plugin")
    assert kept == [(tmp_path / "c/plugins/mine.py").as_posix()] and (tmp_path / "c/plugins/mine.py").read_text() == "first = 1"
    assert again.shared == {"data": "digits", "lr": 0.1, "options": {"ce.label_smoothing": 0.1}}
    with pytest.raises(KdError, match="another kd compare has changed"):  # it was not there when `made` was put together
        write_grid(tmp_path / "c", grid("m"), None)
    assert read_grid(tmp_path / "c").rows == made.rows
    (tmp_path / "c/compare.toml").write_text("seeds = 3")
    with pytest.raises(FileError, match="damaged"):
        read_grid(tmp_path / "c")


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ({"epochs": 3}, "--epochs 3: here was begun with 2 and not"),
        ({"lr": 0.1}, "--lr 0.1"),
        ({"options": {"a": 2}}, "-o a 2"),
        ({"plugin": ["x"]}, "-p"),
    ],
)
def test_what_is_typed_otherwise_is_named(tmp_path, typed, said):
    stored = {"data": "digits", "epochs": 2, "options": {"a": 1}}
    agree(stored, {"data": "digits", "epochs": 2, "batch_size": Config.model_fields["batch_size"].default, "options": {"a": 1}}, tmp_path)
    with pytest.raises(KdError) as error:
        agree(stored, typed, "here")
    assert said in str(error.value) and "another --dir" in str(error.value)


def test_a_loose_plugin_that_was_edited_is_named(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("first = 1")
    write_grid(tmp_path / "c", grid("plain", plugin=[str(file)]))
    stored = read_grid(tmp_path / "c").shared
    agree(stored, {"plugin": [str(file)]}, tmp_path / "c")
    file.write_text("second = 2")
    with pytest.raises(KdError, match=r"mine\.py: .*c was begun with another content of it"):
        agree(stored, {"plugin": [str(file)]}, tmp_path / "c")


def test_existing_groups_are_called_as_they_would_be_typed():
    base = {"model": "a", "method": "plain", "options": {}, "epochs": 30, "aug": True}
    other = {**base, "epochs": 60}
    byot = {**base, "method": "byot", "options": {"preset": "final"}}
    assert names({}, [base, other, byot]) == ["plain:--epochs=30", "plain:--epochs=60", "byot:preset=final"]
    assert names({"plain": base}, [other]) == ["plain:--epochs=60"]
    assert names({}, [base, {**base, "model": "b"}]) == ["a plain", "b plain"]


HOLD = """
import sys, time
from kdcore.comparison.cells import taken
with taken(__import__("pathlib").Path(sys.argv[1]), "me") as ours:
    print(ours, flush=True)
    time.sleep(60)
"""


def test_a_cell_has_one_worker_and_a_dead_ones_lock_is_taken_over(tmp_path):
    path = tmp_path / "cells" / "plain-s0"
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    with other:
        assert other.stdout.readline() == "True\n"
        with taken(path) as ours:
            assert not ours
        assert holder(path)["pid"] == other.pid and holder(path)["by"] == "me"
        os.kill(other.pid, signal.SIGKILL)
        other.wait()
        assert path.with_name("plain-s0.lock").exists()
        with taken(path, "us") as ours:
            assert ours
    assert holder(path)["pid"] == os.getpid()


def test_only_what_a_run_left_before_it_began_is_removed(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / ".config.toml.1.tmp").write_text("")
    clear_unbegun(tmp_path)
    assert not tmp_path.exists()
    for name in ("notes.txt", "checkpoints/a.safetensors"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("mine")
        with pytest.raises(FileError, match="move it away"):
            clear_unbegun(tmp_path)
        (tmp_path / name).unlink()
        (tmp_path / name).parent.rmdir()


def test_equal_seeds_are_pairs():
    """The same dev split, subset, order and initial backbone for every row of one seed, and others for another seed."""
    from kdcore.config import read_config
    from kdcore.preparing import prepare

    def drawn(method, seed):
        ready = prepare(read_config({**TINY, "model": "test_resnet_32px", "method": method, "seed": seed}))
        weights = {name.rpartition("net.")[2]: tensor for name, tensor in ready.composition.student.named_parameters() if "net." in name}
        order = torch.cat([index for _, _, index in ready.batches("train", train=True).epoch(0)])
        pixels = next(iter(ready.batches("train", train=True).epoch(0)))[0]
        return weights, (ready.data.train.labels, ready.data.dev.labels, order, pixels)

    (plain, plain_data), (deep, deep_data), (_, other_data) = drawn("plain", 3), drawn("deep-supervision", 3), drawn("plain", 4)
    assert plain.keys() <= deep.keys() and len(plain) > 10
    assert all(torch.equal(tensor, deep[name]) for name, tensor in plain.items())
    assert all(torch.equal(one, two) for one, two in zip(plain_data, deep_data, strict=True))
    assert not any(torch.equal(one, two) for one, two in zip(plain_data, other_data, strict=True))

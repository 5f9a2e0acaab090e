"""The loop by itself, on a task of one number: accumulation, the log interval, and the line of a loss that is no number."""

from contextlib import nullcontext

import pytest
import torch

from kdcore import KdError, Phase
from kdcore.config import read_config
from kdcore.loop import Means, train_epoch
from kdcore.precision import Precision


class OneNumber:
    """Loss w * x for each x that comes: the gradient of an update is the mean of its x."""

    def __init__(self) -> None:
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.phase = Phase()
        self.places: list[tuple[float, float]] = []
        self.steps: list[bool] = []
        self.averaged: list[int] = []

    def train(self) -> None: ...

    def listens(self) -> bool:
        return True

    def remembers(self) -> bool:
        return True

    def has_ema(self) -> bool:
        return True

    def at(self, *, epoch: float, progress: float) -> None:
        self.places.append((epoch, progress))

    def __call__(self, images, labels, index):
        return {"loss": self.weight * images.sum(), "output": images, "seen": images.sum()}

    def no_sync(self):
        return nullcontext()

    def get_clip_parameters(self, exclude_head=False):
        return [self.weight]

    def after_step(self, *, updated: bool) -> None:
        self.steps.append(updated)

    def update_ema(self, step: int) -> None:
        self.averaged.append(step)


class Values:
    def __init__(self, values: list[float]) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def epoch(self, epoch: int):
        for value in self.values:
            yield torch.tensor([value]), torch.tensor([0]), torch.tensor([0])


def run(values: list[float], task: OneNumber | None = None, **settings):
    task = task or OneNumber()
    lines: list[dict[str, float]] = []
    config = read_config({"model": "m", "data": "d", **settings})
    optimizer = torch.optim.SGD([task.weight], lr=1.0)
    about = {"epoch": 1, "epochs": 4, "settings": config, "precision": Precision(), "device": torch.device("cpu")}
    means = train_epoch(task, Values(values), optimizer, on_log=lines.append, **about)
    return task, means, lines


def test_an_update_is_the_mean_of_its_steps_also_where_the_last_has_fewer():
    task, _, _ = run([1.0, 2.0, 3.0, 10.0, 20.0], grad_accum_steps=3)
    assert task.steps == [False, False, True, False, True]  # what a memory sees is each step; the weights moved after two of them
    assert task.averaged == [2, 3]  # the updates of the epoch before count
    assert task.weight.item() == pytest.approx(-(2.0 + 15.0))


def test_the_clock_counts_within_the_phase():
    task, _, _ = run([1.0, 1.0, 1.0, 1.0])
    assert task.places == [(1.0, 0.25), (1.25, 0.3125), (1.5, 0.375), (1.75, 0.4375)]


def test_log_lines_are_means_since_the_line_before_and_the_end_is_always_one():
    _, means, lines = run([1.0, 3.0, 5.0], log_interval=2)
    assert [(line["step"], line["seen"]) for line in lines] == [(2, 2.0), (3, 5.0)]
    assert means["seen"] == pytest.approx(3.0)


def test_gradients_are_clipped():
    task, _, _ = run([100.0], clip_grad=0.5)
    assert task.weight.item() == pytest.approx(-0.5)


def test_a_loss_that_is_no_number_says_what_to_try():
    with pytest.raises(KdError, match="the loss is nan in epoch 2 of phase 'main': try a smaller --lr, or --clip-grad 1"):
        run([float("nan")])


def test_means_hold_more_steps_than_are_summed_at_once():
    means = Means()
    for step in range(150):
        means.add({"loss": torch.tensor(float(step)), "output": torch.zeros(2), "ce": torch.tensor(1.0)})
        if step == 99:
            assert means.read() == {"loss": 49.5, "ce": 1.0}
    assert means.of_all() == {"loss": 74.5, "ce": 1.0} and Means().of_all() == {} and Means().read() == {}


def test_batches_that_end_early_are_averaged_too():
    """As an estimate's do, which takes some of an epoch's."""

    class Short(Values):
        def __len__(self) -> int:
            return 10

    config = read_config({"model": "m", "data": "d"})
    task = OneNumber()
    about = {
        "epoch": 0,
        "epochs": 1,
        "settings": config,
        "precision": Precision(),
        "device": torch.device("cpu"),
        "on_log": lambda line: None,
    }
    means = train_epoch(task, Short([1.0, 3.0]), torch.optim.SGD([task.weight], lr=1.0), **about)
    assert means["seen"] == 2.0

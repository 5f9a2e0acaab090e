"""Between log lines a step never waits for the device: no `.item()`, no `float(tensor)`, no copy to the host, in a whole epoch."""

import functools

import pytest
import torch

from kdcore import compose
from kdcore.backbones import create_backbone
from kdcore.config import read_config
from kdcore.data.mixing import Mixing
from kdcore.loop import train_epoch
from kdcore.optimisation import create_optimizer
from kdcore.precision import Precision
from kdcore.testing import waiting

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

no_waiting = functools.partial(waiting.no_waiting, DEVICE.type == "cuda")


class Batches:
    def __init__(self, mixed: bool) -> None:
        self.mixing = Mixing(3, mixup=0.2, cutmix=1.0, prob=1.0, switch_prob=0.5, mode="batch", off_epoch=0, seed=0) if mixed else None

    def __len__(self) -> int:
        return 3

    def epoch(self, epoch: int):
        for step in range(3):
            images, labels = torch.randn(8, 3, 16, 16, device=DEVICE), torch.arange(8, device=DEVICE) % 3
            index = torch.arange(8, device=DEVICE)
            if self.mixing is not None:
                images, labels = self.mixing(images, labels, epoch, step)
            yield images, labels, index


CASES = {
    "plain": {"method": "plain"},
    "deep supervision": {"method": "deep-supervision"},
    "byot": {"method": "byot"},
    "byot final": {"method": "byot", "options": {"preset": "final"}},
    "kd": {"method": "plain", "losses": ["kl@teacher"]},
}


ALL = {"clip_grad": 1.0, "model_ema": True, "mixup": 0.2}
AGC = {"clip_grad": 0.1, "clip_mode": "agc", "opt": "adamw", "grad_accum_steps": 2}


@pytest.mark.parametrize(
    ("case", "settings", "amp"),
    [(case, ALL, "bfloat16") for case in CASES] + [("byot", {}, "none"), ("kd", {}, "none"), ("plain", AGC, "none")],
)
def test_an_epoch_waits_for_nothing_but_its_log_lines(case, settings, amp, monkeypatch):
    about = dict(CASES[case])
    if "losses" in about:
        about["teacher"] = create_backbone("test_resnet_32px", num_classes=3)
    mixed = "mixup" in settings
    task = compose("test_resnet_32px", about.pop("method"), num_classes=3, image_size=16, device=DEVICE, soft_labels=mixed, **about).task()
    config = read_config({"model": "m", "data": "d", "lr": 0.1, **settings})
    optimizer = create_optimizer(task.objective, config)
    if config.model_ema:
        task.setup_ema(config.model_ema_decay, config.model_ema_warmup)
    epoch = functools.partial(
        train_epoch, task, Batches(mixed), optimizer, epochs=2, settings=config, precision=Precision(amp), device=DEVICE
    )
    epoch(epoch=0, on_log=lambda line: None)  # what is made once (momentum, EMA) is made
    monkeypatch.setattr("kdcore.loop.Means.read", lambda means: {"loss": 0.0})
    monkeypatch.setattr("kdcore.loop.Means.of_all", lambda means: {})
    with no_waiting():
        epoch(epoch=1, on_log=lambda line: None)


READERS = [torch.Tensor.item, float, torch.Tensor.tolist, torch.Tensor.nonzero, bool, lambda t: t[t > 0], torch.Tensor.numpy]


@pytest.mark.parametrize("read", READERS)
def test_what_waits_is_seen(read):
    value = torch.ones(1, device=DEVICE)
    with pytest.raises(AssertionError, match="waits for the device"), no_waiting():
        read(value)


def test_the_log_line_is_what_waits():
    task = compose("test_resnet_32px", "plain", num_classes=3, image_size=16, device=DEVICE).task()
    config = read_config({"model": "m", "data": "d", "lr": 0.1})
    about = {"epoch": 0, "epochs": 1, "settings": config, "precision": Precision(), "device": DEVICE, "on_log": lambda line: None}
    with pytest.raises(AssertionError, match="waits for the device"), no_waiting():
        train_epoch(task, Batches(False), create_optimizer(task.objective, config), **about)

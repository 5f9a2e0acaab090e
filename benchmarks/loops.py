"""The training loops that are compared: kdcore's own, torchdistill's, timm's task as it comes, and timm's task tuned by hand.

Each is driven as its users drive it, and they share all that is not the loop: the networks, the images, the batch, pad-crop-flip, SGD with
momentum, and for distillation .1 CE + .9 T^2 KL at T = 4. `loop.steps(n)` trains n steps, reading the batches included, and goes on from there.
"""

import itertools
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import transforms

import kdcore
from kdcore.backbones import create_backbone
from kdcore.config import read_config
from kdcore.loading import load
from kdcore.loop import train_epoch
from kdcore.phase_run import PhaseState
from kdcore.plugins import Plugins
from kdcore.session import Watch
from kdcore.training import _begin

MEAN, STD = (0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)
LR, MOMENTUM, DECAY, TEMPERATURE, ALPHA, PAD = 0.05, 0.9, 5e-4, 4.0, 0.9, 4


@dataclass
class Setting:
    """What all loops share. teacher: a run's folder, or None for plain training. images: uint8 [N, H, W, 3], labels: int64 [N], of `data`."""

    student: str
    teacher: Path | None
    data: Path
    images: np.ndarray
    labels: np.ndarray
    folder: Path
    batch_size: int = 128
    workers: int = 2
    device: str = "cpu"

    @property
    def classes(self) -> int:
        return int(self.labels.max()) + 1

    def networks(self) -> tuple[nn.Module, nn.Module | None]:
        """A fresh student, and the teacher, as timm would build them: float32, in the ordinary memory format."""
        torch.manual_seed(0)
        student = create_backbone(self.student, plugins=Plugins(), num_classes=self.classes)
        nets = [student, load(self.teacher, exit=-1) if self.teacher is not None else None]
        for net in nets:
            if net is not None:
                net.pretrained_cfg = {**(getattr(net, "pretrained_cfg", None) or {}), "mean": MEAN, "std": STD}
                net.to(self.device, memory_format=torch.contiguous_format)
        return nets[0], nets[1]


@dataclass
class Loop:
    """name: of its row. steps: trains so many. precision: what it computes in. settle: seconds to wait, outside of the time, after its turn.
    chunk, task: kdcore's `Steps` and its task."""

    name: str
    steps: Callable[[int], Any]
    precision: str = "float32"
    settle: float = 0.0
    chunk: Any = None
    task: Any = None


def random_images(folder: Path, count: int = 10_000, classes: int = 100, side: int = 32) -> Path:
    """A data set of CIFAR's shape, drawn at random: an .npz with MedMNIST's keys."""
    draw = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for split, size in (("train", count), ("test", classes)):
        arrays[f"{split}_images"] = draw.integers(0, 256, (size, side, side, 3), dtype=np.uint8)
        arrays[f"{split}_labels"] = (np.arange(size) % classes)[:, None]
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "random.npz", **arrays)
    return folder / "random.npz"


def train_teacher(model: str, data: Path, folder: Path, device: str) -> Path:
    """A run with two steps in it: to be a teacher here, a network needs to be one of kdcore's, not to know anything."""
    run = folder / "teacher"
    if not (run / "results.json").exists():
        few = {"train_limit": 2 * 100, "batch_size": 100, "epochs": 1, "dev_fraction": 0.0}
        kdcore.train(model, str(data), method="plain", run=run, device=device, mean=list(MEAN), std=list(STD), **few)
    return run


# -- kdcore -----------------------------------------------------------------------------------------------------------------


class Steps:
    """The next `count` batches of an endless training, as an epoch of its own.

    guard: a context that holds from the first batch to the last but one, for the reading and for the steps.
    """

    def __init__(self, batches: Any) -> None:
        self.batches, self.count = batches, 0
        self.stream = self._endless()
        self.guard: Callable[[], AbstractContextManager[Any]] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.batches, name)

    def __len__(self) -> int:
        return self.count

    def epoch(self, epoch: int) -> Iterator[Any]:
        guard = self.guard or nullcontext
        first, last = next(self.stream), self.count - 1
        with guard():
            yield first
            yield from itertools.islice(self.stream, max(last - 1, 0))
        if last:
            yield next(self.stream)

    def _endless(self) -> Iterator[Any]:
        for epoch in itertools.count():
            yield from self.batches.epoch(epoch)


def of_kdcore(setting: Setting, name: str = "kdcore", **settings: Any) -> Loop:
    """What `kd train` builds and its own `train_epoch`: defaults, but for what all loops share. settings: others of `Config`."""
    shared: dict[str, Any] = {
        "model": setting.student,
        "data": str(setting.data),
        "method": "plain",
        "batch_size": setting.batch_size,
        "device": setting.device,
        "mean": list(MEAN),
        "std": list(STD),
        "crop_pad": PAD,
        "hflip": 0.5,
        "opt": "momentum",
        "lr": LR,
        "momentum": MOMENTUM,
        "weight_decay": DECAY,
        "sched": "constant",
        "dev_fraction": 0.0,
        "epochs": 1000,
        "workers": setting.workers,
    }
    if setting.teacher is not None:
        shared |= {"method": "kd", "teacher": str(setting.teacher), "options": {"alpha": ALPHA, "temperature": TEMPERATURE}}
    session = _begin(read_config({**shared, **settings}), None, setting.folder / name.replace(" ", "-"), Watch(), timed=False)
    state = PhaseState(session, session.prepared.composition.phases[0], 1)
    if state.settings.compile:
        state.task.compile()
    chunk = Steps(state.batches)

    def steps(count: int) -> dict[str, float]:
        chunk.count = count
        return train_epoch(
            state.task,
            chunk,
            state.optimizer,
            epoch=0,
            epochs=state.epochs,
            settings=state.settings,
            precision=session.precision,
            device=session.prepared.device,
            on_log=lambda record: None,
        )

    return Loop(name, steps, str(session.precision), chunk=chunk, task=state.task)


# -- those that read through PIL ------------------------------------------------------------------------------------------------


class Pictures(torch.utils.data.Dataset):
    """What torchvision's CIFAR100 does with a sample: an array as a PIL image, then the transforms."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, transform: Any) -> None:
        self.images, self.labels, self.transform = images, labels.tolist(), transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: int) -> tuple[Any, int]:
        from PIL import Image

        return self.transform(Image.fromarray(self.images[number])), self.labels[number]


CROP_AND_FLIP = (transforms.RandomCrop(32, padding=PAD), transforms.RandomHorizontalFlip(0.5))


def endless(loader: Any) -> Iterator[Any]:
    while True:
        yield from loader


class Next:
    """The next `count` batches of an endless loader, with the length that a progress log asks for."""

    def __init__(self, stream: Iterator[Any], count: int) -> None:
        self.stream, self.count = stream, count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Any]:
        return itertools.islice(self.stream, self.count)


def of_torchdistill(setting: Setting) -> Loop:
    """torchdistill's box by the configuration of its CIFAR samples, and the epoch of its `examples/torchvision/image_classification.py`."""
    import torchdistill.losses.high_level
    import torchdistill.losses.mid_level  # noqa: F401 - each registers its losses
    from torch.utils.data import RandomSampler
    from torchdistill.common.constant import def_logger
    from torchdistill.core.distillation import get_distillation_box
    from torchdistill.core.training import get_training_box
    from torchdistill.misc.log import MetricLogger, SmoothedValue

    def_logger.setLevel(logging.WARNING)
    device = torch.device(setting.device)
    student, teacher = setting.networks()
    transform = transforms.Compose([*CROP_AND_FLIP, transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    data = {"cifar/train": Pictures(setting.images, setting.labels, transform)}
    kd = {
        "key": "KDLoss",
        "kwargs": {
            "student_module_path": ".",
            "student_module_io": "output",
            "teacher_module_path": ".",
            "teacher_module_io": "output",
            "temperature": TEMPERATURE,
            "alpha": 1 - ALPHA,
            "reduction": "batchmean",
        },
    }
    takes = {"input": {"is_from_teacher": False, "module_path": ".", "io": "output"}, "target": {"uses_label": True}}
    plain = {
        "criterion": {"key": "CrossEntropyLoss", "kwargs": {"reduction": "mean"}},
        "criterion_wrapper": {"key": "SimpleLossWrapper", "kwargs": takes},
    }
    term = {**(plain if teacher is None else {"criterion": kd}), "weight": 1.0}
    forward = {"forward_proc": "forward_batch_only"}
    config = {
        "num_epochs": 1000,
        "train_data_loader": {
            "dataset_id": "cifar/train",
            "sampler": {"class_or_func": RandomSampler, "kwargs": {}},
            "batch_sampler": {"key": "BatchSampler", "kwargs": {"batch_size": setting.batch_size, "drop_last": True}},
            "kwargs": {"num_workers": setting.workers, "pin_memory": device.type == "cuda"},
        },
        "teacher": {**forward, "requires_grad": False, "frozen_modules": []},
        "student": {**forward, "requires_grad": True, "frozen_modules": []},
        "model": {**forward, "requires_grad": True},
        "optimizer": {"key": "SGD", "kwargs": {"lr": LR, "momentum": MOMENTUM, "weight_decay": DECAY}},
        "criterion": {"key": "WeightedSumLoss", "kwargs": {"sub_terms": {"term": term}}},
    }
    if teacher is not None:
        teacher.eval()
        box = get_distillation_box(teacher, student, data, config, device, None, False, 1)
    else:
        box = get_training_box(student, data, config, device, None, False, 1)
    stream = endless(box.train_data_loader)

    def steps(count: int) -> None:
        box.pre_epoch_process(epoch=0)
        logger = MetricLogger(delimiter="  ")
        logger.add_meter("lr", SmoothedValue(window_size=1, fmt="{value}"))
        for sample_batch, targets, supplement in logger.log_every(Next(stream, count), 100, "Epoch: [0]"):
            sample_batch, targets = sample_batch.to(device), targets.to(device)
            loss = box.forward_process(sample_batch, targets, supplement)
            box.post_forward_process(loss=loss)
            logger.update(loss=loss.item(), lr=box.optimizer.param_groups[0]["lr"])
            if torch.isnan(loss) or torch.isinf(loss):
                raise ValueError(f"The training loop was broken due to loss = {loss}")

    return Loop("torchdistill", steps, settle=0.4)


def timm_task(student: nn.Module, teacher: nn.Module | None, device: torch.device) -> nn.Module:
    from timm.task import ClassificationTask, LogitDistillationTask

    if teacher is None:
        return ClassificationTask(student, criterion=nn.CrossEntropyLoss(), device=device, verbose=False)
    weights = {"task_loss_weight": 1 - ALPHA, "distill_loss_weight": ALPHA, "temperature": TEMPERATURE}
    return LogitDistillationTask(student, teacher, criterion=nn.CrossEntropyLoss(), device=device, verbose=False, **weights)


def timm_optimizer(student: nn.Module) -> torch.optim.Optimizer:
    from timm.optim import create_optimizer_v2

    return create_optimizer_v2(student, opt="momentum", lr=LR, momentum=MOMENTUM, weight_decay=DECAY)


def of_timm(setting: Setting) -> Loop:
    """timm's task in the epoch of timm's `train.py` with its defaults: its loader and prefetcher, float32, `loss.item()` in every step."""
    from timm.data import create_loader
    from timm.utils import AverageMeter

    device = torch.device(setting.device)
    student, teacher = setting.networks()
    pictures = Pictures(setting.images, setting.labels, None)
    loader = create_loader(
        pictures,
        input_size=(3, 32, 32),
        batch_size=setting.batch_size,
        is_training=True,
        mean=MEAN,
        std=STD,
        num_workers=setting.workers,
        device=device,
        use_prefetcher=True,
    )
    to_numpy = pictures.transform.transforms[-1]  # timm's last transform: PIL to uint8, normalised by the prefetcher on the device
    pictures.transform = transforms.Compose([*CROP_AND_FLIP, to_numpy])
    task, optimizer = timm_task(student, teacher, device), timm_optimizer(student)
    stream = endless(loader)

    def steps(count: int) -> float:
        task.train()
        losses = AverageMeter()
        optimizer.zero_grad()
        for images, target in itertools.islice(stream, count):
            loss = task(images, target)["loss"]
            loss.backward()
            optimizer.step()
            losses.update(loss.item(), len(images))
            optimizer.zero_grad()
            task.update_ema(step=0)
        return losses.avg

    return Loop("timm as it comes", steps, settle=0.4)


def of_timm_tuned(setting: Setting, half: bool | None = None) -> Loop:
    """timm's task with all that a careful reader of its documents would add by hand: images resident as uint8, cropped and flipped in one gather,
    bfloat16 autocast where the hardware has it (or as `half` says), channels_last, and no `item()`."""
    from kdcore.precision import fast_bfloat16

    device = torch.device(setting.device)
    student, teacher = setting.networks()
    for net in (student, teacher):
        if net is not None:
            net.to(memory_format=torch.channels_last)
    task, optimizer = timm_task(student, teacher, device), timm_optimizer(student)
    images = F.pad(torch.from_numpy(setting.images).permute(0, 3, 1, 2), [PAD] * 4).to(device)
    labels = torch.from_numpy(setting.labels).to(device)
    side = torch.arange(32, device=device)
    mean, std = (torch.tensor(values, device=device).mul(255).view(1, 3, 1, 1) for values in (MEAN, STD))
    size, half = setting.batch_size, fast_bfloat16(device) if half is None else half

    def orders() -> Iterator[Tensor]:
        while True:
            yield from torch.randperm(len(images), device=device).split(size)[: len(images) // size]

    stream = orders()

    def batch(index: Tensor) -> tuple[Tensor, Tensor]:
        shift = torch.randint(0, 2 * PAD + 1, (2, size, 1), device=device)
        mirror = torch.rand(size, 1, device=device) < 0.5
        rows, columns = side + shift[0], torch.where(mirror, side.flip(0), side) + shift[1]
        crops = images[index[:, None, None], :, rows[:, :, None], columns[:, None, :]]
        return crops.permute(0, 3, 1, 2).float().sub_(mean).div_(std), labels[index]

    def steps(count: int) -> float:
        task.train()
        total = torch.zeros((), device=device)
        for index in itertools.islice(stream, count):
            inputs, target = batch(index)
            with torch.autocast(device.type, dtype=torch.bfloat16) if half else nullcontext():
                loss = task(inputs, target)["loss"]
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            total += loss.detach()
        return float(total)

    return Loop("timm tuned by hand", steps, "bfloat16, channels last" if half else "float32, channels last")


def versions() -> dict[str, str]:
    """Of those that kdcore is compared with."""
    from importlib.metadata import PackageNotFoundError, version

    told = {"timm": timm.__version__, "kdcore": version("kdcore")}
    try:
        told["torchdistill"] = version("torchdistill")
    except PackageNotFoundError:
        print("torchdistill is not here: its rows are left out (pip install torchdistill)", file=sys.stderr)
    return told

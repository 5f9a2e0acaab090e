"""How long a run will take here: its own loop on some of its own batches, timed before it begins.

The timed steps, evaluation and checkpoint are real ones; every weight, buffer, gradient, flag and random state is put back after them, and what is
read is read by loaders that are thrown away: a run's numbers are the same with an estimate and without.
"""

import dataclasses
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from kdcore.checkpoints import save_tensors, state_of
from kdcore.data import Batches, Split
from kdcore.data.resident import decoded, is_resident
from kdcore.errors import FileError
from kdcore.estimate import Estimate, PhaseTime
from kdcore.evaluation import collect, quick, report
from kdcore.loop import train_epoch
from kdcore.optimisation import create_optimizer, settings_of
from kdcore.optimizer_state import optimizer_tensors
from kdcore.phases import Phase
from kdcore.precision import Precision, wait
from kdcore.preparing import Prepared, make_batches
from kdcore.rehearsal import buffers_of

LIMIT = 6.0
"""Seconds that the timed training steps may take, where 5 % of the run is not less; two steps are the least."""

LEAST = 0.15
"""Seconds that they take even in a run of seconds: two steps alone say little."""

STEPS = 40

_LOOKED_AT = 32  # pictures opened, at most, to see how long one takes


def estimate(prepared: Prepared, precision: Precision, folder: Path | None = None) -> Estimate:
    """Times steps of every kind of phase, some evaluation and a checkpoint, in seconds all in all.

    folder: on whose disk the checkpoint is tried; it is removed at once. Raises what training would: DataError for an unreadable image among the first.
    """
    phases, config = prepared.composition.phases, prepared.config
    kinds: dict[tuple[Any, ...], tuple[float, float, float]] = {}
    with untouched(prepared) as put_back:
        reading = _reading(prepared)
        evaluation = None
        for phase in phases:
            if (kind := _kind(phase)) not in kinds and len(kinds) < 4:
                share = 1 / min(len({_kind(p) for p in phases}), 4)
                kinds[kind], step, task = _phase_time(prepared, precision, phase, reading, share, folder)
                put_back()
                evaluation = evaluation or _evaluation(prepared, precision, task.network(), step)
        assert evaluation is not None
    forward, quickly, reported = evaluation
    splits = {name: split for name in ("train", "dev", "test") if (split := getattr(prepared.data, name)) is not None}
    decoding = {name: len(split) * reading / max(config.workers, 1) if _decoded(prepared, name) else 0.0 for name, split in splits.items()}
    batch, workers = max(config.batch_size, 256), config.workers
    once = {
        name: evaluating(len(split), batch, workers, 0.0 if _decoded(prepared, name) else reading, forward)
        for name, split in splits.items()
        if name != "train"
    }
    first = next(iter(kinds.values()))
    times: list[PhaseTime] = []
    for phase in phases:
        training, begin, save = kinds.get(_kind(phase), first)
        each = ("dev", "test") if config.test_every_epoch else ("dev",)
        evaluated = sum(once[name] + quickly for name in each if name in once)
        if not times:  # what is decoded stays, for all phases
            begin += decoding["train"] + decoding.get("dev", 0.0)
        times.append(PhaseTime(phase.name, phase.epochs or config.epochs, phase.epochs is None, training + evaluated + save, begin))
    ends = 2 if prepared.data.dev is not None else 1  # the last checkpoint, and the best where there is something to choose it by
    reports = ends * sum(seconds + reported for seconds in once.values())
    return Estimate(tuple(times), decoding.get("test", 0.0) + reports + 2 * first[2])


def evaluating(count: int, batch: int, workers: int, reading: float, forward: float) -> float:
    """Seconds to evaluate `count` images, one of which takes `reading` seconds to open in one process and `forward` in the network.

    The first batch is opened by one worker while the network waits; then whichever is slower decides.
    """
    first = min(count, batch)
    if not workers:
        return count * (reading + forward)
    return first * (reading + forward) + (count - first) * max(reading / workers, forward)


def _kind(phase: Phase) -> tuple[Any, ...]:
    """What decides how long a step of a phase takes."""
    teacher = phase.teacher if phase.teacher in (None, "auto", "given") else "a result"
    return phase.model, teacher, tuple(phase.trains), tuple(phase.terms) if phase.terms is not None else None, phase.up_to


def _phase_time(
    prepared: Prepared, precision: Precision, phase: Phase, reading: float, share: float, folder: Path | None
) -> tuple[tuple[float, float, float], float, Any]:
    """(Seconds of an epoch's steps, before the first step, of a checkpoint), seconds of a step, and the task."""
    begin = time.perf_counter()
    composition = prepared.composition
    task = composition.task(phase, rehearsal=True)
    composing = time.perf_counter() - begin
    settings = settings_of(prepared.config, phase)
    precision.apply(task)
    optimizer = create_optimizer(task.objective, settings)
    if settings.model_ema:
        task.setup_ema(settings.model_ema_decay, settings.model_ema_warmup)
    loader = prepared.batches("train", train=True)
    assert loader is not None
    epochs = sum(p.epochs or prepared.config.epochs for p in composition.phases)
    resident = _decoded(prepared, "train")
    sample = Sample(_few_decoded(prepared, loader) if resident else loader, prepared.device, share, len(loader) * epochs)
    train_epoch(
        task,
        sample,
        optimizer,
        epoch=0,
        epochs=phase.epochs or settings.epochs,
        settings=settings.model_copy(update={"log_interval": 10**9}),
        precision=precision,
        device=prepared.device,
        on_log=lambda record: None,
    )
    waiting = 0.0 if resident else loader.batch_size * reading
    first = waiting if prepared.config.workers else 0.0  # opened by one worker while the others open the next
    starting = max(sample.first - waiting, 0.0)
    save = _saving(state_of(composition.modules()), optimizer, folder)
    return (first + len(loader) * sample.step, composing + 2 * starting, save), sample.step, task


class Sample:
    """The first batches of a loader, again from the start where an epoch is short, until enough of them are timed.

    `step`: seconds from one batch to the next, waiting for data included, without the first, which is slower than all others. `first`: until the
    first batch was there.
    """

    def __init__(self, batches: Batches, device: torch.device, share: float, steps: int) -> None:
        self.batches, self.device = batches, device
        self.share, self.steps = share, steps
        self.marks: list[float] = []
        self.first = 0.0

    def __len__(self) -> int:
        return len(self.batches) + STEPS  # so that the loop never stands at an epoch's end, where it would wait for the loss

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, ...]]:
        begin, enough = time.perf_counter(), STEPS
        while True:
            for batch in self.batches.epoch(epoch):
                count = len(self.marks)
                if count <= 2 or count == enough:
                    wait(self.device)
                self.marks.append(time.perf_counter())
                self.first = self.first or self.marks[0] - begin
                if count == 2:
                    pace = max(self.step, 1e-6)
                    seconds = self.share * max(min(LIMIT, 0.05 * self.steps * pace), LEAST)
                    enough = min(max(int(seconds / pace), 1) + 1, STEPS)
                if count >= enough:
                    return
                yield batch
            epoch += 1

    @property
    def step(self) -> float:
        return (self.marks[-1] - self.marks[1]) / (len(self.marks) - 2)


def _decoded(prepared: Prepared, split: str) -> bool:
    """Whether the photos of a split are decoded once, and stay in memory."""
    chosen = getattr(prepared.data, split)
    on = prepared.augmentation if split == "train" else None
    return chosen.images is None and is_resident(chosen, prepared.preprocessing, on, prepared.config.resident_gb)


def _few_decoded(prepared: Prepared, loader: Batches) -> Batches:
    """Batches as training has them where its photos are in memory: a few photos over and over, since gathering any takes as long."""
    train = prepared.data.train
    chosen = _spread(len(train), _LOOKED_AT)
    again = torch.arange(min(4 * loader.batch_size, len(train))) % len(chosen)
    pictures = decoded(train.take(chosen), prepared.preprocessing, 0)[again]
    few = dataclasses.replace(prepared.data, train=Split(train.labels[chosen][again], images=pictures))
    batches = make_batches(few, "train", prepared.preprocessing, prepared.config, prepared.device, prepared.augmentation)
    assert batches is not None
    return batches


def _reading(prepared: Prepared) -> float:
    """Seconds to open one picture and transform it, in one process; 0 where the images are in memory from the start."""
    train = prepared.data.train
    if train.images is not None:
        return 0.0
    chosen = _spread(len(train), _LOOKED_AT)
    few = dataclasses.replace(prepared.data, train=train.take(chosen))
    alone = prepared.config.model_copy(update={"workers": 0, "batch_size": 2, "resident_gb": 0.0})
    batches = make_batches(few, "train", prepared.preprocessing, alone, torch.device("cpu"), prepared.augmentation)
    assert batches is not None
    begin, count, taken = time.perf_counter(), 0, 0.0
    for images, *_ in batches.epoch(0):
        count, taken = count + len(images), time.perf_counter() - begin
        if taken > 0.5:
            break
    return taken / count


def _evaluation(prepared: Prepared, precision: Precision, network: nn.Module, step: float) -> tuple[float, float, float]:
    """Seconds of one image in the network, of an epoch's numbers, and of a report."""
    data, config = prepared.data, prepared.config
    split = data.dev or data.test
    if split is None:
        return 0.0, 0.0, 0.0
    image = step / min(config.batch_size, len(data.train)) / 3  # forward is about a third of a step
    chosen = _spread(len(split), min(max(int(0.25 / max(image, 1e-9)), 4), 256 if split.images is not None else _LOOKED_AT))
    few = dataclasses.replace(data, dev=split.take(chosen))
    alone = config.model_copy(update={"workers": 0})
    batches = make_batches(few, "dev", prepared.preprocessing, alone, prepared.device)
    assert batches is not None
    ready = list(batches.epoch(0))

    def answers() -> Any:
        return collect(network, ready, num_classes=data.num_classes, autocast=precision.autocast(prepared.device))

    found = answers()  # the first is slower than all others, and so are the first metrics
    quick(found), report(found, data.class_names, dev=found)
    forward = _seconds(answers) / len(chosen)
    return forward, _seconds(lambda: quick(found)), _seconds(lambda: report(found, data.class_names, dev=found))


def _saving(state: dict[str, Tensor], optimizer: torch.optim.Optimizer, folder: Path | None) -> float:
    """Seconds to write a checkpoint; 0 where it cannot be tried."""
    while folder is not None and not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    try:
        with tempfile.TemporaryDirectory(prefix=".kd-", dir=folder) as place:
            begin = time.perf_counter()
            tensors = state | {f"optimizer.{name}": tensor for name, tensor in optimizer_tensors(optimizer)[0].items()}
            save_tensors(Path(place) / "checkpoint", tensors, {})
            return time.perf_counter() - begin
    except (OSError, FileError):
        return 0.0


def _seconds(work: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def _spread(count: int, wanted: int) -> Tensor:
    """Numbers of at most `wanted` samples from all over a split: neighbours are of one class and often of one size."""
    return torch.arange(0, count, -(-count // min(wanted, count)))


@contextmanager
def untouched(prepared: Prepared) -> Iterator[Callable[[], None]]:
    """Puts back every value of the networks and components, what is free, the modes, and the random states; what it yields puts the values back at once."""
    held: list[nn.Module] = [prepared.composition.modules()]
    if prepared.composition.given_teacher is not None:
        held.append(prepared.composition.given_teacher)
    places = [place for module in held for place in buffers_of(module)]
    parameters = [parameter for module in held for parameter in module.parameters() if not is_lazy(parameter)]
    tensors: dict[int, Tensor] = {id(tensor): tensor for tensor in [*parameters, *(buffer for *_, buffer in places)]}
    values = [(tensor, tensor.detach().clone(), tensor.requires_grad) for tensor in tensors.values()]
    modes = [(part, part.training) for module in held for part in module.modules()]
    states = random.getstate(), np.random.get_state()
    device = prepared.device

    @torch.no_grad()
    def put_back() -> None:
        for owner, name, buffer in places:
            owner._buffers[name] = buffer
        for tensor, value, _ in values:
            tensor.grad = None
            tensor.copy_(value)

    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield put_back
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
            put_back()
            for tensor, _, free in values:
                tensor.requires_grad_(free)
            for part, training in modes:
                part.training = training

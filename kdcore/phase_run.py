"""One phase of a run: from its start, or from its last checkpoint, to its result."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdcore.checkpoints import load_tensors, restore, save_tensors, state_of
from kdcore.data import Batches
from kdcore.evaluation import collect, quick
from kdcore.loading import student_tensors
from kdcore.loop import train_epoch
from kdcore.optimisation import create_optimizer, create_scheduler, settings_of
from kdcore.optimizer_state import optimizer_tensors, restore_optimizer
from kdcore.phases import Phase, PhaseResult
from kdcore.runs import Run
from kdcore.session import Session
from kdcore.stopping import out_of_patience, standing
from kdcore.tapped import copied


def run_phase(session: Session, phase: Phase, number: int) -> PhaseResult:
    """Trains the phase that is `number`th in the run, with a checkpoint at every epoch's end; an interrupted one goes on from its last."""
    state = PhaseState(session, phase, number)
    session.watch.phase(phase, number, state.epochs)
    if state.settings.compile:
        state.task.compile()
    for epoch in range(state.done, state.done if state.stop else state.epochs):
        begin = time.time()
        if state.scheduler is not None:
            state.scheduler.step(epoch)
        means = train_epoch(
            state.task,
            state.batches,
            state.optimizer,
            epoch=epoch,
            epochs=state.epochs,
            settings=state.settings,
            precision=session.precision,
            device=session.prepared.device,
            on_log=session.log,
        )
        if epoch == state.done and state.task.graphed is not None and (refused := state.task.graphed.refused):
            session.watch.note(f"--compile: without one graph of the whole step, since it could not be recorded: {refused}")
        metrics = state.evaluate()
        record = {
            "phase": phase.name,
            "phase_number": number,
            "epoch": epoch + 1,
            "epochs": state.epochs,
            "lr": state.optimizer.param_groups[0]["lr"],
            "train": means,
            "dev": metrics,
            **state.tested(),
            "minutes": round((time.time() - begin + state.decoding) / 60, 5),
        }
        state.decoding = 0.0
        state.update(epoch + 1, metrics)
        if why := state.why_stop(epoch + 1, time.time() - begin):
            record["stop"] = why
        session.run.append(record)  # before the checkpoint: resuming drops a line that runs ahead, but could not make up a missing one
        state.save(epoch + 1)
        session.epoch(record)
        if state.stop:
            session.watch.note(f"phase '{phase.name}' stops after epoch {epoch + 1} of {state.epochs}: {state.stop}")
            break
    return PhaseResult(phase, state.metrics, state.checkpoint, state.best, state.best_checkpoint)


class PhaseState:
    """What changes while a phase trains, and how it is written down and read back."""

    def __init__(self, session: Session, phase: Phase, number: int) -> None:
        prepared = session.prepared
        self.session, self.phase, self.run = session, phase, session.run
        self.settings = settings_of(session.config, phase)
        frozen = session.config.freeze and phase.model == "student"
        self.frozen = frozen or phase.up_to is not None or phase.trains == ("teacher_exits",)  # the deepest exit, or all before it
        self.epochs = phase.epochs or self.settings.epochs
        self.folder = self.run.checkpoint(f"{number:02d}-{phase.name}")
        self.done, self.metrics, self.checkpoint = 0, dict[str, float](), ""
        self.best, self.best_checkpoint, self.best_epoch = dict[str, float](), "", 0
        self.stop: str | None = None
        self.number, self.former = number, set[str]()
        last = newest(self.folder)
        if last is None:
            self._start()
        self.task = prepared.composition.task(phase, teacher=self._result_teacher())
        session.precision.apply(self.task)
        batches = prepared.batches("train", train=True)
        assert batches is not None
        self.batches, self.dev = batches, prepared.batches("dev")
        self.test = prepared.batches("test") if self.settings.test_every_epoch else None
        begin = time.time()
        for split in (self.batches, self.dev, self.test):
            if split is not None:
                split.ready()
        self.decoding = time.time() - begin  # seconds; --minutes plans further epochs by what one takes without them
        self.optimizer = create_optimizer(self.task.objective, self.settings)
        self.scheduler = create_scheduler(self.optimizer, self.settings, self.epochs)
        if self.settings.model_ema:
            self.task.setup_ema(self.settings.model_ema_decay, self.settings.model_ema_warmup)
        if last is not None:
            self._go_on(self.run.relative(last))
        self.run.truncate_metrics(lambda record: (record["phase_number"], record["epoch"]) <= (number, self.done))

    def _start(self) -> None:
        composition = self.session.prepared.composition
        if self.phase.start in ("stands", "pretrained", "fresh"):
            composition.start(self.phase)
        else:
            load_student_into(composition.student, self.run, self.phase.start)

    def _result_teacher(self) -> nn.Module | None:
        """The student of an earlier phase as this phase's teacher."""
        if self.phase.model != "student" or self.phase.teacher in (None, "auto", "given"):
            return None
        network = copied(self.session.prepared.composition.student)
        load_student_into(network, self.run, self.phase.teacher)
        return network

    def _go_on(self, last: str) -> None:
        tensors, about = load_tensors(self.run.absolute(last))
        restore_modules(self.session, tensors, last)
        self.done, self.metrics, self.checkpoint = about["epoch"], about["metrics"], last
        self.best, self.best_checkpoint = about["best"], about["best_checkpoint"]
        self.best_epoch, self.stop = about.get("best_epoch", self.done), about.get("stop")
        if self.settings.model_ema:
            restore(averaged(self.task), part(tensors, "ema."), who=last)
        restore_optimizer(self.optimizer, part(tensors, "optimizer."), about["optimizer"])

    def evaluate(self) -> dict[str, float]:
        """The quick numbers of the phase's network (its average, where one is kept) on dev; nothing without a dev split."""
        return self._numbers(self.dev) if self.dev is not None else {}

    def tested(self) -> dict[str, Any]:
        """The same on test, for the record alone: nothing is chosen by it. Nothing without --test-every-epoch."""
        return {"test": self._numbers(self.test)} if self.test is not None else {}

    def _numbers(self, batches: Batches) -> dict[str, float]:
        prepared, precision = self.session.prepared, self.session.precision
        network = self.task.network(self.settings.model_ema)
        classes = prepared.data.num_classes
        return quick(collect(network, batches.epoch(0), num_classes=classes, autocast=precision.autocast(prepared.device)))

    def update(self, epoch: int, metrics: dict[str, float]) -> None:
        """Takes an epoch's numbers in: it is the last now, and perhaps the best on dev."""
        self.former = {self.checkpoint, self.best_checkpoint}
        self.metrics, self.checkpoint = metrics, self.run.relative(self.folder / f"epoch-{epoch:04d}")
        if not metrics or not self.best or standing(metrics, self.frozen) > standing(self.best, self.frozen):
            self.best, self.best_checkpoint, self.best_epoch = metrics, self.checkpoint, epoch

    def why_stop(self, epoch: int, seconds: float) -> str | None:
        """Why the phase ends after this epoch, which took so many seconds, although it is not the last; kept in its checkpoint."""
        session = self.session
        if epoch < self.epochs:
            self.stop = out_of_patience(self.settings.patience, epoch, self.best_epoch, standing(self.best, self.frozen))
            if self.stop is None and session.budget is not None and session.expected is not None:
                self.stop = session.budget.over(seconds, session.expected.left(self.number, self.epochs))
        return self.stop

    def save(self, epoch: int) -> None:
        """Writes the checkpoint of the epoch that `update` took in, then forgets those that are neither the last nor the best on dev (`--keep-all` keeps every one)."""
        name = self.run.absolute(self.checkpoint)
        tensors = state_of(self.session.prepared.composition.modules())
        optimizer_state, optimizer_about = optimizer_tensors(self.optimizer)
        tensors |= {f"optimizer.{key}": tensor for key, tensor in optimizer_state.items()}
        if self.task.has_ema():
            tensors |= {f"ema.{key}": tensor for key, tensor in state_of(averaged(self.task)).items()}
        about = {
            "phase": self.phase.to_json(),
            "epoch": epoch,
            "metrics": self.metrics,
            "best": self.best,
            "best_checkpoint": self.best_checkpoint,
            "best_epoch": self.best_epoch,
            "stop": self.stop,
            "optimizer": optimizer_about,
        }
        save_tensors(name, tensors, about)
        if not self.settings.keep_all:
            for old in self.former - {self.checkpoint, self.best_checkpoint, ""}:
                forget(self.run, old)


def restore_modules(session: Session, tensors: Mapping[str, Tensor], who: str) -> None:
    """Puts a checkpoint's student, components and trained teacher back."""
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(("ema.", "optimizer."))}
    restore(session.prepared.composition.modules(), kept, who=who)


def averaged(task: Any) -> nn.ModuleDict:
    """The average of the network under the name that the network itself has in a checkpoint, and that of its components."""
    module = task.trainable_module_ema.module
    return nn.ModuleDict({task.phase.model: module.model, "parts": module.parts})


def part(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def newest(folder: Path) -> Path | None:
    """The last epoch of which both files are there."""
    found = sorted(path.with_suffix("") for path in folder.glob("epoch-*.json") if path.with_suffix(".safetensors").exists())
    return found[-1] if found else None


def has_checkpoint(run: Run) -> bool:
    """Whether some epoch of the run is done, so that it goes on without the weights that it started from."""
    return any(run.checkpoint("").glob("*/epoch-*.json"))


def epochs_done(run: Run) -> int:
    """Epochs of which a checkpoint tells, over all phases: a line of the metrics may run ahead."""
    last = [newest(folder) for folder in run.checkpoint("").glob("*") if folder.is_dir()]
    return sum(int(path.name.removeprefix("epoch-")) for path in last if path is not None)


def forget(run: Run, checkpoint: str) -> None:
    """Removes a checkpoint, its JSON first, so that none is ever half there."""
    path = run.absolute(checkpoint)
    path.with_suffix(".json").unlink(missing_ok=True)
    path.with_suffix(".safetensors").unlink(missing_ok=True)


def load_student_into(network: nn.Module, run: Run, checkpoint: str) -> None:
    tensors, _ = load_tensors(run.absolute(checkpoint))
    restore(network, part(student_tensors(tensors), "student."), who=checkpoint)

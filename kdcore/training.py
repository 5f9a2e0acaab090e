"""A whole run: phases from the schedule, epochs, checkpoints, and the results at the end. Killed anywhere, it resumes to the same numbers."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdcore import checks
from kdcore.backbones import macs, parameter_count
from kdcore.checkpoints import load_tensors, optimizer_tensors, read_json, restore, restore_optimizer, save_tensors, state_of, write_json
from kdcore.config import Config, read_config
from kdcore.data import Batches
from kdcore.delivery import deliver
from kdcore.errors import KdError
from kdcore.evaluation import collect, quick
from kdcore.events import Events
from kdcore.loading import load, student_tensors
from kdcore.loop import train_epoch
from kdcore.optimisation import create_optimizer, create_scheduler, learning_rate, settings_of
from kdcore.phases import Phase, PhaseResult
from kdcore.plugins import Plugins
from kdcore.precision import Precision, choose
from kdcore.preparing import Prepared, prepare
from kdcore.runs import Run
from kdcore.tapped import copied


class Watch:
    """What a run tells whoever looks on. Every method may be overridden; these say nothing."""

    def started(self, run: Run, prepared: Prepared) -> None: ...

    def note(self, text: str) -> None: ...

    def phase(self, phase: Phase, number: int, epochs: int) -> None: ...

    def log(self, record: Mapping[str, Any]) -> None: ...

    def epoch(self, record: Mapping[str, Any]) -> None: ...


@dataclass
class Trained:
    """A finished run: its folder, its results (as in `results.json`), and the delivered student in eval mode."""

    run: Run
    results: dict[str, Any]

    @property
    def student(self) -> nn.Module:
        return load(self.run.path)


@dataclass
class Session:
    """One run under way."""

    run: Run
    prepared: Prepared
    watch: Watch
    events: Events
    precision: Precision = field(default_factory=Precision)

    @property
    def config(self) -> Config:
        return self.prepared.config


def train(
    model: str | None = None,
    data: str | None = None,
    *,
    run: str | Path | None = None,
    resume: bool = False,
    watch: Watch | None = None,
    **settings: Any,
) -> Trained:
    """Trains a backbone by a method: `train("resnet18", data="digits", method="byot", epochs=10)`.

    settings: as in `Config`, which is what `kd train` takes as flags. run: the folder, by default runs/<model>-<method>-<n>. resume: go on
    in that folder from its last checkpoint, with its own settings. Raises KdError, DataError or FileError in one line.
    """
    given = {name: value for name, value in {"model": model, "data": data, **settings}.items() if value is not None}
    watch = watch or Watch()
    if resume:
        folder, config = _resumed(run, given)
    else:
        folder, config = None, read_config(given)
        if run is not None:
            Run.check_free(run)
    plugins = Plugins(config.plugin)
    prepared = prepare(config, plugins)
    precision = _settle(prepared)
    about = describe_model(prepared)
    folder = folder or Run.create(run, stem=f"{config.model}-{config.method}")
    events = Events(plugins, watch.note)
    session = Session(folder, prepared, watch, events, precision)
    begin = time.time()
    _write_down(session, about)
    watch.started(folder, prepared)
    for note in prepared.notes:
        watch.note(note)
    events.fire("run_start", run=folder)
    results = _phases(session)
    answer = deliver(session.run, prepared, results, session.precision)
    answer["minutes"] = round(sum(r.get("minutes", 0.0) for r in session.run.metrics()), 3)
    answer["seconds_this_time"] = round(time.time() - begin, 1)
    session.run.write_results(answer)
    events.fire("run_end", run=folder, results=answer)
    return Trained(folder, answer)


def _resumed(run: str | Path | None, given: dict[str, Any]) -> tuple[Run, Config]:
    if run is None:
        raise KdError("--resume needs the run's folder: add --run DIR")
    folder = Run.open(run)
    saved = folder.config()
    for name, value in given.items():
        if name in Config.model_fields and getattr(read_config(saved), name) != value:
            raise KdError(
                f"--resume goes on with the run's own settings, and its {name} is {saved.get(name)!r}, not {value!r}; leave it out"
            )
    return folder, read_config(saved)


def _settle(prepared: Prepared) -> Precision:
    """The precision, by a trial where the configuration leaves it open; whatever may fail has failed before a folder is made."""
    batches = prepared.batches("train", train=True)
    assert batches is not None
    config = prepared.config
    task = prepared.composition.task()
    task.train()
    precision = choose(task, next(batches.epoch(0)), config.amp, config.channels_last)
    precision.apply(prepared.composition.student)
    decisions = {"amp": precision.amp, "channels_last": precision.channels_last, "lr": learning_rate(config)}
    prepared.config = config.model_copy(update=decisions)
    return precision


def _write_down(session: Session, about: dict[str, Any]) -> None:
    """The resolved configuration, versions, and what a reader of the model needs: before the first step."""
    prepared, run = session.prepared, session.run
    run.write_config(prepared.config.model_dump(exclude_none=True))
    used = [prepared.plugins.loaded[name] for name in sorted(prepared.plugins.loaded)]
    run.write_environment([{"name": p.name, "distribution": p.distribution, "version": p.version} for p in used])
    write_json(run.path / "model.json", about)


def describe_model(prepared: Prepared) -> dict[str, Any]:
    """What `model.json` holds: architecture, classes, preprocessing, and what each exit costs."""
    composition = prepared.composition
    return {
        "model": prepared.config.model,
        "num_classes": prepared.data.num_classes,
        "class_names": prepared.data.class_names,
        "preprocessing": prepared.preprocessing.to_json(),
        "method": prepared.recipe.name,
        "parts": {place: prepared.recipe.labels[place] for place in prepared.recipe.labels},
        "exits": exit_costs(composition.student, composition.context),
    }


def exit_costs(student: nn.Module, context: Any) -> list[dict[str, Any]]:
    """Parameters and multiply-accumulates of each exit that has the data's classes, deployed alone."""
    device = next(student.parameters()).device
    images = torch.zeros(1, context.in_chans, *context.image_size, device=device)
    costs = []
    for number, shape in enumerate(context.student_shapes.logits, start=1):
        if shape == (context.num_classes,):
            alone = student.strip(number)
            costs.append({"exit": number, "parameters": parameter_count(alone), "macs": macs(alone, images)})
    return costs


# -- phases -----------------------------------------------------------------------------------------------------------------


def _phases(session: Session) -> list[PhaseResult]:
    """Walks the schedule. Results that are on disk are replayed; a phase that differs from the recorded one is an error."""
    recorded = _recorded(session.run)
    walk = session.prepared.composition.schedule()
    label = session.prepared.recipe.labels["schedule"]
    results: list[PhaseResult] = []
    phase = checks.check_phase(next(walk), label)
    while True:
        number = len(results) + 1
        if number <= len(recorded):
            if recorded[number - 1].phase.to_json() != phase.to_json():
                raise KdError(
                    f"{label} yields phase {number} as '{phase.name}' otherwise than this run recorded it: was the plugin changed?"
                )
            result = recorded[number - 1]
            if number == len(recorded):
                _load_modules(session, result.checkpoint)
        else:
            result = _run_phase(session, phase, number)
            _record(session.run, [*results, result])
        results.append(result)
        try:
            phase = checks.check_phase(walk.send(result), label)
        except StopIteration as stop:
            chosen = stop.value or result
            return [*[r for r in results if r is not chosen], chosen]


def _recorded(run: Run) -> list[PhaseResult]:
    path = run.path / "phases.json"
    if not path.exists():
        return []
    return [PhaseResult(phase_from_json(entry.pop("phase")), **entry) for entry in read_json(path)]


def phase_from_json(value: dict[str, Any]) -> Phase:
    terms = value["terms"]
    return Phase(**{**value, "trains": tuple(value["trains"]), "terms": tuple(terms) if isinstance(terms, list) else terms})


def _record(run: Run, results: list[PhaseResult]) -> None:
    write_json(run.path / "phases.json", [result.to_json() for result in results])


def _load_modules(session: Session, checkpoint: str) -> dict[str, Any]:
    tensors, about = load_tensors(session.run.absolute(checkpoint))
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(("ema.", "optimizer."))}
    restore(session.prepared.composition.modules(), kept, who=checkpoint)
    return {"tensors": tensors, "about": about}


def _run_phase(session: Session, phase: Phase, number: int) -> PhaseResult:
    """Trains one phase from its start, or from its last checkpoint."""
    prepared, run, device = session.prepared, session.run, session.prepared.device
    composition = prepared.composition
    settings = settings_of(session.config, phase)
    epochs = phase.epochs or settings.epochs
    folder = run.checkpoint(f"{number:02d}-{phase.name}")
    last = _newest(folder)
    if last is None:
        composition.start(phase)
        if phase.start not in ("stands", "pretrained", "fresh"):
            _load_student_into(composition.student, run, phase.start)
    task = composition.task(phase, teacher=_result_teacher(session, phase))
    session.precision.apply(task)
    batches = prepared.batches("train", train=True)
    dev = prepared.batches("dev")
    assert batches is not None
    optimizer = create_optimizer(task.objective, settings)
    scheduler = create_scheduler(optimizer, settings, epochs)
    if settings.model_ema:
        task.setup_ema(settings.model_ema_decay, settings.model_ema_warmup)
    done, best, best_checkpoint, metrics = 0, {}, "", {}
    if last is not None:
        loaded = _load_modules(session, run.relative(last))
        about = loaded["about"]
        done, best, best_checkpoint, metrics = about["epoch"], about["best"], about["best_checkpoint"], about["metrics"]
        restore_optimizer(optimizer, _part(loaded["tensors"], "optimizer."), about["optimizer"])
        if settings.model_ema:
            restore(_saved_ema(task), _part(loaded["tensors"], "ema."), who=str(last))
    run.truncate_metrics(lambda record: (record["phase_number"], record["epoch"]) <= (number, done))
    session.watch.phase(phase, number, epochs)
    if settings.compile:
        task.compile()
    checkpoint = run.relative(last) if last is not None else ""
    for epoch in range(done, epochs):
        begin = time.time()
        if scheduler is not None:
            scheduler.step(epoch, metrics.get("top1"))
        lr = optimizer.param_groups[0]["lr"]
        means = train_epoch(
            task,
            batches,
            optimizer,
            epoch=epoch,
            epochs=epochs,
            settings=settings,
            precision=session.precision,
            device=device,
            on_log=lambda record: (session.watch.log(record), session.events.fire("log", run=run, record=record)),
        )
        metrics = evaluate_network(task.network(settings.model_ema), dev, prepared, session.precision)
        better = not best or metrics.get("top1", epoch) > best.get("top1", epoch - 1)
        name = folder / f"epoch-{epoch + 1:04d}"
        previous, checkpoint = checkpoint, run.relative(name)
        if better:
            replaced, best, best_checkpoint = best_checkpoint, metrics or {"epoch": epoch}, checkpoint
        else:
            replaced = ""
        record = {
            "phase": phase.name,
            "phase_number": number,
            "epoch": epoch + 1,
            "epochs": epochs,
            "lr": lr,
            "train": means,
            "dev": metrics,
            "minutes": round((time.time() - begin) / 60, 5),
        }
        run.append(record)  # before the checkpoint: a resumed run drops lines that are ahead of it, and could not make up for a missing one
        _save(session, task, optimizer, name, phase, epoch + 1, metrics, best, best_checkpoint)
        for old in {previous, replaced} - {checkpoint, best_checkpoint, ""}:
            _forget(run, old)
        session.watch.epoch(record)
        session.events.fire("epoch_end", run=run, record=record)
    return PhaseResult(phase, metrics, checkpoint, best, best_checkpoint)


def evaluate_network(network: nn.Module, batches: Batches | None, prepared: Prepared, precision: Precision) -> dict[str, float]:
    """The quick numbers of a network on a split, or nothing where there is no such split."""
    if batches is None:
        return {}
    found = collect(network, batches.epoch(0), num_classes=prepared.data.num_classes, autocast=precision.autocast(prepared.device))
    return quick(found)


def _save(session: Session, task, optimizer, name: Path, phase: Phase, epoch: int, metrics, best, best_checkpoint: str) -> None:
    tensors = state_of(session.prepared.composition.modules())
    optimizer_state, optimizer_about = optimizer_tensors(optimizer)
    tensors |= {f"optimizer.{key}": tensor for key, tensor in optimizer_state.items()}
    if task.has_ema():
        tensors |= {f"ema.{key}": tensor for key, tensor in state_of(_saved_ema(task)).items()}
    about = {
        "phase": phase.to_json(),
        "epoch": epoch,
        "metrics": metrics,
        "best": best,
        "best_checkpoint": best_checkpoint,
        "optimizer": optimizer_about,
    }
    save_tensors(name, tensors, about)


def _saved_ema(task) -> nn.ModuleDict:
    """The average of the network under the name that the network itself has in a checkpoint, and its components."""
    which = task.phase.model
    averaged = task.trainable_module_ema.module
    return nn.ModuleDict({which: averaged.model, "parts": averaged.parts})


def _part(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _newest(folder: Path) -> Path | None:
    """The last epoch of which both files are there."""
    found = sorted(path.with_suffix("") for path in folder.glob("epoch-*.json") if path.with_suffix(".safetensors").exists())
    return found[-1] if found else None


def _forget(run: Run, checkpoint: str) -> None:
    path = run.absolute(checkpoint)
    path.with_suffix(".json").unlink(missing_ok=True)
    path.with_suffix(".safetensors").unlink(missing_ok=True)


def _result_teacher(session: Session, phase: Phase) -> nn.Module | None:
    """The student of an earlier phase as this phase's teacher."""
    if phase.model != "student" or phase.teacher in (None, "auto", "given"):
        return None
    network = copied(session.prepared.composition.student)
    _load_student_into(network, session.run, phase.teacher)
    return network


def _load_student_into(network: nn.Module, run: Run, checkpoint: str) -> None:
    tensors, _ = load_tensors(run.absolute(checkpoint))
    restore(network, _part(student_tensors(tensors), "student."), who=checkpoint)


def evaluate(run: str | Path, data: str | None = None, *, which: str = "delivered", device: str = "auto") -> dict[str, Any]:
    """Evaluates a finished run's student on its own data, or on another set with the same classes. See `kdcore.delivery.evaluate_run`."""
    from kdcore.delivery import evaluate_run

    return evaluate_run(run, data, which=which, device=device)

"""A whole run: phases from the schedule, epochs, checkpoints, and the results at the end. Killed anywhere, it resumes to the same numbers."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdcore.backbones import architecture_of, macs, parameter_count
from kdcore.checkpoints import load_tensors, save_tensors, state_of
from kdcore.config import Config, read_config
from kdcore.delivery import deliver
from kdcore.errors import KdError
from kdcore.estimate import Estimate, counted, estimate, within_minutes
from kdcore.events import Events
from kdcore.files import read_json, write_json
from kdcore.loading import load, read_about
from kdcore.named_recipes import with_recipe
from kdcore.notes import cost_notes
from kdcore.objective import backbone_within
from kdcore.phase_run import epochs_done, restore_modules, run_phase
from kdcore.phases import Phase, PhaseResult
from kdcore.plugins import Plugins
from kdcore.precision import Precision, by_rule, by_trial
from kdcore.preparing import Prepared, prepare
from kdcore.runs import Run
from kdcore.session import Session, Watch
from kdcore.stopping import Budget

INITIAL = "initial"
"""The checkpoint of a run's initial weights, kept where a later phase starts from them."""


@dataclass
class Trained:
    """A finished run: its folder, its results (as in `results.json`), and the delivered student in eval mode."""

    run: Run
    results: dict[str, Any]

    @property
    def student(self) -> nn.Module:
        return load(self.run.path)


def train(
    model: str | None = None,
    data: str | None = None,
    *,
    recipe: str | None = None,
    run: str | Path | None = None,
    resume: bool = False,
    watch: Watch | None = None,
    **settings: Any,
) -> Trained:
    """Trains a backbone by a method: `train("resnet18", data="digits", method="byot", epochs=10)`.

    settings: as in `Config`, which is what `kd train` takes as flags. recipe: settings by name, under those given. run: the folder, by
    default runs/<model>-<method>-<n>. resume: go on in that folder from its last checkpoint, with its own settings. Raises KdError, DataError
    or FileError in one line.
    """
    given = {name: value for name, value in {"model": model, "data": data, **settings}.items() if value is not None}
    watch = watch or Watch()
    if resume:
        if recipe is not None:
            raise KdError("--resume goes on with the run's own settings: leave out --recipe")
        folder, config = _resumed(run, given)
    else:
        folder, config = None, read_config(with_recipe(recipe, given))
        if run is not None:
            Run.check_free(run)
    if folder is not None and (former := folder.results()) is not None and (folder.path / "student.safetensors").exists():
        watch.note(f"{folder.path} is already finished; to train anew, choose another --run")
        watch.finished(folder, former)
        return Trained(folder, former)
    plugins = Plugins(config.plugin)
    begun = folder if folder is not None and has_checkpoint(folder) else None
    prepared = prepare(config, plugins, read_about(begun.path / "model.json") if begun else None)
    if begun is not None and prepared.composition.initial is not None:
        prepared.composition.initial, _ = load_tensors(begun.checkpoint(INITIAL))
    precision = settle(prepared)
    expected = estimate(prepared, precision, folder.path if folder else Path(run or "runs"))
    if config.minutes is not None:
        prepared, precision, expected = _fitted(config, prepared, precision, expected)
    about = describe_model(prepared)
    prepared.notes.extend(cost_notes(about["exits"]))
    folder = folder or Run.create(run, stem=f"{config.model}-{config.method}")
    events = Events(plugins, watch.note)
    budget = Budget(config.minutes) if config.minutes is not None else None
    session = Session(folder, prepared, watch, events, precision, expected, budget)
    begin = time.time()
    _write_down(session, about)
    watch.started(folder, prepared)
    watch.estimate(expected, epochs_done(folder))
    for note in prepared.notes:
        watch.note(note)
    events.fire("run_start", run=folder)
    results = _phases(session)
    finishing = time.time()
    answer = deliver(session.run, prepared, results, session.precision)
    records = session.run.metrics()
    if stopped := [{name: r[name] for name in ("phase", "epoch", "epochs", "stop")} for r in records if "stop" in r]:
        answer["stopped"] = stopped
    answer["minutes"] = round(sum(r.get("minutes", 0.0) for r in records) + (time.time() - finishing) / 60, 3)
    answer["estimated_minutes"] = round(expected.minutes, 3)
    answer["seconds_this_time"] = round(time.time() - begin, 1)
    session.run.write_results(answer)
    watch.finished(folder, answer)
    events.fire("run_end", run=folder, results=answer)
    return Trained(folder, answer)


def _fitted(config: Config, prepared: Prepared, precision: Precision, expected: Estimate) -> tuple[Prepared, Precision, Estimate]:
    """The run with as many epochs as fit into --minutes. They are written down as --epochs, so that repeating and resuming need no clock."""
    epochs, plugins = within_minutes(config, expected), prepared.plugins
    said = f"--minutes {config.minutes:g}: "
    notes = [note for note in prepared.notes if note.startswith("--amp try")]
    while epochs < prepared.config.epochs:
        if config.warmup_epochs >= epochs:
            raise KdError(f"{said}{counted(epochs, 'epoch')} would fit, and --warmup-epochs {config.warmup_epochs} leaves nothing of that")
        changes = {"epochs": epochs, "amp": precision.amp, "channels_last": precision.channels_last}
        prepared = prepare(config.model_copy(update=changes), plugins)  # anew: a schedule may have divided --epochs
        precision = settle(prepared)
        expected = expected.of(prepared.composition.phases, epochs)
        epochs = within_minutes(prepared.config, expected)
    epochs = prepared.config.epochs
    fits = f"all {config.epochs} epochs fit" if epochs == config.epochs else f"{epochs} of {config.epochs} epochs fit"
    if expected.seconds > 60 * (config.minutes or 0):
        fits = f"not even {counted(expected.epochs, 'epoch')} will fit, and that is the least"
    prepared.notes += [*notes, said + fits]
    prepared.config = prepared.config.model_copy(update={"minutes": None})
    return prepared, precision, expected


def _resumed(run: str | Path | None, given: dict[str, Any]) -> tuple[Run, Config]:
    if run is None:
        raise KdError("--resume needs the run's folder: add --run DIR")
    folder = Run.open(run)
    saved = folder.config()
    for name, value in given.items():
        if name == "plugin" and [Path(plugin).name for plugin in value] == [Path(plugin).name for plugin in saved.get("plugin", [])]:
            continue  # the run has its own copy of a loose file
        if getattr(read_config(saved), name, None) != getattr(read_config({**saved, name: value}), name):
            raise KdError(
                f"--resume goes on with the run's own settings, and its {name} is {saved.get(name)!r}, not {value!r}; leave it out"
            )
    return folder, read_config(saved)


def settle(prepared: Prepared) -> Precision:
    """The precision, by the rule or by a trial where the configuration leaves it open, and written into the configuration."""
    config, student = prepared.config, prepared.composition.student
    if config.amp == "try":
        batches = prepared.batches("train", train=True)
        assert batches is not None
        task = prepared.composition.task()
        task.train()
        precision, seconds = by_trial(task, next(batches.epoch(0)), config.channels_last)
        tried = ", ".join(f"{candidate} {1000 * taken:.0f} ms" for candidate, taken in seconds.items())
        prepared.notes.append(f"--amp try: {precision} (a step took: {tried})")
    else:
        precision = by_rule(student, prepared.preprocessing.image_size, prepared.device, config.amp, config.channels_last)
    precision.apply(student)
    prepared.config = config.model_copy(update={"amp": precision.amp, "channels_last": precision.channels_last})
    return precision


def _write_down(session: Session, about: dict[str, Any]) -> None:
    """The resolved configuration, versions, and what a reader of the model needs: before the first step."""
    prepared, run = session.prepared, session.run
    run.write_config(prepared.config.model_dump(exclude_none=True))
    used = [prepared.plugins.loaded[name] for name in sorted(prepared.plugins.loaded)]
    run.write_environment([{"name": p.name, "distribution": p.distribution, "version": p.version} for p in used])
    write_json(run.path / "model.json", about)
    if prepared.composition.initial is not None and not has_checkpoint(run):
        save_tensors(run.checkpoint(INITIAL), state_of(prepared.composition.student), {})


def describe_model(prepared: Prepared) -> dict[str, Any]:
    """What `model.json` holds: architecture, classes, preprocessing, and what each exit costs."""
    composition = prepared.composition
    architecture, options = architecture_of(prepared.config.model, backbone_within(composition.student)[0])
    return {
        "model": prepared.config.model,
        "architecture": architecture,
        "architecture_options": options,
        "weights": prepared.weights,
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
    results: list[PhaseResult] = []
    phase = walk.next()
    while phase is not None:
        number = len(results) + 1
        if number <= len(recorded):
            if recorded[number - 1].phase.to_json() != phase.to_json():
                raise KdError(
                    f"{walk.label} yields phase {number} as '{phase.name}' otherwise than this run recorded it: was the plugin changed?"
                )
            result = recorded[number - 1]
            if number == len(recorded):
                tensors, _ = load_tensors(session.run.absolute(result.checkpoint))
                restore_modules(session, tensors, result.checkpoint)
        else:
            result = run_phase(session, phase, number)
            _record(session.run, [*results, result])
        results.append(result)
        phase = walk.next(result)
    chosen = walk.chosen or results[-1]
    return [*[r for r in results if r is not chosen], chosen]


def has_checkpoint(run: Run) -> bool:
    """Whether some epoch of the run is done, so that it goes on without the weights that it started from."""
    return any(run.checkpoint("").glob("*/epoch-*.json"))


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


def evaluate(run: str | Path, data: str | None = None, *, which: str = "delivered", device: str = "auto") -> dict[str, Any]:
    """Evaluates a finished run's student on its own data, or on another set with the same classes. See `kdcore.delivery.evaluate_run`."""
    from kdcore.delivery import evaluate_run

    return evaluate_run(run, data, which=which, device=device)

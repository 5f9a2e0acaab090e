"""A whole run: phases from the schedule, epochs, checkpoints, and the results at the end. Killed anywhere, it resumes to the same numbers."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from kdcore.checkpoints import load_tensors, save_tensors, state_of
from kdcore.config import Config, read_config
from kdcore.delivery import deliver, evaluate_run
from kdcore.ending import marked_when_stopped
from kdcore.errors import KdError
from kdcore.events import Events
from kdcore.files import read_json, write_json
from kdcore.loading import load
from kdcore.named_recipes import with_recipe
from kdcore.notes import cost_notes
from kdcore.phase_run import epochs_done, has_checkpoint, restore_modules, run_phase
from kdcore.phases import Phase, PhaseResult
from kdcore.provenance import recorded
from kdcore.run_data import write_down_data
from kdcore.runs import Run
from kdcore.session import Session, Watch
from kdcore.starting import INITIAL, describe_model, make_ready
from kdcore.stopping import Budget


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
    timed: bool = True,
    **settings: Any,
) -> Trained:
    """Trains a backbone by a method: `train("resnet18", data="digits", method="byot", epochs=10)`.

    settings: as in `Config`, which is what `kd train` takes as flags. recipe: settings by name, under those given. run: the folder, by
    default runs/<model>-<method>-<n>. resume: go on in that folder from its last checkpoint, with its own settings. timed: whether to estimate
    first how long it takes (--minutes always does). Raises KdError, DataError or FileError in one line.
    """
    given = {name: value for name, value in {"model": model, "data": data, **settings}.items() if value is not None}
    watch = watch or Watch()
    if resume:
        folder, config = _resumed(run, recipe, given)
        if (former := folder.results()) is not None and (folder.path / "student.safetensors").exists():
            watch.note(f"{folder.path} is already finished; to train anew, choose another --run")
            watch.finished(folder, former)
            return Trained(folder, former)
        session = _begin(config, folder, None, watch, timed)
    else:
        if run is not None:
            Run.check_free(run)
        session = _begin(read_config(with_recipe(recipe, given, watch.note)), None, run, watch, timed)
    with marked_when_stopped(session.run):
        _announce(session)
        results = _finish(session, _phases(session))
    return Trained(session.run, results)


def _begin(config: Config, folder: Run | None, new: str | Path | None, watch: Watch, timed: bool) -> Session:
    """Prepares, makes the folder, and writes down what will run. folder: the run that goes on. new: where another one goes."""
    ready = make_ready(config, run=folder, place=Path(new or "runs"), timed=timed)
    prepared = ready.prepared
    about = describe_model(prepared)
    prepared.notes.extend(cost_notes(about["exits"]))
    folder = folder or Run.create(new, stem=f"{config.model}-{config.method}")
    events = Events(prepared.plugins, watch.note)
    budget = Budget(config.minutes) if config.minutes is not None else None
    session = Session(folder, prepared, watch, events, ready.precision, ready.expected, budget)
    with marked_when_stopped(folder):
        _write_down(session, about)
    return session


def _announce(session: Session) -> None:
    """Says what will run."""
    watch, prepared = session.watch, session.prepared
    watch.started(session.run, prepared)
    if session.expected is not None:
        watch.estimate(session.expected, epochs_done(session.run))
    for note in prepared.notes:
        watch.note(note)
    session.events.fire("run_start", run=session.run)


def _finish(session: Session, results: list[PhaseResult]) -> dict[str, Any]:
    """Delivers, and writes down what the run came to."""
    begin = time.time()
    answer = deliver(session.run, session.prepared, results, session.precision)
    records = session.run.metrics()
    if stopped := [{name: r[name] for name in ("phase", "epoch", "epochs", "stop")} for r in records if "stop" in r]:
        answer["stopped"] = stopped
    now = time.time()
    answer["minutes"] = round(sum(r.get("minutes", 0.0) for r in records) + (now - begin) / 60, 3)
    if session.expected is not None:
        answer["estimated_minutes"] = round(session.expected.minutes, 3)
    answer["seconds_this_time"] = round(now - session.begin, 1)
    session.run.write_results(answer)
    session.watch.finished(session.run, answer)
    session.events.fire("run_end", run=session.run, results=answer)
    return answer


def _resumed(run: str | Path | None, recipe: str | None, given: dict[str, Any]) -> tuple[Run, Config]:
    """A run that is there, and its settings. Raises KdError for settings that contradict them."""
    if recipe is not None:
        raise KdError("--resume goes on with the run's own settings: leave out --recipe")
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


def _write_down(session: Session, about: dict[str, Any]) -> None:
    """The resolved configuration, versions, and what a reader of the model needs: before the first step."""
    prepared, run = session.prepared, session.run
    run.write_config(prepared.config.model_dump(exclude_none=True))
    run.write_environment(recorded(prepared.plugins))
    write_json(run.path / "model.json", about)
    write_down_data(run, prepared.data, prepared.config)
    composition = prepared.composition
    if (composition.initial is not None or composition.first_components) and not has_checkpoint(run):
        save_tensors(run.checkpoint(INITIAL), state_of(composition.student) | composition.first_components, {})


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
    return evaluate_run(run, data, which=which, device=device)

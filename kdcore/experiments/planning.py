"""An experiment's file and what was typed become the rows and settings of a comparison, scaled where fewer epochs were asked for.

Imports no torch, but for data in place of the file's own.
"""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdcore.comparison.arms import Arm
from kdcore.comparison.grid import Row, check_shared, resolved
from kdcore.config import Config, laid_over
from kdcore.errors import KdError
from kdcore.experiments.reading import Experiment, TeacherOf, baseline_names
from kdcore.named_recipes import recipe_settings

TINY = {"epochs": 1, "batch_size": 16, "img_size": 32, "grad_accum_steps": 1}
"""The most that --smoke leaves of a setting."""

SCALED = ("decay_milestones", "decay_epochs", "warmup_epochs", "mixup_off_epoch")
USED_BY = {"multistep": "decay_milestones", "step": "decay_epochs"}


@dataclass
class Choices:
    """What was typed and makes the experiment another one than the file's. data: None is the file's own; rows: names, None is all."""

    smoke: bool = False
    data: str | None = None
    subset: float | None = None
    epochs: int | None = None
    baselines: bool = True
    rows: list[str] | None = None
    machine: dict[str, Any] = field(default_factory=dict)

    def of_cells(self, machine: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The settings of the machine (by default those chosen) as the cells take them: a smoke test's read its own few images, wherever data lies."""
        settings = self.machine if machine is None else machine
        return {name: value for name, value in settings.items() if not (self.smoke and name == "data_dir")}


@dataclass
class Facts:
    """What was found out when the experiment began: the data, and what follows from it.

    data: what the cells read. train, test: images (None: no such split), `held_out` of the first for dev. limit: of those that are trained on.
    single: models that take one exit only. weights: a file of random weights by model, in place of pretrained ones, or by `teacher NAME`.
    side: pixels of a smoke test's images, at most.
    """

    data: str
    classes: int
    image_size: int | None
    train: int
    test: int | None
    held_out: int = 0
    generated: bool = False
    limit: int | None = None
    single: list[str] = field(default_factory=list)
    weights: dict[str, str] = field(default_factory=dict)
    side: int = TINY["img_size"]


@dataclass
class Plan:
    """Rows and shared settings as a comparison's grid takes them. `said`: what scaling changed. A teacher's row is called `teacher NAME`."""

    shared: dict[str, Any]
    rows: list[Row]
    teachers: list[Row]
    said: list[str]


def own_settings(experiment: Experiment) -> dict[str, Any]:
    """The recipe's settings and the file's over them, as the paper has them; what every row says by itself is left out."""
    base = recipe_settings(experiment.recipe) if experiment.recipe else {}
    base = {name: value for name, value in base.items() if name not in ("model", "data", "method", "seed", "teacher")}
    found = laid_over(base, experiment.settings)
    check_shared(found)
    return found


def full_epochs(settings: Mapping[str, Any]) -> int:
    return int(settings.get("epochs", Config.model_fields["epochs"].default))


def make_plan(experiment: Experiment, choices: Choices, facts: Facts, place: Path) -> Plan:
    """Every row under what was chosen. place: the folder, whose `teachers` the rows are given. Raises KdError in one line for what does not fit."""
    base = own_settings(experiment)
    factor = 1.0 if choices.epochs is None else choices.epochs / full_epochs(base)
    if choices.smoke:
        factor = min(factor, 1 / full_epochs(base))
    said: list[str] = []

    def changed(settings: Mapping[str, Any], under: Mapping[str, Any], who: str) -> dict[str, Any]:
        found = dict(settings) if factor == 1.0 else scaled(settings, under, factor, who, said)
        return tiny(found, facts.side) if choices.smoke else found

    shared = {"test_every_epoch": True, **changed(base, {}, "")}
    if choices.smoke:
        shared |= {"pretrained": False, "workers": 0, "amp": "none"}
        shared.setdefault("epochs", 1)
        shared.setdefault("batch_size", TINY["batch_size"])
        shared.pop("patience", None)
    shared = of_other_data(shared, facts.data if choices.smoke else choices.data) | {"data": facts.data, **choices.of_cells()}
    if facts.limit is not None:
        shared |= {"train_limit": facts.limit}
        shared.pop("labels_per_class", None)
    shared = resolved(shared, "any", only=shared)

    def row(name: str, model: str, arm: Arm, extra: Mapping[str, Any], rows: list[Row]) -> Row:
        settings = changed({**laid_over(dict(extra), arm.settings), "options": arm.options}, shared, name)
        options = settings.pop("options")
        if choices.smoke and (init := facts.weights.get(name) or facts.weights.get(model)):
            settings |= {"pretrained": False, "init": init}
        if choices.smoke and name in facts.weights:
            settings |= {"lr": 1e-6, "warmup_epochs": 0}  # it knows what it is to teach
        check_shared(settings)
        settings = resolved({**shared, **settings}, model, only=settings)
        whole = resolved({}, model, only=["model"])["model"]
        return Row(name, folder_of(name, rows), whole, arm.method, dict(options), settings)

    rows: list[Row] = []
    teachers: list[Row] = []
    for one in experiment.runnable:
        if choices.rows is None or one.name in choices.rows:
            assert one.model is not None
            given = {"teacher": str(teacher_folder(place, one.teacher).resolve())} if one.teacher else {}
            rows.append(row(one.name, one.model, one.arm, given, rows))
    if choices.baselines:
        added: list[Row] = []
        for (model, method), name in baseline_names(experiment).items():
            wanted = choices.rows is None or model in {one.model for one in experiment.runnable if one.name in choices.rows}
            if wanted and not (method == "deep-supervision" and model in facts.single):
                added.append(row(name, model, Arm(method, method), {}, [*added, *rows]))
        rows = [*added, *rows]
    used = {one.teacher for one in experiment.runnable if one.name in {row.name for row in rows}}
    for name, teacher in experiment.teachers.items():
        if name in used:
            own = _own_recipe(teacher)
            arm = dataclasses.replace(teacher.arm, options={**own.pop("options", {}), **teacher.arm.options})
            teachers.append(dataclasses.replace(row(f"teacher {name}", teacher.model, arm, own, teachers), folder=name))
    return Plan(shared, rows, teachers, list(dict.fromkeys(said)))


def of_other_data(settings: Mapping[str, Any], data: str | None) -> dict[str, Any]:
    """The settings without those that say how the file's own data is read (its splits by name, its columns), where other data stands in its place."""
    if data is None:
        return dict(settings)
    from kdcore.data.sources import without_settings_of_another

    dropped = without_settings_of_another(data)
    return {name: value for name, value in settings.items() if name not in dropped}


def _own_recipe(teacher: TeacherOf) -> dict[str, Any]:
    settings = recipe_settings(teacher.recipe) if teacher.recipe else {}
    return {name: value for name, value in settings.items() if name not in ("model", "data", "method", "seed")}


def teacher_folder(place: Path, name: str) -> Path:
    return place / "teachers" / name


def folder_of(name: str, rows: list[Row]) -> str:
    """What a row's folders begin with: its name, as every system can write it, unlike any other row's."""
    stem = re.sub(r"[^A-Za-z0-9._=-]+", "-", name).strip("-.")[:60] or "row"
    taken, found, number = {row.folder.lower() for row in rows}, stem, 2
    while found.lower() in taken:
        found, number = f"{stem}-{number}", number + 1
    return found


def scaled(settings: Mapping[str, Any], under: Mapping[str, Any], factor: float, who: str, said: list[str]) -> dict[str, Any]:
    """The settings with epochs, and what counts in epochs, in proportion; at least 1. under: settings that these lie over; said: hears of it."""
    found = dict(settings)
    whole = {**under, **settings}
    defaults = {name: field.default for name, field in Config.model_fields.items()}
    if "epochs" in settings or not under:
        found["epochs"] = _part(settings.get("epochs", defaults["epochs"]), factor)
    sched = str(settings.get("sched", ""))
    if sched in USED_BY and USED_BY[sched] not in whole:
        found[USED_BY[sched]] = defaults[USED_BY[sched]]
    for name in (name for name in SCALED if name in found):
        before = found[name]
        if name == "decay_milestones":
            found[name] = sorted({_part(value, factor) for value in before})
        elif before:
            found[name] = _part(before, factor)
    length = full_epochs({**under, **found})
    if found.get("warmup_epochs", 0) >= length:
        found["warmup_epochs"] = length - 1
    if options := settings.get("options"):
        found["options"] = {name: _option(name, value, factor) for name, value in options.items()}
        said += [
            f"{who}{': ' if who else ''}-o {name} {options[name]} -> {value}"
            for name, value in found["options"].items()
            if value != options[name]
        ]
    said += [
        f"{who}{': ' if who else ''}{name} {_written(settings.get(name, defaults[name]))} -> {_written(found[name])}"
        for name in ("epochs", *SCALED)
        if name in found and found[name] != settings.get(name, defaults[name])
    ]
    return found


def _part(value: float, factor: float) -> int:
    return max(1, round(value * factor))


def _option(name: str, value: Any, factor: float) -> Any:
    """An option of a method, in proportion where its name says that it counts epochs."""
    if name.endswith("epochs") and isinstance(value, int) and value:
        return _part(value, factor)
    if name.endswith("milestones") and isinstance(value, list):
        return sorted({_part(one, factor) for one in value})
    return value


def _written(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else f"{value:g}"


def tiny(settings: Mapping[str, Any], side: int) -> dict[str, Any]:
    """No setting above what a smoke test allows. side: of its images."""
    most = TINY | {"img_size": side}
    return {name: min(value, most[name]) if name in most and value is not None else value for name, value in settings.items()}


def check_choices(choices: Choices) -> None:
    if choices.subset is not None and not 0 < choices.subset <= 1:
        raise KdError(f"--subset {choices.subset:g}: a share of the training images, above 0 and at most 1, e.g. 0.1")
    if choices.epochs is not None and choices.epochs < 1:
        raise KdError(f"--epochs {choices.epochs}: at least 1")


def differing_row(before: Row, after: Row) -> str | None:
    """What of a row is otherwise than it was, for a comparison that goes on; None where nothing is. Where a teacher lies does not count."""
    for name in ("model", "method", "options"):
        if getattr(before, name) != getattr(after, name):
            return f"{name} was {getattr(before, name)!r} and is {getattr(after, name)!r}"
    for name in {**before.settings, **after.settings}:
        old, new = before.settings.get(name), after.settings.get(name)
        if old != new and name not in ("teacher", "init"):
            return f"{name} was {old!r} and is {new!r}"
    return None


def to_json(value: Choices | Facts) -> dict[str, Any]:
    return dataclasses.asdict(value)

"""One experiment's file: the form of its TOML, checked strictly; an error is one line that names the file, its distribution and the key.

A file says what a paper's table consists of (rows, teachers, data, settings), its numbers, what the paper leaves open, and claims that can be
tested. Imports no torch.
"""

import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from kdcore.comparison.arms import BASELINES, Arm, parse_arm
from kdcore.config import read_config
from kdcore.errors import KdError, nearest
from kdcore.files import file_errors

DEEPEST, ENSEMBLE, DEVIATION = "deepest", "ensemble", "deviation"
NOT_SETTINGS = {
    "model": "every row names its model",
    "data": "it stands in [data]",
    "method": "every row names its method",
    "teacher": "a row names one of [teachers]",
    "seed": "seeds says how many",
    "minutes": "its cells would have as many epochs as the clock allows",
}


class Form(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class DataOf(Form):
    """The paper's data. name: what kd takes as --data by itself, where it can be downloaded. train, test: numbers of images."""

    get: str
    classes: int = Field(ge=2)
    image_size: int = Field(ge=1)
    name: str | None = None
    channels: Literal[1, 3] = 3
    train: int | None = Field(None, ge=1)
    test: int | None = Field(None, ge=1)
    ordered: bool = False


class Numbered(Form):
    """paper: percent by exit ("1" to "K", deepest, ensemble), and `deviation`, of the last of them."""

    paper: dict[str, float] = {}

    @field_validator("paper")
    @classmethod
    def _exits(cls, paper: dict[str, float]) -> dict[str, float]:
        for name in paper:
            _check_exit(name, DEVIATION)
        if DEVIATION in paper and len(paper) == 1:
            raise ValueError("a deviation needs a number that it is of")
        return paper

    @property
    def numbers(self) -> dict[str, float]:
        """The paper's, without the deviation."""
        return {name: value for name, value in self.paper.items() if name != DEVIATION}

    def deviation(self, exit: str) -> float | None:
        """Of the last number that the row has."""
        return self.paper.get(DEVIATION) if exit == list(self.numbers)[-1] else None


class TeacherOf(Numbered):
    """A network to train first. recipe: a named one, over the experiment's; method as a row's."""

    model: str
    method: str = "plain"
    recipe: str = ""

    @property
    def arm(self) -> Arm:
        return parse_arm(self.method)


class RowOf(Numbered):
    """A row of the table. needs: in place of model and method, what it lacks to be run here."""

    name: str = Field(min_length=1)
    model: str | None = None
    method: str | None = None
    teacher: str | None = None
    needs: str | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> "RowOf":
        if (self.needs is None) == (self.method is None):
            raise ValueError("a row has either a method or needs")
        if self.method is not None and self.model is None:
            raise ValueError("a row with a method has a model")
        return self

    @property
    def arm(self) -> Arm:
        assert self.method is not None
        return parse_arm(self.method)


class ClaimOf(Form):
    """A sentence of the paper. better: `row` above `than` at each of `exits`; increasing: along `exits` within `row`."""

    text: str
    kind: Literal["better", "increasing"]
    row: str
    exits: list[str] = [DEEPEST]
    than: str | None = None

    @model_validator(mode="after")
    def _fits(self) -> "ClaimOf":
        if (self.kind == "better") != (self.than is not None):
            raise ValueError("better needs `than`, and increasing has none")
        if self.kind == "increasing" and len(self.exits) < 2:
            raise ValueError("increasing needs two exits or more")
        for exit in self.exits:
            _check_exit(exit)
        return self


class CostOf(Form):
    """What one seed of the rows that can be run costs, as `kd reproduce NAME --dry-run` counts it: images that are trained on or tested (a third
    of training) in all epochs, and the multiply-adds of student and teacher on them, forward and backward."""

    images: float = Field(gt=0)
    macs: float = Field(gt=0)


class Experiment(Form):
    """A table of a paper. `checkpoint`: which of a run's numbers the paper's are; `ensemble`: which of its ensembles."""

    title: str
    paper: str
    url: str
    table: str
    checkpoint: Literal["last", "best", "over_epochs"]
    ensemble: Literal["mean_logits", "mean_probabilities", "fitted"] = "mean_logits"
    recipe: str | None = None
    seeds: int = Field(1, ge=1)
    open: list[str] = []
    data: DataOf
    cost: CostOf | None = None
    settings: dict[str, Any] = {}
    teachers: dict[str, TeacherOf] = {}
    rows: list[RowOf] = Field(min_length=1)
    claims: list[ClaimOf] = []

    @property
    def runnable(self) -> list[RowOf]:
        """The rows that this kdcore can run, where the plugins that they name are installed."""
        return [row for row in self.rows if row.needs is None]

    @property
    def models(self) -> list[str]:
        return list(dict.fromkeys(row.model for row in self.runnable if row.model))

    @property
    def authors(self) -> str:
        return self.paper.partition(",")[0]


def _check_exit(name: str, *more: str) -> None:
    if not (name.isdigit() and int(name) > 0) and name not in (DEEPEST, ENSEMBLE, *more):
        raise ValueError(f"'{name}' is no exit: write a number from 1 on, {DEEPEST} or {ENSEMBLE}")


def read_experiment(path: Path, about: str) -> Experiment:
    """The experiment in a file. about: its name and distribution, for errors. Raises KdError in one line, FileError where it cannot be read."""
    with file_errors(path, "read"):
        content = path.read_bytes()
    try:
        values = tomllib.loads(content.decode())
    except ValueError as error:
        raise KdError(f"experiment {about}: {path} is not TOML: {error}") from None
    try:
        found = Experiment(**values)
    except (ValidationError, TypeError) as error:
        raise KdError(f"experiment {about}: {path}: {_first(error)}") from None
    for where, check in _checks(found):
        try:
            check()
        except KdError as error:
            raise KdError(f"experiment {about}: {path}: {where}: {error}") from None
    return found


def _first(error: ValidationError | TypeError) -> str:
    """One problem: a key that is unknown, with the nearest, before what else is wrong; its place, and what is wrong."""
    if isinstance(error, TypeError):
        return str(error)
    first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
    key = ""
    for step in first["loc"]:
        key += f"[{step + 1}]" if isinstance(step, int) else f"{'.' if key else ''}{step}"
    if first["type"] == "extra_forbidden":
        form: Any = {"data": DataOf, "teachers": TeacherOf, "rows": RowOf, "claims": ClaimOf, "cost": CostOf}.get(
            str(first["loc"][0]), Experiment
        )
        return f"there is no key '{key}'{nearest(str(first['loc'][-1]), (form if len(first['loc']) > 1 else Experiment).model_fields)}"
    if first["type"] == "missing":
        return f"the key '{key}' is missing"
    given = "" if isinstance(first["input"], dict | list) else f" {first['input']!r}"
    return f"{key}{given}: {first['msg'].removeprefix('Value error, ').replace('Input should', 'it should')}"


def _checks(found: Experiment):
    """What no field says by itself, each with where it stands."""

    def settings() -> None:
        for name, why in NOT_SETTINGS.items():
            if name in found.settings:
                raise KdError(f"'{name}' is no setting of all rows: {why}")
        read_config({"model": "any", "data": "digits", **found.settings})

    yield "[settings]", settings
    for name, teacher in found.teachers.items():
        yield f"teachers.{name}", lambda teacher=teacher: teacher.arm
    names: set[str] = set()
    for number, row in enumerate(found.rows, start=1):
        yield f"rows[{number}]", lambda row=row: _check_row(row, found, names)
    for number, claim in enumerate(found.claims, start=1):
        yield f"claims[{number}]", lambda claim=claim: _check_claim(claim, found)


def _check_row(row: RowOf, found: Experiment, names: set[str]) -> None:
    if row.name in names:
        raise KdError(f"two rows are called '{row.name}'")
    names.add(row.name)
    if row.needs is None:
        _ = row.arm
    if row.teacher is not None and row.teacher not in found.teachers:
        raise KdError(f"there is no teacher '{row.teacher}' in [teachers]{nearest(row.teacher, found.teachers)}")


def _check_claim(claim: ClaimOf, found: Experiment) -> None:
    known = {row.name for row in found.rows} | set(baseline_names(found).values())
    for name in (claim.row, claim.than):
        if name is not None and name not in known:
            raise KdError(f"there is no row '{name}'{nearest(name, known)}")


def baseline_names(found: Experiment) -> dict[tuple[str, str], str]:
    """What the honest baselines are called, by (model, method), where the file has no row of that method on that model."""
    several = len(found.models) > 1
    there = {(row.model, row.arm.method) for row in found.runnable}
    missing = [(model, method) for model in found.models for method in BASELINES if (model, method) not in there]
    return {(model, method): f"{model} {method}" if several else method for model, method in missing}

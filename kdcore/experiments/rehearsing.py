"""`dry_run`: what a reproduction would run, every row composed, without its data. torch comes when called."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcore.comparison.arms import parse_seeds
from kdcore.experiments.beginning import about, held_out, limit_of, trained_models
from kdcore.experiments.finding import find_experiment
from kdcore.experiments.folders import chosen_rows
from kdcore.experiments.pace import TRAINING
from kdcore.experiments.planning import Choices, Facts, check_choices, make_plan, own_settings


@dataclass
class Planned:
    """What a reproduction would run: every row composed, without data. needs: what the other rows wait for; runs: without teachers.

    cost: as `CostOf`, of one seed of `rows` as they are planned here, without what is added; None where the images are unknown.
    """

    heading: str
    fits: list[Any]
    runs: int
    seeds: int
    images: int | str
    data: str
    said: list[str]
    open: list[str]
    needs: dict[str, str]
    cost: dict[str, float] | None

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def dry_run(
    name: str,
    *,
    seeds: int | str | Sequence[int] | None = None,
    smoke: bool = False,
    subset: float | None = None,
    epochs: int | None = None,
    baselines: bool = True,
    rows: str | Sequence[str] = (),
) -> Planned:
    """Composes every row of an experiment without its data and without weights. Raises KdError that names row, file and distribution."""
    found = find_experiment(name)
    experiment = found.read()
    choices = Choices(smoke, None, subset, epochs, baselines, chosen_rows(experiment, rows))
    check_choices(choices)
    own, data = own_settings(experiment), experiment.data
    from kdcore.experiments.composing import compose_all, single_exit_models, smoke_rows

    with about(found):
        if smoke:
            choices.rows = smoke_rows(experiment, choices.rows)
        facts = Facts(data.name or "digits", data.classes, data.image_size, data.train or 0, data.test)
        if data.train is not None:
            facts.held_out = held_out(data.train, own)
            facts.limit = limit_of(facts, choices, own)
        if baselines:
            facts.single = single_exit_models(experiment, trained_models(experiment, choices), own.get("img_size"))
        plan = make_plan(experiment, choices, facts, Path("runs"))
        fits = compose_all(experiment, plan, whole=choices.rows is None)
    count = len(parse_seeds(seeds)) if seeds is not None else 1 if smoke else experiment.seeds
    images = facts.limit or own.get("train_limit") or data.train or "unknown"
    needs = {row.name: row.needs for row in experiment.rows if row.needs}
    heading = f"{experiment.paper}, {experiment.table}: {experiment.title}"
    own_rows = {row.name for row in experiment.runnable}
    cost = None if isinstance(images, str) else _cost([one for one in fits if one.row in own_rows], images + (data.test or 0) / TRAINING)
    return Planned(heading, fits, len(plan.rows) * count, count, images, data.get, plan.said, experiment.open, needs, cost)


def _cost(fits: Sequence[Any], images: float) -> dict[str, float]:
    """images: of an epoch, of which the tested ones count for a third."""
    return {"images": images * sum(one.epochs for one in fits), "macs": images * float(sum(one.macs for one in fits))}

"""What a study came to: its trials as rows, the importance of each parameter, pictures, and the best settings as a file."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdcore.files import write_bytes, write_json, write_text
from kdcore.runs import Run
from kdcore.tuning.plan import Plan
from kdcore.tuning.study import Trials, quiet
from kdcore.tuning.trial import trial_folder

BEST = "best.toml"
LEAST = 8
"""Finished trials without which nothing is said of importance."""


@dataclass
class Tuned:
    """`trials`: a row each, by number: number, state (finished, pruned, diverged, failed, unfinished), value, values (by seed), settings, epoch (that was
    best on dev), epochs, minutes, why, run. `total`: how many were wanted. `importance`: by searched name, of sum 1; {} where there are too few trials."""

    folder: Path
    plan: Plan
    trials: list[dict[str, Any]]
    total: int = 0
    importance: dict[str, float] = field(default_factory=dict)
    pictures: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def ranked(self) -> list[dict[str, Any]]:
        """The finished ones, best first; of equals the earlier."""
        sign = 1 if self.plan.measure.minimised else -1
        return sorted((row for row in self.trials if row["state"] == "finished"), key=lambda row: (sign * row["value"], row["number"]))

    @property
    def best(self) -> dict[str, Any] | None:
        return self.ranked[0] if self.ranked else None

    def to_json(self) -> dict[str, Any]:
        best = self.best
        return {
            "dir": str(self.folder),
            "objective": str(self.plan.measure),
            "search": self.plan.search,
            "seeds": self.plan.seeds,
            "best": best,
            "best_settings": str(self.folder / BEST) if best else None,
            "importance": self.importance,
            "trials": self.trials,
        }


def rows_of(folder: Path, plan: Plan, trials: Trials) -> list[dict[str, Any]]:
    """Every trial as a row."""
    return [_row(folder, plan, trials, trial) for trial in trials.all()]


def _row(folder: Path, plan: Plan, trials: Trials, trial: Any) -> dict[str, Any]:
    states = {trials.states.COMPLETE: "finished", trials.states.PRUNED: "pruned", trials.states.FAIL: "failed"}
    facts = trial.user_attrs
    state = "diverged" if facts.get("diverged") else states.get(trial.state, "unfinished")
    return {
        "number": trial.number,
        "state": state,
        "value": trial.value if state == "finished" else None,
        "values": facts.get("values", []),
        "settings": {dimension.name: dimension.value(trial.params[dimension.name]) for dimension in plan.space},
        "epoch": facts.get("epoch"),
        "epochs": max(trial.intermediate_values, default=0),
        "minutes": facts.get("minutes"),
        "why": facts.get("why") or facts.get("reason"),
        "same_as": facts.get("same_as"),
        "run": trial_folder(folder, facts.get("same_as", trial.number)).relative_to(folder).as_posix(),
    }


def conclude(folder: Path, plan: Plan, trials: Trials, total: int, notes: Sequence[str] = ()) -> Tuned:
    """Reads the study, and writes best.toml, results.json and the pictures."""
    tuned = Tuned(folder, plan, rows_of(folder, plan, trials), total, notes=list(notes))
    if tuned.best is not None:
        write_text(folder / BEST, best_text(tuned))
        with quiet():
            tuned.importance = _importance(tuned, trials)
            tuned.pictures = _pictures(tuned, trials)
    write_json(folder / "results.json", tuned.to_json())
    return tuned


def best_text(tuned: Tuned) -> str:
    """The settings of the best trial, as `kd train --config` takes them: they repeat it, and evaluate the test split too."""
    import tomli_w

    best, plan = tuned.best, tuned.plan
    assert best is not None
    run = Run.open(first_run(tuned.folder, plan, best))
    values = {**run.config(), "test_every_epoch": plan.settings.get("test_every_epoch", False)}
    if values.get("plugin"):  # relative to this file, so that the whole folder may move
        place = tuned.folder.resolve()
        values["plugin"] = [_near(name, place) for name in values["plugin"]]
    found = ", ".join(f"{name} = {value}" for name, value in best["settings"].items())
    seeds = f" (mean of {plan.seeds} seeds; this is the first)" if plan.seeds > 1 else ""
    head = f"# kd tune: the best of {len(tuned.trials)} trials is {best['number']}, {plan.measure} {plan.measure.text(best['value'])}{seeds}\n# {found}\n"
    return head + tomli_w.dumps(values)


def _near(name: str, place: Path) -> str:
    return Path(os.path.relpath(name, place)).as_posix() if name.endswith(".py") else name


def first_run(folder: Path, plan: Plan, row: dict[str, Any]) -> Path:
    """The run of a trial's first seed."""
    path = folder / row["run"]
    return path / f"seed-{plan.settings.get('seed', 0)}" if plan.seeds > 1 else path


def _importance(tuned: Tuned, trials: Trials) -> dict[str, float]:
    """fANOVA's share of each parameter in the spread of the objective (Hutter, Hoos & Leyton-Brown, ICML 2014), greatest first."""
    values = {row["value"] for row in tuned.ranked}
    if len(tuned.ranked) < LEAST or len(tuned.plan.space) < 2 or len(values) < 2:
        return {}
    importance = trials.optuna.importance
    found = importance.get_param_importances(trials.study, evaluator=importance.FanovaImportanceEvaluator(seed=0))
    return {name: round(value, 4) for name, value in found.items()} if all(map(math.isfinite, found.values())) else {}


def _pictures(tuned: Tuned, trials: Trials) -> list[str]:
    """history.png, and importance.png where there is an importance. Names relative to the folder."""
    import io

    import matplotlib
    import matplotlib.pyplot as plt

    found = []
    with matplotlib.rc_context({"backend": "Agg"}):
        from optuna.visualization import matplotlib as draw

        wanted = {"history.png": lambda: draw.plot_optimization_history(trials.study, target_name=str(tuned.plan.measure))}
        if tuned.importance:
            evaluator = trials.optuna.importance.FanovaImportanceEvaluator(seed=0)
            wanted["importance.png"] = lambda: draw.plot_param_importances(trials.study, evaluator=evaluator)
        for name, plot in wanted.items():
            figure: Any = plot().figure
            content = io.BytesIO()
            figure.savefig(content, format="png", dpi=120, bbox_inches="tight")
            plt.close(figure)
            write_bytes(tuned.folder / name, content.getvalue())
            found.append(name)
    return found

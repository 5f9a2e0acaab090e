"""What a mistake costs where classes are grades: one grade off is not three grades off."""

import math
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from kdcore.errors import DataError, first_names
from kdcore.runs import Run
from kdcore_mango.triplets import grade_of_class


def grades(logits: Tensor, labels: Tensor, *, order: list[int] | None = None) -> dict[str, float]:
    """Of logits [N, K] and labels [N]: how far the answers are from the true grades.

    order: as for `mango.ordinal`; without it, the classes are in order. mean_error: mean |grade - true grade|, in grades. far_errors: share
    of answers two grades off or more, in percent. quadratic_kappa: Cohen's kappa with quadratic weights, 1 at best, 0 for chance; NaN (None in
    a report) where there is one grade alone.
    """
    from sklearn.metrics import cohen_kappa_score

    of_class = grade_of_class(order, logits.shape[-1], "mango.grades")
    answered, true = of_class[logits.argmax(dim=-1).cpu()], of_class[labels.cpu()]
    away = (answered - true).abs()
    one = bool((answered == true[0]).all() and (true == true[0]).all())  # scikit-learn would divide by zero
    return {
        "mean_error": round(away.float().mean().item(), 6),
        "far_errors": round(100 * (away >= 2).float().mean().item(), 6),
        "quadratic_kappa": math.nan if one else round(float(cohen_kappa_score(true.numpy(), answered.numpy(), weights="quadratic")), 6),
    }


def confusion(run: Run | str | Path, *, other: str | None = None, split: Literal["test", "dev"] = "test") -> dict[str, Any]:
    """The deepest exit's confusion, in percent of each true class, beside that of another run.

    other: the run beside it. {"title", "columns", "rows"}, one row for each true class: its recall (the diagonal) and its share of every answer, in this run and in the `other`. split: `test`, or
    `dev` where there is no test split. Raises DataError for a run that is not finished or has no such split, and for other classes.
    """
    names, mine = _shares(run, split)
    tables = [mine]
    if other is not None:
        others, theirs = _shares(other, split)
        if others != names:
            raise DataError(f"{other} has other classes ({first_names(others)}) than {run} ({first_names(names)})")
        tables.append(theirs)
    columns = ["true class"]
    for who in ("", " (other)")[: len(tables)]:
        columns += [f"recall{who}", *(f"as {name}{who}" for name in names)]
    rows = []
    for k, name in enumerate(names):
        rows.append([name, *(value for table in tables for value in (table[k][k], *table[k]))])
    return {"title": f"confusion of the deepest exit on {split}, in percent", "columns": columns, "rows": rows}


def _shares(run: Run | str | Path, split: str) -> tuple[list[str], list[list[float | None]]]:
    """Class names, and the confusion's rows in percent (None for a class without samples)."""
    folder = run if isinstance(run, Run) else Run.open(run)
    results = folder.results()
    if results is None:
        raise DataError(f"{folder.path} is not finished; continue it with kd train --run {folder.path} --resume")
    which = "best" if results["checkpoints"]["delivered"] == results["checkpoints"]["best"] else "last"
    if split not in results[which]:
        raise DataError(f"{folder.path} has no {split} split: add -o split={'dev' if split == 'test' else 'test'}")
    table = results[which][split]["exits"][-1]
    rows = [[round(100 * count / sum(row), 4) if sum(row) else None for count in row] for row in table["confusion"]]
    return list(table["recall"]), rows

"""Whether shallow exits gain more: each exit's gain over a baseline, with its interval, and the gain's rank correlation with depth."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, Literal

from matplotlib.figure import Figure

from kdcore import Analysis
from kdcore.comparison.entries import Entry
from kdcore.comparison.statistics import paired
from kdcore.errors import DataError, KdError, nearest
from kdcore.report.figures import COLOURS, INK
from kdcore.runs import Run
from kdcore_byot.studies.reading import Note, report_of, side_by_side

Accuracies = Mapping[int, Mapping[int, float]]
"""Top-1 by exit and seed."""


def shallow_gain(runs: list[Run], note: Note, *, baseline: str = "deep-supervision", split: Literal["dev", "test"] = "test") -> Analysis:
    """Do shallow exits gain more? Each exit's gain over deep supervision, paired by seed, with its 95 % interval and its rank correlation with depth.

    Name the runs of both. The rank correlation is Spearman's of gain and exit number, in each seed and of the mean gains: -1 where each exit
    gains more than the next. p is that of Page's trend test over the seeds (2 or more): how often as clear an order comes by chance alone.
    baseline: which of the experiments is compared with, by method. split: whose accuracy.
    """
    entries = side_by_side(runs, note)
    experiments = list(dict.fromkeys(entry.row for entry in entries))
    base = baseline_of(experiments, baseline)
    others = [name for name in experiments if name != base]
    if not others:
        raise KdError(f"all {len(entries)} runs are of '{base}': name those of another method beside them")
    check_same(entries)
    tops = {name: accuracies([entry for entry in entries if entry.row == name], split) for name in experiments}
    rows: list[dict[str, Any]] = []
    trends: list[dict[str, Any]] = []
    for name in others:
        gained = gains(name, tops[name], base, tops[base])
        rows += [{"experiment": name, **row} for row in gained]
        trends.append({"experiment": name, **trend(by_seed(tops[name], tops[base]), [row["gain"] for row in gained])})
    return Analysis({"shallow-gain": rows, "trend": trends}, {"shallow-gain": picture(rows, base)}, "\n".join(map(said, trends)))


def baseline_of(experiments: Sequence[str], wanted: str) -> str:
    """The experiment of this name, or the only one of this method. Raises KdError in one line."""
    found = [name for name in experiments if name == wanted] or [name for name in experiments if name.partition(":")[0] == wanted]
    if len(found) == 1:
        return found[0]
    if not found:
        raise KdError(
            f"none of the runs is of '{wanted}', to compare with{nearest(wanted, experiments)}: they are of {', '.join(experiments)}; "
            "name its runs too, or add -o baseline=METHOD"
        )
    raise KdError(f"'{wanted}' is {len(found)} experiments ({'; '.join(found)}): add -o baseline='{found[0]}'")


def check_same(entries: Sequence[Entry]) -> None:
    """Raises DataError for runs of different models or data: a seed pairs them only where all else is the same."""
    for name in ("model", "data"):
        values = {str(Run.open(entry.run).config().get(name)): entry.run for entry in entries}
        if len(values) > 1:
            (one, first), (other, second) = list(values.items())[:2]
            raise DataError(f"the runs have different {name}: {first} has {one} and {second} has {other}; they are not paired by seed then")


def accuracies(entries: Sequence[Entry], split: str) -> Accuracies:
    found: dict[int, dict[int, float]] = {}
    for entry in entries:
        for table in report_of(Run.open(entry.run), split)["exits"]:
            found.setdefault(table["exit"], {})[entry.seed] = table["top1"]
    return found


def gains(name: str, tops: Accuracies, base: str, against: Accuracies) -> list[dict[str, Any]]:
    """A row for each exit that both have. Raises DataError where they share no exit but the deepest, or no seed."""
    if len(shared := sorted(tops.keys() & against.keys())) < 2:
        raise DataError(f"'{name}' has exits {sorted(tops)} and '{base}' has {sorted(against)}: gains by depth need two that both have")
    rows = []
    for number in shared:
        difference = paired(tops[number], against[number])
        if difference is None:
            raise DataError(f"'{name}' has the seeds {sorted(tops[number])} and '{base}' {sorted(against[number])}: none in common")
        row = {"exit": number, "gain": difference.mean, "low": difference.low, "high": difference.high, "seeds": difference.n}
        seeds = tops[number].keys() & against[number].keys()
        rows.append({**row, "accuracy": fmean(tops[number][s] for s in seeds), "baseline": fmean(against[number][s] for s in seeds)})
    return rows


def by_seed(tops: Accuracies, against: Accuracies) -> list[list[float]]:
    """Gains [seeds][exits], of the seeds that every exit of both has."""
    numbers = sorted(tops.keys() & against.keys())
    seeds = sorted(set.intersection(*(set(table[number]) for table in (tops, against) for number in numbers)))
    return [[tops[number][seed] - against[number][seed] for number in numbers] for seed in seeds]


def trend(gained: Sequence[Sequence[float]], means: Sequence[float]) -> dict[str, Any]:
    """Rank correlation of gain with depth. gained: [seeds][exits], shallow to deep. None where all gains are equal, or where it is not defined.

    p: of Page's test that gains fall with depth; it needs two seeds and three exits.
    """
    from scipy.stats import page_trend_test

    single = [value for value in map(rank_correlation, gained) if value is not None]
    enough = len(gained) > 1 and len(means) > 2
    p = float(page_trend_test(gained, predicted_ranks=list(range(len(means), 0, -1))).pvalue) if enough else None
    return {
        "rank correlation": rank_correlation(means),
        "by seed, mean": fmean(single) if single else None,
        "seeds in which it falls": f"{sum(value < 0 for value in single)} of {len(gained)}",
        "p": p,
    }


def rank_correlation(values: Sequence[float]) -> float | None:
    """Spearman's, of the values with their places; None where all are equal."""
    from scipy.stats import spearmanr

    return float(spearmanr(range(len(values)), values).statistic) if len(set(values)) > 1 else None


def said(found: Mapping[str, Any]) -> str:
    rho, p = found["rank correlation"], found["p"]
    if rho is None:
        return f"{found['experiment']}: every exit gains the same."
    text = (
        f"{found['experiment']}: the gain's rank correlation with depth is {rho:.2f}, it falls in {found['seeds in which it falls']} seeds"
    )
    return text + (f" (Page's trend test, p = {p:.3f})." if p is not None else " (too few seeds or exits to test).")


def picture(rows: Sequence[dict[str, Any]], base: str) -> Figure:
    """Gain over the exit's number, a line for each experiment, with the intervals."""
    figure = Figure(figsize=(5.2, 3.4), layout="constrained")
    axes = figure.subplots()
    names = list(dict.fromkeys(row["experiment"] for row in rows))
    for place, name in enumerate(names):
        own = [row for row in rows if row["experiment"] == name]
        x = [row["exit"] + 0.06 * (place - (len(names) - 1) / 2) for row in own]
        around = [[row["gain"] - row[end] if row[end] is not None else 0.0 for row in own] for end in ("low", "high")]
        axes.errorbar(
            x, [row["gain"] for row in own], [around[0], [-value for value in around[1]]], marker="o", ms=4, lw=1.2, capsize=3,
            color=COLOURS[place % len(COLOURS)], label=name,
        )  # fmt: skip
    axes.axhline(0, color=INK, lw=0.8, ls=":")
    axes.set_xticks(sorted({row["exit"] for row in rows}))
    axes.set(xlabel="exit, shallow to deep", ylabel=f"points over {base}")
    axes.legend()
    return figure

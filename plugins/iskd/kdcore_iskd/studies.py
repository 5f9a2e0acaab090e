"""The paper's studies of runs: figure 2 (teachers and their students), figure 3 (alpha), table 2 (size and accuracy)."""

from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le, MinLen
from matplotlib.figure import Figure

from kdcore import Analysis
from kdcore.analysis import trained
from kdcore.errors import DataError
from kdcore.files import read_json
from kdcore.runs import Run

Split = Literal["dev", "test"]
Note = Callable[[str], None]
Share = Annotated[float, Ge(0), Le(1)]
ALPHAS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]


def teacher_student(
    run: Run,
    folder: Path,
    note: Note,
    *,
    epochs: Annotated[int, Ge(1)] | None = None,
    every: Annotated[int, Ge(1)] = 1,
    split: Split = "dev",
) -> Analysis:
    """Figure 2: do better teachers make better students? Every epoch of the first generation teaches a student of its own.

    The run needs --keep-all. Each student is trained as the run's next generation would be: same weights to begin with, same loss. epochs: of
    a student (default: the run's). every: take only every so many epochs as teachers. split: of the accuracies; `test` needs a run of
    --test-every-epoch. It trains as many networks as there are teachers.
    """
    teachers = checkpoints(run)[every - 1 :: every]
    if len(teachers) < 2:
        raise DataError(f"{run.path} has kept {len(teachers)} of its first phase's checkpoints to teach: train it with --keep-all")
    records = {(record["phase_number"], record["epoch"]): record for record in run.metrics()}
    last = max(epoch for number, epoch in records if number == 1)
    baseline = accuracy(run, records[1, last], split)
    rows = []
    for place in teachers:
        epoch = read_json(place)["about"]["epoch"]
        student = trained(folder / "students" / place.stem, note, **student_settings(run, place, epochs))
        rows.append({"epoch": epoch, "teacher": accuracy(run, records[1, epoch], split), "student": last_accuracy(student, split)})
    worse = sum(row["teacher"] < baseline < row["student"] for row in rows)
    fit = regression([row["teacher"] for row in rows], [row["student"] for row in rows])
    summary = {"students": len(rows), "baseline": baseline, "worse teacher, better student": worse, **(fit or {})}
    text = f"{worse} of {len(rows)} students are better than the baseline of {baseline:.2f} % although their teachers are worse."
    if fit is not None:
        text += f" student = {fit['slope']:.3f} teacher + {fit['intercept']:.2f}, R = {fit['R']:.3f} (the paper's R² is .5 and more)."
    return Analysis({"teacher-student": rows, "summary": [summary]}, {"teacher-student": scatter(rows, baseline, fit, split)}, text)


def alpha_sweep(
    runs: list[Run],
    folder: Path,
    note: Note,
    *,
    alphas: Annotated[list[Share], MinLen(1)] = ALPHAS,
    generation: Annotated[int, Ge(2)] = 2,
    epochs: Annotated[int, Ge(1)] | None = None,
    split: Split = "dev",
) -> Analysis:
    """Figure 3: how alpha changes a generation whose teacher stays the same, beside that teacher's own accuracy.

    Over seeds: several runs, each with a teacher of its own seed (a student of another seed could be held out images that its teacher learnt
    from). alphas: those that are tried. generation: the one that is trained with each; the run's generation before it is the teacher. epochs: of
    a student (default: the run's). split: whose accuracy. Choose alpha on dev, and carry it to other data by -o alpha=..., as the paper does.
    """
    rows, teachers = [], []
    for number, run in enumerate(runs, start=1):
        phases = read_json(run.path / "phases.json") if (run.path / "phases.json").exists() else []
        if len(phases) < generation - 1:
            raise DataError(f"{run.path} has {len(phases)} finished phases, and generation {generation} needs {generation - 1} before it")
        taught_by = run.absolute(phases[generation - 2]["checkpoint"])
        before = [record for record in run.metrics() if record["phase_number"] == generation - 1]
        teachers.append(accuracy(run, before[-1], split))
        for alpha in alphas:
            student = trained(
                folder / "students" / f"run{number}-alpha-{alpha:g}", note, **student_settings(run, taught_by, epochs, alpha=alpha)
            )
            rows.append(
                {"alpha": alpha, "seed": run.config().get("seed", 0), split: last_accuracy(student, split), "teacher": teachers[-1]}
            )
    baseline = fmean(teachers)
    means = [{"alpha": alpha, split: fmean(row[split] for row in rows if row["alpha"] == alpha), "teacher": baseline} for alpha in alphas]
    best = max(means, key=lambda row: row[split])
    text = (
        f"The best of {len(alphas)} is alpha = {best['alpha']:g}: {best[split]:.2f} % on {split}, the teacher {baseline:.2f} %. "
        f"To carry it to other data: -o alpha={best['alpha']:g}"
    )
    return Analysis({"alpha-sweep": rows, "means": means}, {"alpha-sweep": alpha_curve(rows, means, baseline, split)}, text)


def size_accuracy(runs: list[Run], *, split: Split = "test") -> Analysis:
    """Table 2: parameters against accuracy of several runs, first generation and delivered one.

    The deepest exit's. split: of the delivered accuracy; the first generation's is known where the run has --test-every-epoch, or on `dev`.
    """
    rows = []
    for run in runs:
        results = run.results()
        if results is None:
            raise DataError(f"{run.path} is not finished: go on with kd train --run {run.path} --resume")
        which = "best" if results["checkpoints"]["delivered"] == results["checkpoints"]["best"] else "last"
        report = results[which].get(split)
        if report is None:
            raise DataError(f"{run.path} has no {split} split: add -o split={'dev' if split == 'test' else 'test'}")
        first = [record for record in run.metrics() if record["phase_number"] == 1][-1].get(split) or {}
        cost = results["costs"][-1]
        rows.append(
            {
                "run": run.path.name,
                "model": results["model"],
                "method": results["method"],
                "seed": results["seed"],
                "parameters": cost["parameters"],
                "MACs": cost["macs"],
                "generations": len({record["phase_number"] for record in run.metrics()}),
                "first generation": first.get("top1"),
                split: report["exits"][-1]["top1"],
            }
        )
    rows.sort(key=lambda row: (row["parameters"], row["run"]))
    return Analysis({"size-accuracy": rows}, {"size-accuracy": sizes(rows, split)})


# -- students ---------------------------------------------------------------------------------------------------------------


def checkpoints(run: Run) -> list[Path]:
    """The checkpoints that are left of the run's first phase, in order, as the paths of their JSON."""
    return sorted(path for path in run.checkpoint("").glob("01-*/epoch-*.json") if path.with_suffix(".safetensors").exists())


def student_settings(run: Run, teacher: Path, epochs: int | None, **options: Any) -> dict[str, Any]:
    """The run's own settings for one student of this teacher. A run of another method gives its data and recipe to a student by `iskd`."""
    config = run.config()
    mine = config.get("method") == "iskd" or str(config.get("schedule", "")).startswith("iskd.")
    if not mine:
        config = {name: value for name, value in config.items() if name not in ("options", "loss", "exits", "soft_targets", "taps")}
        config["method"] = "iskd"
    kept = {name: value for name, value in config.get("options", {}).items() if not name.startswith("iskd.")}
    changes = {"options": kept | options, "schedule": "single", "teacher": str(teacher.with_suffix(".safetensors")), "keep_all": False}
    return {**config, **changes, "epochs": epochs or config.get("epochs", 30)}


def accuracy(run: Run, record: dict[str, Any], split: Split) -> float:
    """Top-1 of the deepest exit in percent after an epoch. Raises DataError where it was not measured."""
    if not record.get(split):
        advice = "train it with --test-every-epoch, or add -o split=dev" if split == "test" else "it has no dev split"
        raise DataError(f"{run.path} has no {split} accuracy by epoch: {advice}")
    return record[split]["top1"]


def last_accuracy(student: Run, split: Split) -> float:
    """Top-1 of a finished run's last epoch."""
    results = student.results() or {}
    return results["last"][split]["exits"][-1]["top1"]


def regression(teachers: list[float], students: list[float]) -> dict[str, float] | None:
    """Slope, intercept, R and p of students over teachers; None where all teachers are equal."""
    from scipy.stats import linregress

    if len(set(teachers)) < 2:
        return None
    found = linregress(teachers, students)
    return {"slope": found.slope, "intercept": found.intercept, "R": found.rvalue, "R²": found.rvalue**2, "p": found.pvalue}


# -- pictures ---------------------------------------------------------------------------------------------------------------


def scatter(rows: list[dict[str, Any]], baseline: float, fit: dict[str, float] | None, split: Split) -> Figure:
    """Students over teachers, the line of equals, the regression, and the first generation's accuracy both ways."""
    figure = Figure(figsize=(4.6, 4.2), layout="constrained")
    axes = figure.subplots()
    teachers, students = [row["teacher"] for row in rows], [row["student"] for row in rows]
    axes.scatter(teachers, students, s=14, zorder=3)
    ends = [min(teachers), max(teachers)]
    axes.plot(ends, ends, lw=1, ls=":", color="0.5", label="y = x")
    if fit is not None:
        axes.plot(ends, [fit["slope"] * x + fit["intercept"] for x in ends], lw=1.3, label=f"R = {fit['R']:.2f}")
    axes.axhline(baseline, lw=0.8, ls="--", color="0.5")
    axes.axvline(baseline, lw=0.8, ls="--", color="0.5", label="first generation")
    axes.set(xlabel=f"teacher, {split} top-1 (%)", ylabel=f"student, {split} top-1 (%)")
    axes.legend()
    return figure


def alpha_curve(rows: list[dict[str, Any]], means: list[dict[str, Any]], baseline: float, split: Split) -> Figure:
    figure = Figure(figsize=(4.8, 3.4), layout="constrained")
    axes = figure.subplots()
    if len(rows) > len(means):
        axes.scatter([row["alpha"] for row in rows], [row[split] for row in rows], s=10, alpha=0.5)
    axes.plot([row["alpha"] for row in means], [row[split] for row in means], marker="o", ms=4, label="student")
    axes.axhline(baseline, lw=1, ls="--", color="0.5", label="its teacher")
    axes.set(xlabel="alpha", ylabel=f"{split} top-1 (%)")
    axes.legend()
    return figure


def sizes(rows: list[dict[str, Any]], split: Split) -> Figure:
    figure = Figure(figsize=(5.2, 3.6), layout="constrained")
    axes = figure.subplots()
    for row in rows:
        millions = row["parameters"] / 1e6
        axes.scatter([millions], [row[split]], s=18, color="#3b7dd8", zorder=3)
        axes.annotate(f"{row['model']}, {row['method']}", (millions, row[split]), xytext=(4, 3), textcoords="offset points", fontsize=7)
    axes.set(xlabel="millions of parameters", ylabel=f"{split} top-1 (%)")
    axes.margins(x=0.15, y=0.12)
    return figure

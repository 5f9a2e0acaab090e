"""Training time against accuracy (figure 1): a student that is taught by a teacher waits for the teacher's training first."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from matplotlib.figure import Figure

from kdcore import Analysis
from kdcore.comparison.statistics import spread
from kdcore.files import read_json
from kdcore.report.figures import COLOURS
from kdcore.runs import Run
from kdcore.teachers import run_around
from kdcore_byot.studies.reading import Note, called, report_of, side_by_side


def cost(runs: list[Run], note: Note, *, split: Literal["dev", "test"] = "test") -> Analysis:
    """Figure 1: minutes of training, the teacher's and its own teacher's included, against accuracy, for runs beside each other.

    A teacher's minutes are those of the run that it is of, up to the checkpoint that was given. A teacher that is no run (timm's weights) has
    minutes that nobody knows: the row says so, and its total is of what is known. split: whose accuracy.
    """
    entries = side_by_side(runs, note)
    rows: list[dict[str, Any]] = []
    for entry in entries:
        run = Run.open(entry.run)
        report, own = report_of(run, split), minutes_of(run)
        teachers, known = lineage_minutes(run)
        ensembles = report["ensembles"]
        rows.append(
            {
                "run": called(entry, entries),
                "experiment": entry.row,
                "seed": entry.seed,
                "model": run.config()["model"],
                "teacher, minutes": teachers,
                "own, minutes": own,
                "minutes": own + (teachers or 0.0),
                "all known": known,
                split: report["exits"][-1]["top1"],
                f"{split}, ensemble": ensembles["mean_probabilities"]["top1"] if ensembles else None,
                "machine": machine_of(run),
            }
        )
    means = [
        averaged([row for row in rows if row["experiment"] == name], split) for name in dict.fromkeys(row["experiment"] for row in rows)
    ]
    text = "; ".join(
        f"{row['experiment']}: {row['minutes']:.2f} minutes"
        + (f", {row['teacher, minutes']:.2f} of them the teacher's" if row["teacher, minutes"] is not None else "")
        + f", {row[split]:.2f} % on {split}"
        for row in means
    )
    text += "."
    if len({row["machine"] for row in rows}) > 1:
        text += " The runs are of different machines: their minutes do not compare."
    if not all(row["all known"] for row in rows):
        text += " A teacher that is no run of kd's was trained for minutes that are not counted."
    return Analysis({"cost": rows, "means": means}, {"cost": bars(means, split)}, text)


def minutes_of(run: Run) -> float:
    """Of a run's training and its end, as it wrote them; of the epochs so far where it is not finished."""
    return (run.results() or {}).get("minutes", epoch_minutes(run))


def epoch_minutes(run: Run, phase: int | None = None, epoch: int | None = None) -> float:
    """Of the run's epochs, up to that one of the phase of that number where they are given."""
    until = (phase, epoch) if phase is not None and epoch is not None else (float("inf"), 0)
    return sum(record.get("minutes", 0.0) for record in run.metrics() if (record["phase_number"], record["epoch"]) <= until)


def lineage_minutes(run: Run, seen: tuple[Path, ...] = ()) -> tuple[float | None, bool]:
    """Minutes of the run's teacher and of that one's teachers, and whether all of them are known. None without a teacher, or with one unknown."""
    spec = run.config().get("teacher")
    if spec is None:
        return None, True
    teacher, own = teacher_minutes(str(spec))
    if teacher is None or teacher.path.resolve() in seen:
        return None, False
    above, known = lineage_minutes(teacher, (*seen, teacher.path.resolve()))
    return own + (above or 0.0), known


def teacher_minutes(spec: str) -> tuple[Run | None, float]:
    """The run that a teacher is of, and its minutes; None for what is no run, or is gone."""
    path = Path(spec)
    if path.is_dir() and (path / "config.toml").is_file():
        return Run(path), minutes_of(Run(path))
    if (around := run_around(path)) is not None:
        about = path.with_suffix(".json")
        number = int(path.parent.name.partition("-")[0])
        epoch = int(read_json(about)["about"]["epoch"]) if about.is_file() else None
        return around, epoch_minutes(around, number, epoch)
    if path.suffix == ".safetensors" and (path.parent / "config.toml").is_file():
        return Run(path.parent), minutes_of(Run(path.parent))
    return None, 0.0


def machine_of(run: Run) -> str | None:
    """The GPU, or the CPU where it trained on that; None where the run does not say."""
    path = run.path / "environment.json"
    if not path.exists():
        return None
    here = read_json(path)
    trained_on = str((run.results() or {}).get("device", "cpu"))
    return here.get("cpu") if trained_on == "cpu" else here.get("gpu") or trained_on


def averaged(rows: Sequence[dict[str, Any]], split: str) -> dict[str, Any]:
    """The mean over an experiment's seeds."""
    teachers = [row["teacher, minutes"] for row in rows if row["teacher, minutes"] is not None]
    accuracy = spread([row[split] for row in rows])
    assert accuracy is not None  # every experiment has a run
    return {
        "experiment": rows[0]["experiment"],
        "runs": len(rows),
        "teacher, minutes": fmean(teachers) if teachers else None,
        "own, minutes": fmean(row["own, minutes"] for row in rows),
        "minutes": fmean(row["minutes"] for row in rows),
        split: accuracy.mean,
        f"{split}, deviation": accuracy.deviation,
    }


def bars(means: Sequence[dict[str, Any]], split: str) -> Figure:
    """A bar for each experiment: the teacher's minutes, then its own; the accuracy at its end."""
    figure = Figure(figsize=(6.4, 0.5 * len(means) + 1.0), layout="constrained")
    axes = figure.subplots()
    places = list(range(len(means)))
    teachers = [row["teacher, minutes"] or 0.0 for row in means]
    own = [row["minutes"] - teacher for row, teacher in zip(means, teachers, strict=True)]
    if any(teachers):
        axes.barh(places, teachers, color=COLOURS[7], height=0.6, label="its teacher")
    axes.barh(places, own, left=teachers, color=COLOURS[0], height=0.6, label="its own")
    for place, row in zip(places, means, strict=True):
        axes.annotate(f" {row[split]:.2f} %", (row["minutes"], place), va="center", fontsize=8)
    axes.set_yticks(places, [row["experiment"] for row in means])
    axes.invert_yaxis()
    axes.margins(x=0.18)
    axes.set_xlim(left=0)
    axes.grid(visible=False, axis="y")
    axes.set_axisbelow(True)
    axes.set(xlabel=f"minutes of training; at the end of each bar: {split} top-1")
    if any(teachers):
        figure.legend(loc="outside upper right", ncols=2)
    return figure

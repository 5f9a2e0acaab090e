"""What a reproduction came to: the paper's numbers, those measured, their difference, and what deviates from the paper's recipe. Imports no torch."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcore.comparison.measures import CHECKPOINTS, Measure, read_measures
from kdcore.comparison.measures import DEEPEST as DEEPEST_EXIT
from kdcore.experiments.claims import Judged, find, judge
from kdcore.experiments.planning import Choices, Facts, Plan, full_epochs, own_settings, teacher_folder
from kdcore.experiments.reading import DEEPEST, DEVIATION, ENSEMBLE, Experiment, Numbered
from kdcore.files import write_json, write_text
from kdcore.runs import Run

if TYPE_CHECKING:
    from kdcore.comparison.aggregate import Comparison

COLUMNS = ("row", "exit", "paper", "paper_deviation", "measured", "deviation", "n", "difference", "note")


@dataclass(frozen=True)
class Line:
    """A number of the table, in percent. deviation: of the sample, None for one run; n: runs; note: why there is none, or what it is."""

    row: str
    exit: str
    paper: float | None = None
    paper_deviation: float | None = None
    measured: float | None = None
    deviation: float | None = None
    n: int = 0
    note: str = ""

    @property
    def difference(self) -> float | None:
        return None if self.paper is None or self.measured is None else round(self.measured - self.paper, 6)


@dataclass
class Outcome:
    """A whole reproduction: the same for the same cells, whatever was interrupted on the way."""

    name: str
    experiment: Experiment
    lines: list[Line]
    differs: list[str]
    claims: list[Judged] = field(default_factory=list)

    @property
    def heading(self) -> str:
        return f"{self.experiment.paper}, {self.experiment.table}: {self.experiment.title}"

    @property
    def numbers_are(self) -> str:
        return f"Test top-1 in percent: {CHECKPOINTS[self.experiment.checkpoint]}; mean ± sample deviation (runs)."

    def to_json(self) -> dict[str, Any]:
        about = {name: getattr(self.experiment, name) for name in ("title", "paper", "url", "table", "checkpoint", "open")}
        lines = [{**asdict(line), "difference": line.difference} for line in self.lines]
        return {"experiment": self.name, **about, "lines": lines, "differs": self.differs, "claims": [one.to_json() for one in self.claims]}


def outcome(
    name: str,
    experiment: Experiment,
    choices: Choices,
    facts: Facts,
    plan: Plan,
    seeds: Sequence[int],
    found: "Comparison | None",
    place: Path,
) -> Outcome:
    """found: the comparison's numbers. place: the reproduction's folder, for the teachers."""
    lines = [_teacher_line(teacher.folder, experiment, choices, place) for teacher in plan.teachers]
    added = [row.name for row in plan.rows if row.name not in {one.name for one in experiment.rows}]
    for row in added:
        lines += _lines(row, Numbered(), experiment, choices, found, note="added: not in the paper's table")
    for one in experiment.rows:
        note = f"needs {one.needs}" if one.needs else ""
        if not note and choices.rows is not None and one.name not in choices.rows:
            note = "not run by --smoke" if choices.smoke else "not asked for (--row)"
        lines += _lines(one.name, one, experiment, choices, found, note=note)
    differs = deviations(experiment, choices, facts, plan, seeds, found)
    return Outcome(name, experiment, lines, differs, [] if choices.smoke else judge(experiment, found))


def _lines(row: str, numbers: Numbered, experiment: Experiment, choices: Choices, found: "Comparison | None", note: str) -> list[Line]:
    """A row's numbers: of the exits that the paper's row has, and of those that were measured; the note stands at the first."""
    exits = [exit for exit in _all_exits(experiment) if exit in numbers.numbers or _measured(experiment, found, row, exit)] or [DEEPEST]
    lines: list[Line] = []
    for exit in exits:
        value = find(experiment, found, row, exit)
        spread = value.spread if value is not None and not choices.smoke else None
        said = "" if lines else note or ("no finished run" if value is None else "ran" if choices.smoke else "")
        line = Line(row, exit, note=said)
        if exit in numbers.numbers:
            line = replace(line, paper=numbers.numbers[exit], paper_deviation=numbers.deviation(exit))
        if spread is not None:
            line = replace(line, measured=spread.mean, deviation=spread.deviation, n=spread.n)
        lines.append(line)
    return lines


def _all_exits(experiment: Experiment) -> list[str]:
    """Every exit that some row of the paper's table has, shallow to deep, then the ensemble."""
    named = {exit for row in experiment.rows for exit in row.numbers}
    return [*sorted((exit for exit in named if exit.isdigit()), key=int), DEEPEST, *([ENSEMBLE] if ENSEMBLE in named else [])]


def _measured(experiment: Experiment, found: "Comparison | None", row: str, exit: str) -> bool:
    """Whether there is a number; that of the last exit stands as the deepest's."""
    if exit.isdigit() and found is not None and int(exit) >= max((len(one.exits) for one in found.rows if one.name == row), default=0):
        return False
    return find(experiment, found, row, exit) is not None


def _teacher_line(name: str, experiment: Experiment, choices: Choices, place: Path) -> Line:
    teacher, path = experiment.teachers[name], teacher_folder(place, name)
    results = Run(path).results() if path.is_dir() else None
    values = read_measures(results, path / "results.json") if results else {}
    checkpoints = dict.fromkeys((experiment.checkpoint, "last"))
    top1 = next((values[at] for which in checkpoints if (at := Measure(which, "test", DEEPEST_EXIT, "", "top1")) in values), None)
    note = "no finished run" if results is None else "ran" if choices.smoke else ""
    line = Line(f"teacher {name}", DEEPEST, teacher.numbers.get(DEEPEST), teacher.paper.get(DEVIATION), note=note)
    return line if choices.smoke or top1 is None else replace(line, measured=top1, n=1)


def deviations(
    experiment: Experiment, choices: Choices, facts: Facts, plan: Plan, seeds: Sequence[int], found: "Comparison | None"
) -> list[str]:
    """What differs from the paper's recipe, a line each; first what weighs most."""
    own = own_settings(experiment)
    data = experiment.data
    says = []
    if choices.smoke:
        says.append("--smoke: an epoch on a few small images, to see that everything runs; no accuracy is claimed")
    if facts.generated:
        says.append(f"the images are random: the paper's data is not here ({data.get})")
    elif choices.data is not None:
        says += _other_data(experiment, choices, facts)
    elif not choices.smoke:
        says += [f"data: {text}" for text in _unlike(experiment, facts)]
    if choices.subset is not None and facts.limit is not None and not choices.smoke:
        says.append(f"--subset {choices.subset:g}: {facts.limit} of {facts.train} training images")
    if facts.held_out and not choices.smoke:
        says.append(f"{facts.held_out} of {facts.train} training images are held out to select on (dev_fraction)")
    if choices.epochs is not None and choices.epochs != full_epochs(own):
        says.append(f"--epochs {choices.epochs} of {full_epochs(own)}, and in proportion: {'; '.join(plan.said)}")
    if choices.rows is not None and not choices.smoke:
        says.append(f"{len(choices.rows)} of {len(experiment.runnable)} rows (--row)")
    if len(seeds) != experiment.seeds:
        says.append(f"{len(seeds)} {'seed' if len(seeds) == 1 else 'seeds'} and not {experiment.seeds}")
    size = facts.image_size
    if not choices.smoke and not own.get("img_size") and size is not None and size != data.image_size:
        says.append(f"images of {size} pixels and not {data.image_size}")
    if experiment.checkpoint == "best" and found is not None and not facts.held_out and "best" not in found.checkpoints():
        says.append("no dev split: the last epoch's numbers stand where the paper has its best")
    if facts.test is None and not choices.smoke:
        says.append("the data has no test split: nothing can be set beside the paper")
    if facts.single and choices.baselines:
        says.append(f"no deep supervision on {', '.join(facts.single)}: such a network takes one exit only")
    if not choices.baselines:
        says.append("without the honest baselines (--no-baselines)")
    return says + [f"open in the paper: {text}" for text in experiment.open]


def _other_data(experiment: Experiment, choices: Choices, facts: Facts) -> list[str]:
    """Of --data: what tells it from the paper's, or that nothing does."""
    unlike = _unlike(experiment, facts)
    what = experiment.data.name or experiment.data.get
    return [f"--data {choices.data} in place of {what}: " + (", ".join(unlike) if unlike else "as many classes and images as the paper's")]


def _unlike(experiment: Experiment, facts: Facts) -> list[str]:
    data = experiment.data
    pairs = (("classes", facts.classes, data.classes), ("training images", facts.train, data.train), ("test images", facts.test, data.test))
    return [f"{has or 'no'} {what} and not {wanted}" for what, has, wanted in pairs if wanted is not None and has != wanted]


# -- files --------------------------------------------------------------------------------------------------------------------


def write_outcome(found: Outcome, place: Path) -> None:
    """`reproduction.md`, `.csv` and `.json`, each whole or not at all."""
    write_text(place / "reproduction.md", markdown(found))
    write_text(place / "reproduction.csv", csv_text(found))
    write_json(place / "reproduction.json", found.to_json())


def csv_text(found: Outcome) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for line in found.lines:
        values: Mapping[str, Any] = {**asdict(line), "difference": line.difference}
        writer.writerow([values[name] for name in COLUMNS])
    return file.getvalue()


HEADINGS = ("row", "exit", "paper", "measured", "difference", "")


def cells_of(line: Line) -> tuple[str, ...]:
    """A line as `HEADINGS` has it."""
    return (
        line.row,
        line.exit,
        with_deviation(line.paper, line.paper_deviation),
        with_deviation(line.measured, line.deviation) + (f" ({line.n})" if line.n else ""),
        "" if line.difference is None else f"{line.difference:+.2f}",
        line.note,
    )


def with_deviation(value: float | None, deviation: float | None) -> str:
    """`91.49 ± 0.01`, with as many decimals as the paper's numbers have, two at least."""
    if value is None:
        return "-"
    digits = max(2, *(len(f"{number:.6f}".rstrip("0").partition(".")[2]) for number in (value, deviation or 0.0)))
    digits = min(digits, 3)
    return f"{value:.{digits}f}" + ("" if deviation is None else f" ± {deviation:.{digits}f}")


def markdown(found: Outcome) -> str:
    """The table, what differs and the claims, ready for a README."""
    rows = [HEADINGS, *map(cells_of, found.lines)]
    table = ["| " + " | ".join(_marked(cell) for cell in row) + " |" for row in rows]
    table.insert(1, "|---|---|---:|---:|---:|---|")
    pieces = [
        f"**{_marked(found.heading)}** ([paper]({found.experiment.url}); `kd reproduce {found.name}`)",
        "\n".join(table),
        found.numbers_are,
    ]
    if found.differs:
        pieces.append("What differs from the paper's recipe:\n\n" + "\n".join(f"- {_marked(line)}" for line in found.differs))
    if found.claims:
        pieces.append(claims_table(found.claims))
    return "\n\n".join(pieces) + "\n"


def claims_table(claims: Sequence[Judged]) -> str:
    """Claims as Markdown, a row each."""
    rows = [
        ("claim", "statistic", "measured", "verdict"),
        *((one.text, one.statistic, one.measured or "-", verdict(one)) for one in claims),
    ]
    table = ["| " + " | ".join(_marked(cell) for cell in row) + " |" for row in rows]
    table.insert(1, "|---|---|---|---|")
    return "\n".join(table)


def verdict(one: Judged) -> str:
    return one.verdict + (f" ({one.remark})" if one.remark else "")


def _marked(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")

"""A paper's sentences, judged on finished runs: what was measured, and whether it held. Imports no torch."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from kdcore.comparison.measures import DEEPEST as DEEPEST_EXIT
from kdcore.comparison.statistics import Difference, paired
from kdcore.experiments.reading import DEEPEST, ENSEMBLE, ClaimOf, Experiment

if TYPE_CHECKING:
    from kdcore.comparison.aggregate import Comparison, Value

HELD, NOT_HELD, NOT_TESTABLE = "held", "not held", "not testable here"


@dataclass(frozen=True)
class Judged:
    """statistic: what is compared; measured: differences in points of top-1, each paired by seed; remark: what a reader must be told."""

    text: str
    statistic: str
    measured: str
    verdict: str
    remark: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def find(experiment: Experiment, found: "Comparison | None", row: str, exit: str) -> "Value | None":
    """A row's test top-1 at an exit as the file calls it, at the experiment's checkpoint; at the last epoch where no dev split chose a best."""
    if found is None:
        return None
    what, number = {DEEPEST: (DEEPEST_EXIT, ""), ENSEMBLE: ("ensemble", experiment.ensemble)}.get(exit, ("exit", exit))
    for checkpoint in (experiment.checkpoint, *(("last",) if experiment.checkpoint == "best" else ())):
        if (value := found.find(row, checkpoint, "test", what, number)) is not None:
            return value
    return None


def judge(experiment: Experiment, found: "Comparison | None") -> list[Judged]:
    """Every claim of the file. found: None where nothing was run, or nothing that counts."""
    return [_judged(claim, experiment, found) for claim in experiment.claims]


def _judged(claim: ClaimOf, experiment: Experiment, found: "Comparison | None") -> Judged:
    if claim.kind == "better":
        assert claim.than is not None
        statistic = f"{claim.row} - {claim.than} at {', '.join(claim.exits)}"
        pairs = [(exit, (claim.row, exit), (claim.than, exit)) for exit in claim.exits]
    else:
        statistic = f"{claim.row}: {' < '.join(claim.exits)}"
        steps = zip(claim.exits, claim.exits[1:], strict=False)
        pairs = [(f"{high} - {low}", (claim.row, high), (claim.row, low)) for low, high in steps]
    differences: dict[str, Difference] = {}
    for name, (row, exit), (base, other) in pairs:
        for place, where in ((row, exit), (base, other)):
            if find(experiment, found, place, where) is None:
                return Judged(claim.text, statistic, "", NOT_TESTABLE, _missing(experiment, found, place, where))
        above, below = find(experiment, found, row, exit), find(experiment, found, base, other)
        assert above is not None and below is not None
        difference = paired(above.seeds, below.seeds)
        if difference is None:
            return Judged(claim.text, statistic, "", NOT_TESTABLE, f"{row} and {base} have no seed in common")
        differences[name] = difference
    verdict = HELD if all(difference.mean > 0 for difference in differences.values()) else NOT_HELD
    return Judged(claim.text, statistic, "; ".join(_written(name, one) for name, one in differences.items()), verdict, _remark(differences))


def _missing(experiment: Experiment, found: "Comparison | None", row: str, exit: str) -> str:
    needs = next((one.needs for one in experiment.rows if one.name == row), None)
    if needs:
        return f"{row} needs {needs}"
    if found is None or all(one.name != row for one in found.rows):
        return f"no finished run of {row}"
    return f"{row} has no test accuracy of {'exit ' if exit.isdigit() else 'the '}{exit}{'' if exit.isdigit() or exit == ENSEMBLE else ' exit'}"


def _written(name: str, difference: Difference) -> str:
    interval = "" if difference.low is None else f" [{difference.low:.2f}, {difference.high:.2f}]"
    return f"{name} {difference.mean:+.2f}{interval}"


def _remark(differences: dict[str, Difference]) -> str:
    """How many seeds, and where the interval does not tell the difference from none."""
    seeds = min(difference.n for difference in differences.values())
    level = [name for name, one in differences.items() if one.low is not None and one.high is not None and one.low <= 0 <= one.high]
    return (
        f"n {seeds}"
        + (", which says nothing of the noise" if seeds == 1 else "")
        + (f"; within the noise at {_few(level)}" if level else "")
    )


def _few(names: Iterable[str]) -> str:
    return ", ".join(names)

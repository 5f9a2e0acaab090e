"""Finished runs to the numbers of a table: over the seeds of each row, and paired with the baseline's. Imports no torch."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdcore.comparison.entries import Entry
from kdcore.comparison.measures import CHECKPOINTS, CHOSEN, DEEPEST, Measure, chosen_exit, delivered, read_measures
from kdcore.comparison.settings import check_row, compared_settings, differing, finished, other_images
from kdcore.comparison.statistics import CONFIDENCE, Difference, Spread, paired, spread
from kdcore.errors import FileError, KdError
from kdcore.files import read_json
from kdcore.runs import Run


@dataclass(frozen=True)
class Member:
    """One run of a row, read."""

    path: Path
    settings: dict[str, Any]
    results: dict[str, Any]
    values: dict[Measure, float]
    chosen: dict[str, int]
    """The best exit on dev, by checkpoint."""
    epochs: int
    """Trained, over all phases."""


@dataclass(frozen=True)
class Value:
    """One number of one row: over its seeds, each seed's own, and against the baseline where that is said."""

    row: str
    measure: Measure
    spread: Spread
    seeds: dict[int, float]
    difference: Difference | None
    exits: str
    """The exit's number or the ensemble's name; of the best exit on dev all that were chosen, `3 4`."""


@dataclass
class Row:
    """name, its runs by seed, and parameters and multiply-accumulates of each exit."""

    name: str
    runs: dict[int, str]
    exits: list[dict[str, int]]
    baseline: str | None


@dataclass
class Comparison:
    """`costs`: minutes and hardware, which no file has that two comparisons of the same cells must agree in."""

    rows: list[Row]
    values: list[Value]
    baseline: str | None
    notes: list[str]
    costs: dict[str, Any] = field(default_factory=dict)

    def find(self, row: str, checkpoint: str, split: str, what: str, exit: str = "", metric: str = "top1") -> Value | None:
        measure = Measure(checkpoint, split, what, exit, metric)
        return next((value for value in self.values if value.row == row and value.measure == measure), None)

    def checkpoints(self) -> list[str]:
        """Those that some row has numbers of."""
        return [name for name in CHECKPOINTS if any(value.measure.checkpoint == name for value in self.values)]

    def delivered(self) -> str:
        return "best" if "best" in self.checkpoints() else "last"

    def seeds(self) -> list[int]:
        return sorted({seed for row in self.rows for seed in row.runs})

    def to_json(self) -> dict[str, Any]:
        """Everything but the costs, as `comparison.json` holds it."""
        return {
            "baseline": self.baseline,
            "confidence": CONFIDENCE,
            "checkpoints": {name: CHECKPOINTS[name] for name in self.checkpoints()},
            "rows": [
                {"row": row.name, "baseline": row.baseline, "seeds": list(row.runs), "runs": list(row.runs.values()), "exits": row.exits}
                for row in self.rows
            ],
            "values": [
                {
                    "row": value.row,
                    **dataclasses.asdict(value.measure),
                    "exit": value.exits,
                    **dataclasses.asdict(value.spread),
                    "seeds": {str(seed): number for seed, number in value.seeds.items()},
                    "difference": dataclasses.asdict(value.difference) if value.difference else None,
                }
                for value in self.values
            ],
            "notes": self.notes,
        }


def aggregate(entries: Sequence[Entry], *, baseline: str | None, folder: Path | None = None) -> Comparison:
    """Every number of every row. folder: runs within it are named relative to it.

    Raises KdError in one line for a row whose runs differ in more than their seed, FileError for a damaged run.
    """
    if not entries:
        raise KdError("there is no finished run to compare yet")
    members: dict[str, dict[int, Member]] = {}
    for row in dict.fromkeys(entry.row for entry in entries):
        own = sorted((entry for entry in entries if entry.row == row), key=lambda entry: entry.seed)
        read = [(entry, _read(entry)) for entry in own]
        check_row(row, [(member.path, {**member.settings, "seed": entry.seed}) for entry, member in read])
        members[row] = {entry.seed: member for entry, member in read}
    bases = {row: _baseline_of(row, baseline, members) for row in members}
    rows = [
        Row(row, {seed: _named(member.path, folder) for seed, member in own.items()}, _exits(own), bases[row])
        for row, own in members.items()
    ]
    values = [
        value for row in members for value in _values(row, members[row], members.get(bases[row] or "", {}) if bases[row] != row else {})
    ]
    found = Comparison(rows, values, baseline if any(bases.values()) else None, [], _costs(members))
    found.notes.extend(_notes(found, members, baseline))
    return found


def _read(entry: Entry) -> Member:
    run = Run.open(entry.run)
    results = finished(run)
    values = read_measures(results, run.path / "results.json")
    checkpoints = ("last", "best") if delivered(results) == "best" else ()
    chosen = {name: chosen_exit(results, name) for name in checkpoints}
    return Member(run.path, compared_settings(run), results, values, chosen, len(run.metrics()))


def _baseline_of(row: str, baseline: str | None, members: Mapping[str, Mapping[int, Member]]) -> str | None:
    """The row that a row is paired with, or None where it is not there: with several backbones that of its own, whose name ends with `baseline`."""
    if baseline is None:
        return None
    backbones = {name: next(iter(own.values())).settings["model"] for name, own in members.items()}
    own = [name for name, backbone in backbones.items() if backbone == backbones[row] and name.endswith(f" {baseline}")]
    fits = baseline in members and (backbones[baseline] == backbones[row] or " " in baseline)  # a whole name says which backbone is meant
    return next(iter(own), baseline if fits else None)


def _named(path: Path, folder: Path | None) -> str:
    if folder is not None and path.absolute().is_relative_to(folder.absolute()):
        return path.absolute().relative_to(folder.absolute()).as_posix()
    return path.as_posix()


def _exits(members: Mapping[int, Member]) -> list[dict[str, int]]:
    first = next(iter(members.values()))
    costs = first.results.get("costs")
    if costs is None:
        about = first.path / "model.json"
        costs = read_json(about)["exits"] if about.exists() else []
    try:
        return [{name: cost[name] for name in ("exit", "parameters", "macs")} for cost in costs]
    except (KeyError, TypeError) as error:
        raise FileError(f"{first.path / 'results.json'} is not what kd writes: its costs lack {error}") from error


def _values(row: str, members: Mapping[int, Member], base: Mapping[int, Member]) -> list[Value]:
    measures = dict.fromkeys(measure for member in members.values() for measure in member.values)
    order = {name: place for place, name in enumerate(CHECKPOINTS)}
    found = []
    for measure in sorted(measures, key=lambda measure: order[measure.checkpoint]):
        seeds = {seed: member.values[measure] for seed, member in members.items() if measure in member.values}
        over = spread(list(seeds.values()))
        assert over is not None
        difference = None
        if measure.split == "test" and measure.metric == "top1" and measure.what != "exit":
            deepest = dataclasses.replace(measure, what=DEEPEST, exit="")
            difference = paired(seeds, {seed: member.values[deepest] for seed, member in base.items() if deepest in member.values})
        exits = measure.exit
        if measure.what == CHOSEN:
            exits = " ".join(map(str, sorted({members[seed].chosen[measure.checkpoint] for seed in seeds})))
        found.append(Value(row, measure, over, seeds, difference, exits))
    return found


def _notes(found: Comparison, members: Mapping[str, Mapping[int, Member]], baseline: str | None) -> list[str]:
    """What a reader must be told: of missing seeds and pairs, and of what differs between rows beside the method."""
    bases = {row.name: row.baseline for row in found.rows}
    rows = list(members)
    reference = next((base for base in bases.values() if base), rows[0])
    notes = []
    if baseline is not None and found.baseline is None:
        notes.append(f"there is no row '{baseline}': no differences")
    if not any(value.measure.split == "test" for value in found.values):
        notes.append("no run has a test split, so there is no table of test accuracy; what dev said stands in comparison.json")
    for row, own in members.items():
        if missing := [str(seed) for seed in found.seeds() if seed not in own]:
            notes.append(f"{row} has no run of seed{'s' if len(missing) > 1 else ''} {', '.join(missing)}")
        base = bases[row]
        if base and not own.keys() & members[base].keys():
            notes.append(f"{row} and {base} have no seed in common: no difference")
    if without := [row for row, own in members.items() if any(delivered(member.results) == "last" for member in own.values())]:
        notes.append(f"no dev split: {', '.join(without)}; nothing but the last epoch is chosen without the test set there")
    notes += differing({row: [member.settings for member in own.values()] for row, own in members.items()}, reference)
    trained = {row: " and ".join(sorted({str(member.epochs) for member in own.values()}, key=int)) for row, own in members.items()}
    if len(set(trained.values())) > 1:
        notes.append("epochs trained in all phases: " + ", ".join(f"{row} {count}" for row, count in trained.items()))
    return notes + other_images({row: {seed: member.path for seed, member in own.items()} for row, own in members.items()}, reference)


def _costs(members: Mapping[str, Mapping[int, Member]]) -> dict[str, Any]:
    """Minutes of every run, and the machines and versions that they ran with."""
    machines: dict[str, None] = {}
    minutes: dict[str, dict[str, float]] = {}
    for row, own in members.items():
        minutes[row] = {str(seed): member.results["minutes"] for seed, member in own.items() if "minutes" in member.results}
        for member in own.values():
            path = member.path / "environment.json"
            here = read_json(path) if path.exists() else {}
            for one in [*here.get("earlier", []), here] if here else []:
                versions = [f"{name} {one['versions'][name]}" for name in ("torch", "timm", "kdcore") if one.get("versions", {}).get(name)]
                device = [str(one[name]) for name in ("gpu", "cpu") if one.get(name)]
                machines[", ".join([*device, *versions, *([f"Python {one['python']}"] if "python" in one else [])])] = None
    return {"minutes": minutes, "machines": list(machines)}

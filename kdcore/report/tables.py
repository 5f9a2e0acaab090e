"""The numbers of a report as one JSON document: every table and every curve, from the run's files. The pages and pictures show nothing else."""

from collections.abc import Mapping, Sequence
from typing import Any

from kdcore.comparing import best_exit, checkpoint_label, planned, plugin_numbers
from kdcore.lineage import lineage
from kdcore.report.analyses import analyses_numbers, analyses_tables
from kdcore.report.cells import table
from kdcore.report.details import details
from kdcore.report.facts import SPLITS, Facts
from kdcore.report.text import settings_tables

PAIRS = 15  # of confused classes
MOST_CLASSES = 25  # in the confusion matrix
ENSEMBLES = {"fitted": "ensemble, fitted on dev"}


def document(facts: Facts) -> dict[str, Any]:
    """All that a report says in numbers. Sections whose files are not there are missing."""
    found: dict[str, Any] = {"tables": {}, "curves": curves(facts.records), "planned": planned(facts.records, facts.config)}
    if facts.results is not None:
        results = facts.results
        found["exit"] = own_exit(facts)
        found["shown"] = facts.shown
        found["tables"] |= exits_tables(results, facts.about.get("exits", []))
        found["costs"] = costs(results, facts.about.get("exits", []))
        if facts.shown:
            report = results["best"][facts.shown]
            names = facts.about.get("class_names") or list(report["exits"][-1]["recall"])
            own = next(entry for entry in report["exits"] if entry["exit"] == found["exit"])
            found["tables"]["recall"] = recall_table(report, own, names, facts.shown)
            found["tables"]["confused"] = confused_table(own, names, facts.shown)
            found["confusion"] = confusion_of(own["confusion"], names)
        found["tables"]["data"] = data_table(results, facts.about.get("class_names", []))
    found["tables"] |= settings_tables(facts)
    if len(phases := lineage(facts.run)) > 1:
        found["tables"]["lineage"] = lineage_table(phases)
    if facts.analyses:
        found["analyses"] = analyses_numbers(facts.analyses)
        found["tables"] |= analyses_tables(facts.analyses)
    if facts.results is not None and facts.stored is not None and facts.shown:
        found |= details(facts.stored, facts.shown, found["exit"])
        for one, entry in zip(found["calibration"], facts.results["best"][facts.shown]["exits"], strict=True):
            one["ece"] = entry["ece"]
    return found


def own_exit(facts: Facts) -> int:
    """The exit that the details are of: the best on dev."""
    assert facts.results is not None
    exit = best_exit(facts.results)
    return facts.about["exits"][-1]["exit"] if exit == -1 and facts.about.get("exits") else exit


def lineage_table(phases: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Who taught whom, in a run of several phases."""
    columns = {
        "phase": "text",
        "generation": "int",
        "start": "text",
        "teacher": "text",
        "epochs": "text",
        "dev": "percent",
        "best": "percent",
    }
    titles = {"dev": "dev top-1", "best": "best"}
    rows = [[*(phase[name] for name in columns), "yes" if phase["delivered"] else ""] for phase in phases]
    return table("Phases", [*((titles.get(name, name), kind) for name, kind in columns.items()), ("delivered", "text")], rows)


def exits_tables(results: Mapping[str, Any], exits: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Exits and ensembles of the delivered checkpoint, and of the last epoch where that is another."""
    found = {"exits": _exits(results["best"], f"Delivered: {checkpoint_label(results, 'best')}", exits)}
    if results["best"]["epoch"] != results["last"]["epoch"]:
        found["exits-last"] = _exits(results["last"], f"For comparison: {checkpoint_label(results, 'last')}", exits)
    for split in [name for name in SPLITS if name in results["best"]][-1:]:
        numbers = [(name, plugin_numbers(entry)) for name, (entry,), _ in report_rows(results["best"], [split], {})]
        if titles := list(dict.fromkeys(title for _, own in numbers for title in own)):
            rows = [[name, *(own.get(title) for title in titles)] for name, own in numbers]
            found["metrics"] = table(f"Metrics of plugins, {split}", [("exit", "text"), *((title, "number") for title in titles)], rows)
    return {name: entry for name, entry in found.items() if entry["rows"]}


def _exits(reports: Mapping[str, Any], title: str, exits: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    splits = [name for name in SPLITS if name in reports]
    shown = splits[-1:]
    more = ["top5"] if shown and "top5" in reports[shown[0]]["exits"][0] else []
    columns = [("exit", "text"), *((f"{name} top-1", "percent") for name in splits)]
    for name in shown:
        columns += [*((f"{name} top-5", "percent") for _ in more), (f"{name} NLL", "nll"), (f"{name} ECE", "percent")]
    columns += [("parameters", "count"), ("MACs", "count")]
    known = {cost["exit"]: cost for cost in exits}
    rows = []
    for name, entries, cost in report_rows(reports, splits, known):
        last = entries[-1]
        rows.append([name, *(entry["top1"] for entry in entries), *(last.get(key) for key in (*more, "nll", "ece")), *cost])
    return table(title, columns, rows)


def report_rows(reports: Mapping[str, Any], splits: Sequence[str], known: Mapping[int, Any]) -> list[tuple[str, list[Any], list[Any]]]:
    """Name, one entry for each split, and [parameters, MACs]: of every exit, then of every ensemble."""
    if not splits:
        return []
    every = [reports[name] for name in splits]
    rows = []
    for place, entry in enumerate(every[0]["exits"]):
        cost = known.get(entry["exit"], {})
        rows.append((f"exit {entry['exit']}", [one["exits"][place] for one in every], [cost.get("parameters"), cost.get("macs")]))
    for name in every[0]["ensembles"]:
        title = ENSEMBLES.get(name, f"ensemble, {name.replace('_', ' ')}")
        rows.append((title, [one["ensembles"][name] for one in every], [None, None]))
    return rows


def costs(results: Mapping[str, Any], exits: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Top-1 and cost of each exit: what the picture of accuracy against cost shows."""
    known = {cost["exit"]: cost for cost in exits}
    found: dict[str, Any] = {}
    for split in SPLITS:
        if split in results["best"]:
            report = results["best"][split]
            found[split] = {
                "exits": [
                    {"exit": entry["exit"], "top1": entry["top1"], **{key: known[entry["exit"]][key] for key in ("parameters", "macs")}}
                    for entry in report["exits"]
                    if entry["exit"] in known
                ],
                "ensembles": {name: entry["top1"] for name, entry in report["ensembles"].items()},
            }
    return found


def recall_table(report: Mapping[str, Any], own: Mapping[str, Any], names: Sequence[str], split: str) -> dict[str, Any]:
    """Recall of each class at every exit; the worst of the best exit first, classes without images last."""
    order = sorted(range(len(names)), key=lambda k: (own["recall"][names[k]] is None, own["recall"][names[k]] or 0.0, k))
    rows = [[names[k], sum(own["confusion"][k]), *(entry["recall"][names[k]] for entry in report["exits"])] for k in order]
    columns = [("class", "text"), ("images", "int"), *((f"exit {entry['exit']}", "percent") for entry in report["exits"])]
    return table(f"Recall by class on {split}, in percent; the worst at exit {own['exit']} first", columns, rows)


def confused_table(own: Mapping[str, Any], names: Sequence[str], split: str) -> dict[str, Any]:
    """The pairs of classes that are mistaken most often."""
    pairs = [(count, k, j) for k, row in enumerate(own["confusion"]) for j, count in enumerate(row) if k != j and count]
    pairs.sort(key=lambda pair: (-pair[0], pair[1:]))
    rows = [[names[k], names[j], count, round(100 * count / sum(own["confusion"][k]), 6)] for count, k, j in pairs[:PAIRS]]
    columns = [("is", "text"), ("taken for", "text"), ("images", "int"), ("of the class, %", "percent")]
    return table(f"Most confused classes of exit {own['exit']} on {split}", columns, rows)


def confusion_of(matrix: Sequence[Sequence[int]], names: Sequence[str]) -> dict[str, Any]:
    """The counts between `classes`, and the `totals` of each true class. Of many classes only those of the most confused pairs."""
    chosen = _most_confused(matrix, MOST_CLASSES)
    return {
        "classes": [names[k] for k in chosen],
        "matrix": [[matrix[k][j] for j in chosen] for k in chosen],
        "totals": [sum(matrix[k]) for k in chosen],
    }


def _most_confused(matrix: Sequence[Sequence[int]], most: int) -> list[int]:
    """Class numbers, ascending: all where there are few, else those of the most confused pairs."""
    if len(matrix) <= most:
        return list(range(len(matrix)))
    pairs = sorted(((-row[j], k, j) for k, row in enumerate(matrix) for j in range(len(row)) if k != j))
    chosen: dict[int, None] = {}
    for _, k, j in pairs:
        for one in (k, j):
            if len(chosen) < most:
                chosen[one] = None
    return sorted(chosen)


def data_table(results: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Images of each split, in all and by class."""
    samples, counts = results["samples"], results.get("class_counts", {})
    rows: list[list[Any]] = [["all", *samples.values()]]
    if counts:
        rows += [[name, *(counts[split][k] for split in samples)] for k, name in enumerate(names)]
    return table("Images", [("class", "text"), *((split, "int") for split in samples)], rows)


def curves(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Dev top-1 by exit and training loss by term, one value for each epoch of the run (None where a phase has no such term)."""
    tops = dict.fromkeys(name for record in records for name in record["dev"] if name.endswith("/top1"))
    terms = dict.fromkeys(name for record in records for name in record["train"])
    return {
        "phases": [record["phase"] for record in records],
        "epochs": [record["epoch"] for record in records],
        "dev": {name.removesuffix("/top1"): [record["dev"].get(name) for record in records] for name in tops},
        "train": {name: [record["train"].get(name) for record in records] for name in terms},
        "minutes": [record.get("minutes") for record in records],
    }

"""Rebuilds every table of a run, and every table and sentence of its report, from the run's files, and says where they differ.

The predictions give the metrics, metrics.jsonl the curves and the chosen epoch; results.json and report.html must say the same.
"""

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from kdcore.errors import DataError, KdError
from kdcore.evaluation import quick, report
from kdcore.files import file_errors
from kdcore.report.cells import written
from kdcore.report.facts import Facts, as_kd_writes, read_facts
from kdcore.report.html import BLOCK, FIGURES, page
from kdcore.report.tables import document
from kdcore.report.write import NAME
from kdcore.stopping import standing

TOLERANCE = {"nll": 5e-6, "ece": 2e-4, "weights": 1e-5}
"""Of numbers that another machine may round otherwise. Counts, accuracies and recalls are the same everywhere."""

SAME = 1e-9
ON_A_DEVICE = 0.5  # percent, of an epoch's numbers measured on a GPU, which does not repeat itself to the bit


def check(run: str | Path, file: str | Path | None = None) -> list[str]:
    """One line for each difference, [] where all agree. file: the report, by default RUN/report.html if it is there.

    Raises DataError where there is nothing to rebuild from, FileError where a file is damaged or `file` is not there.
    """
    with as_kd_writes(run):
        return _check(read_facts(run), file)


def _check(facts: Facts, file: str | Path | None) -> list[str]:
    if facts.results is not None and facts.stored is None:
        raise DataError(f"{facts.run.path} has no predictions.safetensors (it was made before kd wrote them): its tables cannot be rebuilt")
    lines: list[str] = []
    if facts.results is not None:
        rebuilt = rebuild(facts)
        lines += differences("results.json", facts.results, rebuilt)
        lines += epochs(facts)
        facts = dataclasses.replace(facts, results=merged(facts.results, rebuilt))
    path = Path(file or facts.run.path)
    path = path / NAME if path.is_dir() else path
    if file is not None or path.exists():
        with file_errors(path, "read"):
            text = path.read_bytes().decode("utf-8", errors="replace")
        lines += page_differences(path.name, text, facts)
    return lines


def rebuild(facts: Facts) -> dict[str, Any]:
    """The parts of results.json that the other files tell."""
    assert facts.results is not None and facts.stored is not None
    stored, names = facts.stored, facts.stored.class_names
    metrics = _metrics(facts)
    tables = {
        which: {split: report(one, names, dev=found.get("dev"), metrics=metrics) for split, one in found.items()}
        for which, found in (("best", stored.delivered), ("last", stored.last))
    }
    counts = {split: one.labels.bincount(minlength=len(names)).tolist() for split, one in stored.delivered.items()}
    rebuilt: dict[str, Any] = {
        **tables,
        "samples": {split: len(one.labels) for split, one in stored.delivered.items()},
        "class_counts": counts,
        "costs": facts.about["exits"],
        "predictions": stored.digests,
    }
    own = phase_records(facts)
    if own:
        frozen = bool(facts.config.get("freeze"))
        chosen = max(own, key=lambda record: standing(record["dev"], frozen)) if own[-1]["dev"] else own[-1]
        rebuilt["best"] = {**rebuilt["best"], "epoch": chosen["epoch"]}
        rebuilt["last"] = {**rebuilt["last"], "epoch": own[-1]["epoch"]}
    return {name: value for name, value in rebuilt.items() if name in facts.results}


def _metrics(facts: Facts) -> dict[str, Any]:
    """The metrics of the run's plugins that results.json holds. One whose plugin is not here is an error of one line."""
    from kdcore.config import read_config
    from kdcore.delivery import run_metrics

    return run_metrics(read_config(facts.config))


def phase_records(facts: Facts) -> list[dict[str, Any]]:
    """The epochs of the delivered phase: `checkpoints/01-main/epoch-0012` is of phase 1."""
    assert facts.results is not None
    number = int(Path(facts.results["checkpoints"]["last"]).parent.name.partition("-")[0])
    return [record for record in facts.records if record["phase_number"] == number]


def epochs(facts: Facts) -> Iterator[str]:
    """metrics.jsonl against the predictions: the dev numbers of the chosen epoch and of the last one; and the time."""
    assert facts.results is not None and facts.stored is not None
    spent = sum(record.get("minutes", 0.0) for record in facts.records)
    if facts.results.get("minutes", spent) < spent - 0.001:
        yield f"results.json: minutes is {facts.results['minutes']}, and should be at least the {spent:.3f} of the epochs in metrics.jsonl"
    loose = ON_A_DEVICE if facts.results.get("device", "cpu") != "cpu" else None
    for which, found in (("best", facts.stored.delivered), ("last", facts.stored.last)):
        if "dev" not in found:
            continue
        for record in (one for one in phase_records(facts) if one["epoch"] == facts.results[which]["epoch"]):
            said = {name: value for name, value in record["dev"].items() if name in (wanted := quick(found["dev"]))}
            yield from differences(f"metrics.jsonl, epoch {record['epoch']}", said, wanted, loose=loose)


def merged(results: Mapping[str, Any], rebuilt: Mapping[str, Any]) -> dict[str, Any]:
    """results with what was rebuilt in its place."""
    found = dict(results)
    for name, value in rebuilt.items():
        both = isinstance(value, Mapping) and isinstance(found.get(name), Mapping)
        found[name] = merged(found[name], value) if both else value
    return found


def differences(where: str, said: Any, wanted: Any, path: str = "", *, loose: float | None = None) -> Iterator[str]:
    """A line for each cell of `wanted` (JSON values) that `said` has otherwise or not at all. More in `said` is no difference."""
    if said == wanted:
        return  # at once, for the confusion of many classes
    if isinstance(wanted, Mapping):
        for name, value in wanted.items():
            inner = f"{path}.{name}" if path else str(name)
            if not isinstance(said, Mapping) or name not in said:
                yield f"{where}: {inner} is missing, and should be {_brief(value)}"
            else:
                yield from differences(where, said[name], value, inner, loose=loose)
    elif isinstance(wanted, list):
        if not isinstance(said, list) or len(said) != len(wanted):
            yield f"{where}: {path} has {len(said) if isinstance(said, list) else 'no'} entries, and should have {len(wanted)}"
        else:
            for k, (one, other) in enumerate(zip(said, wanted, strict=True)):
                yield from differences(where, one, other, f"{path}[{k}]", loose=loose)
    elif not _equal(said, wanted, path, loose):
        yield f"{where}: {path} is {_brief(said)}, and should be {_brief(wanted)}"


def _equal(said: Any, wanted: Any, path: str, loose: float | None) -> bool:
    numbers = [isinstance(one, int | float) and not isinstance(one, bool) for one in (said, wanted)]
    if not all(numbers):
        return type(said) is type(wanted) and said == wanted
    words = path.replace("[", ".").replace("/", ".").split(".")
    tolerance = loose if loose is not None else next((value for name, value in TOLERANCE.items() if name in words), SAME)
    return math.isclose(said, wanted, rel_tol=SAME, abs_tol=tolerance)


def _brief(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


# -- the page ---------------------------------------------------------------------------------------------------------------


PIECES = ("h1", "h2", "h3", "p", "div", "li", "ul", "figure", "figcaption", "caption", "th", "summary", "details", "table")
"""Elements at whose edges one text ends and the next begins."""

UNREAD = ("td", "svg", "style", "script", "pre")
"""What is no text of the page, or is read otherwise; a command has the path by which the run was named."""


class Reader(HTMLParser):
    """The JSON block of a report, the cells of its tables as they are seen, its texts, and the names of its figures."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.block = ""
        self.tables: dict[str, list[list[str]]] = {}
        self._rows: list[list[str]] | None = None
        self._in_block = self._in_cell = False
        self.texts: list[str] = []
        self.figures: list[str] = []
        self._unread: list[str] = []
        self._text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self._begin(tag, given)
        if tag == "script":
            self._in_block = given.get("id") == BLOCK
        elif tag == "table":
            self._rows = self.tables.setdefault(given.get("data-table") or "", [])
        elif tag == "tr" and self._rows is not None:
            self._rows.append([])
        elif tag == "td" and self._rows:
            self._rows[-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "script"):
            self._in_cell = self._in_block = False
        self._end(tag)

    def handle_data(self, data: str) -> None:
        if self._in_block:
            self.block += data
        elif self._in_cell and self._rows:
            self._rows[-1][-1] += data
        if not self._unread:
            self._text += data

    def _begin(self, tag: str, given: dict[str, str | None]) -> None:
        if tag in PIECES:
            self._end_text()
        if tag == "figure":
            self.figures.append(given.get("id") or "")
        if tag in UNREAD or given.get("class") == "note":  # a note is of how the report was written
            self._unread.append(tag)

    def _end(self, tag: str) -> None:
        if tag in PIECES:
            self._end_text()
        if self._unread and self._unread[-1] == tag:
            self._unread.pop()

    def _end_text(self) -> None:
        if text := " ".join(self._text.split()):
            self.texts.append(text)
        self._text = ""


def page_differences(name: str, text: str, facts: Facts) -> Iterator[str]:
    """A report's page against what it should hold: its sentences and its tables as they are seen, then the numbers in its JSON block."""
    reader = Reader()
    reader.feed(text)
    try:
        said = json.loads(reader.block)
    except ValueError as error:
        raise DataError(f"{name} is no report of kd, or damaged: {error}; write it again with kd report") from error
    there = said.get("analyses") or {}
    facts = dataclasses.replace(
        facts, analyses=[study for study in facts.analyses if study.place in there]
    )  # others are newer than the page
    for place in sorted(set(there) - {study.place for study in facts.analyses}):
        yield f"{name}: it shows {place}, which the run does not hold"
    wanted = document(facts)
    if "exit" not in said and said != _json(wanted):  # it has no results
        yield f"{name}: the report is of an unfinished run: write it again with kd report"
        return
    yield from sentence_differences(name, reader, facts, wanted)
    for key, table in wanted["tables"].items():
        rows = [[written(cell, kind) for cell, kind in zip(row, table["kinds"], strict=True)] for row in table["rows"]]
        shown = [row for row in reader.tables.get(key, []) if row]  # the heading has no cells
        if len(shown) != len(rows):
            yield f"{name}: the table '{key}' has {len(shown)} rows, and should have {len(rows)}"
            continue
        for row, cells in zip(shown, rows, strict=True):
            if len(row) != len(cells):
                yield f"{name}: the table '{key}', row '{cells[0]}' has {len(row)} cells, and should have {len(cells)}"
                continue
            for heading, one, other in zip(table["headings"], row, cells, strict=True):
                if one.split() != other.split():
                    yield f"{name}: the table '{key}', row '{cells[0]}', column '{heading}' shows {one}, and should show {other}"
    yield from (line for line in differences(name, said, _json(wanted)))


def sentence_differences(name: str, reader: Reader, facts: Facts, wanted: Mapping[str, Any]) -> Iterator[str]:
    """A line for each text with a digit that the page should have and has not, or the other way round: the page is made anew, without pictures."""
    again = Reader()
    again.feed(page(facts, wanted, {name: "" for name in reader.figures if name in FIGURES}, {}, None))
    shown, right = (Counter(text for text in one.texts if any(map(str.isdigit, text))) for one in (reader, again))
    lacking, odd = list((right - shown).elements()), list((shown - right).elements())
    for text in lacking:
        near = next(iter(get_close_matches(text, odd, n=1, cutoff=0.3)), None)
        if near is None:
            yield f"{name}: it lacks '{text}'"
        else:
            odd.remove(near)
            one, other = _where_they_part(near, text)
            yield f"{name}: it says '{one}', and should say '{other}'"
    for text in odd:
        yield f"{name}: it says '{text}', which does not follow from the run's files"


def _where_they_part(one: str, other: str) -> tuple[str, str]:
    """The words about the first difference."""
    words = one.split(), other.split()
    same = next((k for k, (left, right) in enumerate(zip(*words, strict=False)) if left != right), min(map(len, words)))
    pieces = [" ".join(text[max(same - 4, 0) : same + 5]) for text in words]
    return pieces[0], pieces[1]


def _json(value: Any) -> Any:
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except ValueError as error:
        raise KdError(f"a number is not finite: {error}") from error

"""The analyses that a run's folder holds (`kd analyze`), as its report shows them: text, tables and pictures. Imports no torch."""

import base64
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path, PurePosixPath
from typing import Any

from kdcore.analysis import ABOUT, NAME, headings
from kdcore.files import file_errors, read_json
from kdcore.report.cells import table
from kdcore.runs import Run

MOST_ROWS = 200  # of a table on the page; its file has all
INCH = 96 / 150  # of a page's pixels, by those of a picture that an analysis wrote


@dataclass
class Study:
    """One analysis. `place`: its folder, relative to the run, with slashes. `runs`: names of all that it is of, this one being `this run`.
    `tables`: rows by name. `pictures`: PNG files by name.
    """

    place: str
    analysis: str
    runs: list[str]
    options: dict[str, Any]
    text: str
    tables: dict[str, list[dict[str, Any]]]
    pictures: dict[str, Path]


def read_analyses(run: Run) -> list[Study]:
    """Those that are finished, by the names of their folders. Raises FileError where a file of one is missing or damaged."""
    folders = sorted(path.parent for path in (run.path / "analyses").glob(f"*/{ABOUT}"))
    return [study for folder in folders if (study := _read(run, folder)) is not None]


def _read(run: Run, folder: Path) -> Study | None:
    """None for one that was interrupted before it had found anything. A name that is a path is passed over: it may lead out of the folder."""
    about = read_json(folder / ABOUT)
    names = [name for name in about["files"] if NAME.fullmatch(name)]
    if not names:
        return None
    text = ""
    if "text.txt" in names:
        with file_errors(folder / "text.txt", "read"):
            text = (folder / "text.txt").read_text(encoding="utf-8").strip()
    stems = {suffix: [name.removesuffix(suffix) for name in names if name.endswith(suffix)] for suffix in (".json", ".png")}
    tables = {stem: read_json(folder / f"{stem}.json") for stem in stems[".json"]}
    pictures = {stem: folder / f"{stem}.png" for stem in stems[".png"]}
    runs = ["this run" if path == "../.." else PurePosixPath(path).name for path in about["runs"]]
    return Study(f"analyses/{folder.name}", about["analysis"], runs, about["options"], text, tables, pictures)


def analyses_numbers(studies: Sequence[Study]) -> dict[str, Any]:
    """What a report's document says of them, by folder: all but the tables, of which there are the keys."""
    return {
        study.place: {
            "analysis": study.analysis,
            "runs": study.runs,
            "options": study.options,
            "text": study.text.splitlines(),
            "tables": [_key(study, name) for name in study.tables],
            "pictures": list(study.pictures),
        }
        for study in studies
    }


def analyses_tables(studies: Sequence[Study]) -> dict[str, Any]:
    return {_key(study, name): _table(name, rows) for study in studies for name, rows in study.tables.items()}


def _key(study: Study, name: str) -> str:
    return f"{study.place}/{name}"


def _table(name: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    columns = headings(rows)
    numbers = {heading: all(_is_number(row.get(heading)) for row in rows) for heading in columns}
    title = name if len(rows) <= MOST_ROWS else f"{name}: {MOST_ROWS} of {len(rows)} rows, all of them in {name}.csv"
    cells = [[row.get(heading) for heading in columns] for row in rows[:MOST_ROWS]]
    return table(title, [(heading, "number" if numbers[heading] else "text") for heading in columns], cells)


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def analyses_pictures(studies: Sequence[Study]) -> dict[str, str]:
    """An `<img>` with the whole picture in it, by folder and name. PNG and not the SVG beside it, which a page would obey."""
    return {_key(study, name): _img(path, f"{study.analysis}: {name}") for study in studies for name, path in study.pictures.items()}


def _img(path: Path, alt: str) -> str:
    with file_errors(path, "read"):
        content = path.read_bytes()
    (width,) = struct.unpack(">I", content[16:20])  # of the header
    data = base64.b64encode(content).decode()
    return f'<img src="data:image/png;base64,{data}" width="{round(width * INCH)}" alt="{escape(alt)}">'


def footing(place: str, one: Mapping[str, Any]) -> str:
    """Where an analysis's files lie, its options, and the runs that it puts side by side."""
    options = ", ".join(f"{name}={value}" for name, value in one["options"].items() if value is not None)
    found = [f"Files: {place}", f"options: {options}" if options else "", f"runs: {', '.join(one['runs'])}" if len(one["runs"]) > 1 else ""]
    return "; ".join(part for part in found if part)

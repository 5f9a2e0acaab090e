"""Analyses: a plugin's studies of finished runs, as tables and pictures in a folder of their own. Imports no torch.

A plugin's hook `analyses` maps names to functions `(run, *, options) -> Analysis`:

```python
def curve(run, *, split: Literal["dev", "test"] = "dev") -> Analysis:
    rows = [{"epoch": record["epoch"], "top-1": record[split]["top1"]} for record in run.metrics()]
    figure = Figure()
    figure.subplots().plot([row["top-1"] for row in rows])
    return Analysis(tables={"curve": rows}, figures={"curve": figure}, text=f"the best is {max(row['top-1'] for row in rows):.1f} %")
```

The core hands over what the function's positional parameters are called:
`run`    the one `Run` that is analysed (any first parameter that is not called `runs`)
`runs`   instead: all that were named, one or more
`folder` the analysis's own folder: what is trained there goes on when the same command is given again (`trained`)
`note`   a function that says a line to whoever waits

Options are keyword-only, typed and checked as everywhere. Figures are matplotlib's own (`matplotlib.figure.Figure`, without pyplot), drawn
in the core's style. A study of one table may return it alone, as {"title", "columns", "rows"}. What lies in the run's own folder, as it does
without `out`, stands in the run's report (kdcore/report/analyses.py).
"""

import csv
import inspect
import io
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcore.errors import FileError, KdError, NotInstalled, nearest
from kdcore.files import file_errors, read_json, remove_quietly, write_bytes, write_json, write_text
from kdcore.options import configured, options_of, validate
from kdcore.plugins import CORE, Part, Plugins
from kdcore.runs import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ABOUT = "analysis.json"
HANDED = ("run", "runs", "folder", "note")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass
class Analysis:
    """What an analysis found. tables: rows by name, each row a mapping from heading to value (number, text, None). text: in a sentence or two.

    Names of tables and figures become files: letters, digits, '.', '_' and '-'.
    """

    tables: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    figures: Mapping[str, "Figure"] = field(default_factory=dict)
    text: str = ""


@dataclass
class Analyzed:
    """An analysis that was written: by whom, where, and what it found."""

    name: str
    folder: Path
    analysis: Analysis
    files: list[str]

    def to_json(self) -> dict[str, Any]:
        tables = {name: [_plain(row) for row in rows] for name, rows in self.analysis.tables.items()}
        return {
            "analysis": self.name,
            "folder": str(self.folder),
            "text": self.analysis.text,
            "tables": tables,
            "files": self.files,
        }


def available(plugins: Plugins) -> tuple[list[Part], dict[str, str]]:
    """The analyses of every plugin, and why those that are broken are. Every plugin is imported."""
    found: list[Part] = []
    broken: dict[str, str] = {}
    for plugin in (CORE, *plugins.infos):
        try:
            found += plugins.parts_of(plugin, "analyses").values()
        except KdError as error:
            broken[plugin] = str(error)
    return found, broken


def analyze(
    name: str,
    runs: str | Path | Sequence[str | Path],
    options: Mapping[str, Any] | None = None,
    *,
    out: str | Path | None = None,
    plugins: Plugins | None = None,
    note: Callable[[str], None] | None = None,
) -> Analyzed:
    """Runs an analysis and writes what it found: CSV and JSON of each table, PNG and SVG of each figure.

    name: `plugin.analysis`. out: the folder, by default analyses/NAME in the run (the first of several). What the same analysis, with the same
    options and runs, left there is written anew; another one's is left alone, and NAME-2 is taken. plugins: where to look; by default what
    is installed, and the loose files that the runs keep. Raises KdError, DataError or FileError in one line.
    """
    opened = [Run.open(run) for run in ([runs] if isinstance(runs, str | Path) else runs)]
    if not opened:
        raise KdError(f"'{name}' analyses runs, and none is named: kd analyze {name} RUN")
    part = find(plugins or Plugins(loose_files(opened)), name)
    handed = _asked_for(part)
    if "runs" not in handed and len(opened) > 1:
        raise KdError(f"{part.label} takes one run, and {len(opened)} are named; one at a time")
    checked = configured(part.target) | validate(part.target, options or {}, part.label)
    whole = Path(out) if out is not None else opened[0].path / "analyses" / part.name
    folder = _place(whole, part, opened, json.loads(json.dumps(checked, default=str)), fixed=out is not None)
    offers: dict[str, Any] = {"runs": opened, "folder": folder, "note": note or (lambda text: None)}
    given = [offers.get(parameter, opened[0]) for parameter in handed]
    from kdcore.checks import guarded
    from kdcore.report.figures import style

    try:
        with style():
            analysis = _checked(part, guarded(part.label, lambda: part.target(*given, **checked)))
    except BaseException:
        _remove_unused(folder)
        raise
    return Analyzed(part.name, folder, analysis, _write(folder, analysis))


def trained(path: str | Path, note: Callable[[str], None] | None = None, **settings: Any) -> Run:
    """A run that an analysis needs, in its folder: trained, gone on with where it was interrupted, or there already.

    settings: as `kdcore.train` takes them. They are not compared with those of a run that is there: an analysis's folder has one set of options.
    """
    from kdcore.comparison.cells import clear_unbegun, is_finished
    from kdcore.training import train

    path = Path(path)
    if not is_finished(path):
        clear_unbegun(path)
        if note is not None:
            note(f"training {path}")
        if (path / "config.toml").exists():
            train(run=path, resume=True)
        else:
            train(run=path, **settings)
    return Run.open(path)


def find(plugins: Plugins, name: str) -> Part:
    """The analysis of this full name. Raises KdError with the nearest, also for one that was called without its plugin."""
    try:
        return plugins.part("analyses", name)
    except KdError as error:
        if name.partition(".")[0] in plugins.infos or isinstance(error, NotInstalled):
            raise
        known = [part.name for part in available(plugins)[0]]
        alike = [full for full in known if full.rpartition(".")[2] == name]
        hint = f"; did you mean '{alike[0]}'?" if alike else nearest(name, known) or "; no plugin that is installed has one"
        raise KdError(f"there is no analysis '{name}'{hint} (kd analyze lists them)") from None


def loose_files(runs: Iterable[Run], extra: Iterable[str] = ()) -> list[str]:
    """The plugin files given, and those that the runs keep, each name once."""
    kept = [name for run in runs for name in run.config().get("plugin", []) if name.endswith(".py")]
    return list({Path(name).name: name for name in (*kept, *extra)}.values())


def _asked_for(part: Part) -> list[str]:
    """The names of the positional parameters, `run` for a first one of another name. Raises KdError for one that the core does not have."""
    own = options_of(part.target)
    names = [name for name in inspect.signature(part.target).parameters if name not in own]
    names = [name if place or name in HANDED else "run" for place, name in enumerate(names)]
    if unknown := [name for name in names if name not in HANDED]:
        raise KdError(f"{part.label} asks for '{unknown[0]}', and analyses are handed {', '.join(HANDED)}: options stand after a star")
    return names


# -- the folder -------------------------------------------------------------------------------------------------------------


def _place(wanted: Path, part: Part, runs: Sequence[Run], options: dict[str, Any], *, fixed: bool) -> Path:
    """The folder, with the note of whose it is: a new one, or that of the same analysis. Raises KdError where --out is another's."""
    number = 1
    while True:
        folder = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        where = [os.path.relpath(run.path.resolve(), folder.resolve()) for run in runs]
        mine = {"analysis": part.name, "options": options, "runs": [Path(path).as_posix() for path in where]}
        with file_errors(folder, "make"):
            taken = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
        if not taken:
            write_json(folder / ABOUT, {**mine, "distribution": part.plugin.label, "files": []})
            return folder
        if _about(folder, mine) == mine:
            return folder
        if fixed:
            raise KdError(f"--out {folder} holds something else than this analysis with these options; choose another folder")
        number += 1


def _remove_unused(folder: Path) -> None:
    """Removes the folder of an analysis that left nothing but the note of whose it is, and `analyses` if that was all."""
    if [path.name for path in folder.iterdir()] == [ABOUT]:
        remove_quietly(folder / ABOUT)
        with suppress(OSError):  # not empty, after all
            folder.rmdir()
            if folder.parent.name == "analyses":
                folder.parent.rmdir()


def _about(folder: Path, like: Mapping[str, Any]) -> dict[str, Any] | None:
    """Whose the folder is; None where it says nothing of the kind."""
    try:
        found = read_json(folder / ABOUT)
    except FileError:
        return None
    return {name: found.get(name) for name in like} if isinstance(found, dict) else None


def _write(folder: Path, analysis: Analysis) -> list[str]:
    """Tables and figures into the folder; files of an earlier time that are not written again are removed. Returns the names."""
    from kdcore.report.figures import png, svg

    contents: dict[str, bytes] = {}
    for name, rows in analysis.tables.items():
        plain = [_plain(row) for row in rows]
        contents[f"{name}.csv"] = as_csv(plain).encode()
        contents[f"{name}.json"] = (json.dumps(plain, indent=1, allow_nan=False) + "\n").encode()
    for name, figure in analysis.figures.items():
        contents[f"{name}.png"] = png(figure, dpi=150)
        contents[f"{name}.svg"] = svg(figure, name).encode() + b"\n"
    about = read_json(folder / ABOUT)
    for name, content in contents.items():
        write_bytes(folder / name, content)
    if analysis.text:
        write_text(folder / "text.txt", analysis.text + "\n")
    files = [*contents, *(["text.txt"] if analysis.text else [])]
    write_json(folder / ABOUT, {**about, "files": files})
    for stale in set(about.get("files", [])) - set(files):
        remove_quietly(folder / stale)
    return files


def headings(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The columns of a table, in the order in which rows first have them."""
    return list(dict.fromkeys(str(name) for row in rows for name in row))


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """With a heading; what is None is empty."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    columns = headings(rows)
    writer.writerow(columns)
    writer.writerows([row.get(name) for name in columns] for row in rows)
    return file.getvalue()


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers as Python's; what is not finite is None."""
    return {str(name): _number(value) for name, value in row.items()}


def _number(value: Any) -> Any:
    item = value.item() if hasattr(value, "item") and not getattr(value, "ndim", 0) else value  # torch's and numpy's scalars
    if isinstance(item, float):
        return item if math.isfinite(item) else None
    return item if item is None or isinstance(item, bool | int | str) else str(item)


def _checked(part: Part, found: Any) -> Analysis:
    """What the function gave, as an `Analysis`. Raises KdError that names it where it gave something else."""
    if isinstance(found, Mapping) and {"columns", "rows"} <= set(found):
        one = [dict(zip(found["columns"], row, strict=True)) for row in found["rows"]]
        found = Analysis(tables={part.name.rpartition(".")[2]: one}, text=str(found.get("title", "")))
    if not isinstance(found, Analysis):
        raise KdError(f"{part.label} must return a kdcore.analysis.Analysis, not {type(found).__name__}")
    for name in (*found.tables, *found.figures):
        if not isinstance(name, str) or not NAME.fullmatch(name) or f"{name}.json" == ABOUT:
            raise KdError(f"{part.label}: {name!r} cannot be the name of a table or figure: letters, digits, '.', '_' and '-'")
    for name, rows in found.tables.items():
        if any(not isinstance(row, Mapping) for row in rows):
            raise KdError(f"{part.label}: the rows of its table '{name}' must be mappings from heading to value")
    return found

"""The grid of a comparison: rows x seeds under shared settings, kept in `compare.toml`. Rows and seeds may be added to it; nothing else changes.

```
DIR/compare.toml     rows, seeds, threads and the settings that all cells share
DIR/cells/ROW-sSEED  an ordinary run each, with ROW-sSEED.lock beside it
DIR/plugins/         copies of the loose files that were given with -p
```
Imports no torch.
"""

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

from kdcore.comparison.arms import BASELINES, Arm
from kdcore.config import Config, laid_over, read_config
from kdcore.errors import FileError, KdError
from kdcore.files import file_errors, write_bytes, write_text
from kdcore.runs import with_own_files

NAME = "compare.toml"

PER_METHOD = ("exits", "soft_targets", "loss", "schedule")
"""Settings that change what a method is: the two baselines as they come are left as they are."""


@dataclass(frozen=True)
class Row:
    """A backbone by a method. `name` is what the table says, `folder` what its cells' folders begin with, `typed` the whole row that a label names."""

    name: str
    folder: str
    model: str
    method: str
    options: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    typed: str = ""

    @property
    def is_baseline(self) -> bool:
        return self.method in BASELINES and not self.options and not self.settings


@dataclass
class Grid:
    """What a comparison consists of. `shared`: settings of every cell, with the options that were given to all methods under `options`."""

    rows: list[Row] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    shared: dict[str, Any] = field(default_factory=dict)
    threads: int = 1
    runs: list[str] = field(default_factory=list)

    def add_rows(self, models: Sequence[str], arms: Sequence[Arm]) -> None:
        """Models x arms, those that are there already passed over. With several models a row's name begins with its model.

        Raises KdError for a label that another row has, or for a row that is there under another name.
        """
        whole_names = {model: resolved({}, model, only=["model"])["model"] for model in models}
        several = len({row.model for row in self.rows} | set(whole_names.values())) > 1
        for model, whole in whole_names.items():
            for arm in arms:
                check_shared(arm.settings)
                settings = resolved({**self.shared, **arm.settings}, model, only=arm.settings)
                same = [row for row in self.rows if (row.model, row.method) == (whole, arm.method)]
                name = f"{model} {arm.name}" if several else arm.name
                if there := next((row for row in same if (row.options, row.settings) == (arm.options, settings)), None):
                    if arm.label and arm.label != there.name.rpartition(" ")[2]:
                        raise KdError(f"--method {arm.text}: that row is there, and is called '{there.name}'; leave out the label")
                    continue
                if any(row.name == name for row in self.rows):
                    raise KdError(
                        f"--method {arm.text}: another row is called '{name}': give one of them another label, LABEL={arm.method}..."
                    )
                typed = arm.text if arm.label else ""
                self.rows.append(Row(name, _folder(name, self.rows), whole, arm.method, dict(arm.options), settings, typed))

    def add_seeds(self, seeds: Iterable[int]) -> None:
        self.seeds = sorted({*self.seeds, *seeds})

    def row_settings(self, row: Row, shared: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The settings of a row's cells but for the seed. shared: those of the grid that are for this row."""
        base = dict(self.shared if shared is None else shared)
        options = {**base.pop("options", {}), **row.options}
        return {**laid_over(base, row.settings), "model": row.model, "method": row.method, "options": options}


def resolved(settings: dict[str, Any], model: str, only: Iterable[str]) -> dict[str, Any]:
    """Some settings as `Config` has them: checked, and with whole paths, so that they mean the same from any folder."""
    config = read_config({"data": "digits", **settings, "model": model})
    return {name: getattr(config, name) for name in only}


def check_shared(settings: Mapping[str, Any]) -> None:
    """Raises KdError for settings with which cells of one grid would not be comparable."""
    if settings.get("seed") is not None:
        raise KdError(f"--seed {settings['seed']}: the seeds of a comparison are given with --seeds, e.g. --seeds {settings['seed']},")
    if settings.get("minutes") is not None:
        raise KdError(f"--minutes {settings['minutes']:g} would give a cell as many epochs as its clock allows: give --epochs")
    if settings.get("amp") == "try":
        raise KdError("--amp try may choose otherwise for every cell: give --amp bfloat16 or --amp none, or leave it out")


def agree(stored: dict[str, Any], typed: Mapping[str, Any], folder: Path) -> None:
    """Raises KdError for the first setting that was typed otherwise than the comparison in `folder` has it."""
    for name, value in typed.items():
        if name == "options":
            for option, wanted in value.items():
                if (has := stored.get("options", {}).get(option)) != wanted:
                    raise _differs(folder, f"-o {option}", has, wanted)
        elif name == "plugin":
            if [Path(plugin).name for plugin in value] != [Path(plugin).name for plugin in stored.get("plugin", [])]:
                raise _differs(folder, "-p", stored.get("plugin"), value)
            for file, kept in zip(value, stored.get("plugin", []), strict=True):
                if (
                    file.endswith(".py")
                    and Path(file).is_file()
                    and Path(kept).is_file()
                    and Path(file).read_bytes() != Path(kept).read_bytes()
                ):
                    raise KdError(
                        f"-p {file}: {folder} was begun with another content of it, which it keeps as {kept}; leave out -p to go on with that, "
                        "or begin another comparison with another --dir"
                    )
        else:
            before = getattr(read_config({"model": "any", "data": "digits", **stored}), name)
            after = getattr(read_config({"model": "any", "data": "digits", **stored, name: value}), name)
            if before != after:
                raise _differs(folder, "--" + name.replace("_", "-"), before, after)


def _differs(folder: Path, what: str, before: Any, after: Any) -> KdError:
    has = "without" if before is None else f"with {before!r} and not"
    return KdError(f"{what} {after!r}: {folder} was begun {has} it; leave it out, or begin another comparison with another --dir")


def read_grid(folder: Path) -> Grid:
    """The grid of a comparison that is there. Raises FileError where it is damaged."""
    path = folder / NAME
    with file_errors(path, "read"):
        text = path.read_bytes()
    try:
        values = tomllib.loads(text.decode())
        rows = [Row(**row) for row in values.get("rows", [])]
        shared = with_own_files(values.get("settings", {}), folder)
        if unknown := [name for name in shared if name not in Config.model_fields]:
            raise KdError(f"{path} has the setting '{unknown[0]}', which this kdcore does not know")
        return Grid(rows, list(values["seeds"]), shared, int(values["threads"]), list(values.get("runs", [])))
    except (ValueError, KeyError, TypeError) as error:
        raise FileError(f"{path} is damaged, or not what kd compare writes: {type(error).__name__} {error}") from error


def stored_text(folder: Path | None) -> bytes | None:
    """`compare.toml` as it is; None where there is none."""
    if folder is None or not (folder / NAME).is_file():
        return None
    with file_errors(folder / NAME, "read"):
        return (folder / NAME).read_bytes()


def write_grid(folder: Path, grid: Grid, known: bytes | None = None) -> None:
    """Writes `compare.toml`, whole or not at all. Loose files are copied into the folder and named by the copy.

    known: the `stored_text` that `grid` was made from. Raises KdError where another process has written since: its rows are not to be lost.
    """
    import tomli_w
    from filelock import FileLock

    with file_errors(folder / NAME, "write"), FileLock(folder / f"{NAME}.lock"):
        if stored_text(folder) != known:
            raise KdError(f"another kd compare has changed {folder / NAME} just now: give the command again")
        write_text(folder / NAME, tomli_w.dumps(_values(folder, grid)))


def _values(folder: Path, grid: Grid) -> dict[str, Any]:
    shared = {name: value for name, value in grid.shared.items() if value is not None}
    if shared.get("plugin"):
        shared["plugin"] = [_keep(name, folder) if name.endswith(".py") else name for name in shared["plugin"]]
    rows = [{name: value for name, value in vars(row).items() if name != "typed" or value} for row in grid.rows]
    return {"seeds": grid.seeds, "threads": grid.threads, "runs": grid.runs, "settings": shared, "rows": rows}


def _keep(file: str, folder: Path) -> str:
    path = Path(file).resolve()
    own = folder.resolve() / "plugins"
    if path.parent != own:
        with file_errors(path, "copy"):
            write_bytes(own / path.name, path.read_bytes())
    return f"plugins/{path.name}"


def _folder(name: str, rows: Sequence[Row]) -> str:
    """A name for folders, on every system, that no other row has."""
    stem = re.sub(r"[^A-Za-z0-9._=-]+", "-", name).strip("-.")
    if len(stem) > 60 or any(row.folder.lower() == stem.lower() for row in rows):
        stem = f"{stem[:50]}-{blake2b(name.encode(), digest_size=4).hexdigest()}"
    return stem

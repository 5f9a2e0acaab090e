"""Tables of images: a CSV, TSV or Parquet file with a row an image - its path, its label, and perhaps its split and its group."""

import csv
import os
from pathlib import Path
from typing import Any

import torch

from kdcore.data.folders import common_size
from kdcore.data.labels import check_classes, numbered
from kdcore.data.splits import Data, Split
from kdcore.errors import DataError, FileError, KdError, nearest

TABLES = (".csv", ".tsv", ".parquet")
_PATH = ("path", "image", "file", "filename", "filepath", "file_name", "image_path")
_LABEL = ("label", "class", "target", "category")
_SPLIT = ("split", "subset")
_GROUP = ("group",)
SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "val": "dev",
    "valid": "dev",
    "validation": "dev",
    "dev": "dev",
    "test": "test",
    "testing": "test",
}


def read_table(
    path: Path,
    *,
    folder: str | None = None,
    splits: dict[str, str] | None = None,
    input_key: str | None = None,
    target_key: str | None = None,
    group_by: str | None = None,
    missing_files_too: bool = False,
) -> Data:
    """Read a table of photos. Its columns are known by their names (`path`, `label`, `split`, `group` and the like), whatever the case.

    `folder`: where relative paths start, else the table's own. `splits`: further words for `train`, `dev` and `test`. `input_key` and
    `target_key` name the columns of paths and labels, `group_by` that of the groups, if it is the name of one. `missing_files_too` leaves
    files that are not there to later. Raises `DataError` that names the row, `KdError` for a column that is not there.
    """
    table = _read_parquet(path) if path.suffix.lower() == ".parquet" else _read_csv(path)
    if not table.count:
        raise DataError(f"{path}: the table has no rows; give it one row an image")
    files, classes = table.column(input_key, _PATH, "--input-key"), table.column(target_key, _LABEL, "--target-key")
    labels, names = numbered(classes, table.row)
    paths = _paths(table, files, Path(folder or path.parent), missing_files_too)
    by_name = group_by in table.columns if group_by else False
    groups = _groups(table, paths, table.columns[group_by] if by_name and group_by else table.optional(_GROUP) if not group_by else None)
    where = _splits(table, splits or {})

    def rows(name: str) -> Split | None:
        numbers = [i for i, split in enumerate(where) if split == name]
        whole = Split(torch.tensor(labels, dtype=torch.int64), paths=paths, groups=groups)
        return whole.take(torch.tensor(numbers)) if numbers else None

    train = rows("train")
    if train is None:
        raise DataError(f"{path}: no row is of the split 'train'; mark the training images so, or leave the column of splits out")
    notes = [] if "test" in where else ["no test split in the table, and none is made up: results are on dev only"]
    if twice := len(paths) - len(set(paths)):
        notes.append(f"{twice} rows name a file that another row names already; copies on two sides of a split flatter the results")
    data = Data(path.stem, names, 3, common_size(train.paths), train, dev=rows("dev"), test=rows("test"), notes=notes)
    return check_classes(data, path)


class Table:
    """Columns by name, and what to call a row in an error."""

    def __init__(self, path: Path, columns: dict[str, list[Any]], lines: list[int] | None = None) -> None:
        self.path, self.columns, self.lines = path, columns, lines
        self.count = len(next(iter(columns.values()), []))

    def row(self, number: int) -> str:
        """`table.csv, line 7`, as an editor counts it, or `table.parquet, row 7`, from 1."""
        return f"{self.path}, line {self.lines[number]}" if self.lines else f"{self.path}, row {number + 1}"

    def optional(self, known: tuple[str, ...]) -> list[Any] | None:
        """The first column with one of these names, whatever the case."""
        by_small = {name.strip().lower(): name for name in reversed(self.columns)}
        return next((self.columns[by_small[name]] for name in known if name in by_small), None)

    def column(self, given: str | None, known: tuple[str, ...], flag: str) -> list[Any]:
        """The column that was asked for, or the one that is known by its name. Raises `KdError`, `DataError` with the columns there are."""
        if given is not None:
            if given not in self.columns:
                raise KdError(f"{flag} {given}: {self.path} has no such column{nearest(given, self.columns)}")
            return self.columns[given]
        found = self.optional(known)
        if found is None:
            there = ", ".join(self.columns) or "none"
            raise DataError(
                f"{self.path}: no column is called {', '.join(known[:-1])} or {known[-1]} (there is: {there}); name it with {flag}"
            )
        return found


def _read_csv(path: Path) -> Table:
    """Cells as text. The separator is the one that the header has most of: comma, semicolon (as Excel writes in some countries) or tab."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header = file.readline()
            file.seek(0)
            reader = csv.reader(file, delimiter=max(",;\t", key=header.count))
            names = [name.strip() for name in next(reader, [])]
            cells, lines = [], []
            for row in reader:
                if not any(cell.strip() for cell in row):
                    continue
                if len(row) != len(names):
                    raise DataError(f"{path}, line {reader.line_num}: {len(row)} cells, but the header has {len(names)}; mend the row")
                cells.append(row)
                lines.append(reader.line_num)
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a table in UTF-8 ({str(error).splitlines()[0]}); save it as 'CSV UTF-8'") from error
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{path}: two columns are called '{twice}'; rename one")
    return Table(path, {name: [row[k] for row in cells] for k, name in enumerate(names)}, lines or None)


def _read_parquet(path: Path) -> Table:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise KdError(f"{path}: Parquet files need pyarrow; pip install 'kdcore[parquet]', or save the table as CSV") from None
    try:
        read = pyarrow.parquet.ParquetFile(path)
        plain = [field.name for field in read.schema_arrow if not pyarrow.types.is_nested(field.type)]
        nested = [field.name for field in read.schema_arrow if field.name not in plain]
        table = read.read(columns=plain)
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or str(error).splitlines()[0]}") from error
    except pyarrow.ArrowException as error:
        raise DataError(f"{path}: not a Parquet file, or cut short ({str(error).splitlines()[0]})") from error
    found = Table(path, {name: table.column(name).to_pylist() for name in plain})
    if nested and found.optional(_PATH) is None:
        raise DataError(
            f"{path}: the images are in the file itself (column {nested[0]}), not beside it; put it into a folder and read that as "
            f"hfds/{path.parent.resolve()}"
        )
    return found


def _paths(table: Table, column: list[Any], folder: Path, missing_too: bool) -> list[str]:
    paths = []
    for i, value in enumerate(column):
        text = "" if value is None else str(value).strip()
        if not text:
            raise DataError(f"{table.row(i)}: the path is missing; fill it in, or take the row out")
        if "/" not in text:
            text = text.replace("\\", os.sep)  # written on Windows
        paths.append(os.path.join(folder, os.path.expanduser(text)))
    gone = [] if missing_too else [i for i, path in enumerate(paths) if not os.path.exists(path)]
    if gone:
        how = "the file is missing" if len(gone) == 1 else f"the first of {len(gone)} files that are missing"
        raise DataError(f"{table.row(gone[0])}: {how}: {paths[gone[0]]}; paths start at {folder} (--data-dir names another folder)")
    return paths


def _groups(table: Table, paths: list[str], column: list[Any] | None) -> list[str] | None:
    """Names of groups; a row without one is a group of its own, by its path."""
    if column is None:
        return None
    return [path if value is None or not str(value).strip() else str(value).strip() for value, path in zip(column, paths, strict=True)]


def _splits(table: Table, further: dict[str, str]) -> list[str]:
    column = table.optional(_SPLIT)
    if column is None:
        return ["train"] * table.count
    words, found = SPLIT_WORDS | {word.lower(): name for word, name in further.items()}, []
    for i, value in enumerate(column):
        word = "" if value is None else str(value).strip()
        if word.lower() not in words:
            what = f"the split is '{word}'{nearest(word.lower(), words)}" if word else "the split is missing; it is train, val or test"
            raise DataError(f"{table.row(i)}: {what}")
        found.append(words[word.lower()])
    return found

"""Tables of images: a CSV, TSV or Parquet file with a row an image - its path, its label, and perhaps its split and its group."""

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from kdcore.data.folders import common_size
from kdcore.data.labels import check_classes, numbered
from kdcore.data.parts import SPLIT_WORDS, Wanted
from kdcore.data.splits import Data, Split
from kdcore.errors import DataError, FileError, KdError, nearest

TABLES = (".csv", ".tsv", ".parquet")
_PATH = ("path", "image", "file", "filename", "filepath", "file_name", "image_path")
_LABEL = ("label", "class", "target", "category")
_SPLIT = ("split", "subset")
_GROUP = ("group",)


def read_table(path: Path, wanted: Wanted, *, missing_files_too: bool = False) -> Data:
    """Read a table of photos. Its columns are known by their names (`path`, `label`, `split`, `group` and the like), whatever the case.

    `wanted.data_dir`: where relative paths start, else the table's own folder. `input_key` and `target_key` name the columns of paths and
    labels, `group_by` that of the groups, if it is the name of one; splits by name are as in named sets, and the rows of other splits are
    left out. `missing_files_too` leaves files that are not there to later. Raises `DataError` that names the row, `KdError` for a column or
    a split that is not there.
    """
    table = _read(path)
    if not table.count:
        raise DataError(f"{path}: the table has no rows; give it one row an image")
    where, notes = _splits(table, wanted), []
    if unused := where.count(None):
        notes.append(f"{unused} of {table.count} rows are of splits that were not asked for, and are left out")
        table, where = table.take([i for i, split in enumerate(where) if split]), [split for split in where if split]
    files = table.column(wanted.input_key, _PATH, "--input-key")
    labels, names = numbered(table.column(wanted.target_key, _LABEL, "--target-key"), table.row)
    paths = _paths(table, files, Path(wanted.data_dir or path.parent), missing_files_too)
    groups = _groups(files, table.columns.get(wanted.group_by) if wanted.group_by else table.optional(_GROUP))
    whole = Split(torch.tensor(labels, dtype=torch.int64), paths=paths, groups=groups)

    def rows(name: str) -> Split | None:
        numbers = [i for i, split in enumerate(where) if split == name]
        return whole.take(torch.tensor(numbers)) if numbers else None

    train = rows("train")
    if train is None:
        raise DataError(f"{path}: no row is of the split 'train'; mark the training images so, or leave the column of splits out")
    if "test" not in where:
        notes.append("no test split in the table, and none is made up: results are on dev only")
    if twice := len(paths) - len(set(paths)):
        notes.append(f"{twice} rows name a file that another row names already; copies on two sides of a split flatter the results")
    data = Data(path.stem, names, 3, common_size(train.paths), train, dev=rows("dev"), test=rows("test"), notes=notes)
    return check_classes(data, path)


def column_names(path: Path) -> list[str]:
    """The columns of a table, as `--group-by`, `--input-key` and `--target-key` name them."""
    return list(_read(path).columns)


class Table:
    """Columns by name, and what to call a row in an error: `table.csv, line 7`, as an editor counts it, or `table.parquet, row 7`, from 1."""

    def __init__(self, path: Path, columns: dict[str, list[Any]], numbers: Sequence[int], kind: str) -> None:
        self.path, self.columns, self.numbers, self.kind = path, columns, numbers, kind
        self.count = len(next(iter(columns.values()), []))

    def row(self, number: int) -> str:
        return f"{self.path}, {self.kind} {self.numbers[number]}"

    def take(self, rows: list[int]) -> "Table":
        columns = {name: [cells[i] for i in rows] for name, cells in self.columns.items()}
        return Table(self.path, columns, [self.numbers[i] for i in rows], self.kind)

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


def _read(path: Path) -> "Table":
    return _read_parquet(path) if path.suffix.lower() == ".parquet" else _read_csv(path)


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
    _check_names(path, names)
    return Table(path, {name: [row[k] for row in cells] for k, name in enumerate(names)}, lines, "line")


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
        _check_names(path, plain)
        table = read.read(columns=plain)
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or str(error).splitlines()[0]}") from error
    except pyarrow.ArrowException as error:
        raise DataError(f"{path}: not a Parquet file, or cut short ({str(error).splitlines()[0]})") from error
    found = Table(path, {name: table.column(name).to_pylist() for name in plain}, range(1, table.num_rows + 1), "row")
    if nested and found.optional(_PATH) is None:
        raise DataError(
            f"{path}: the images are in the file itself (column {nested[0]}), not beside it; put it into a folder and read that as "
            f"hfds/{path.parent.resolve()}"
        )
    return found


def _check_names(path: Path, names: list[str]) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{path}: two columns are called '{twice}'; rename one")


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


def _groups(files: list[Any], column: list[Any] | None) -> list[str] | None:
    """Names of groups; a row without one is a group of its own, by its path as the table has it, wherever the table lies."""
    if column is None:
        return None
    return [str(file if value is None or not str(value).strip() else value).strip() for value, file in zip(column, files, strict=True)]


def _splits(table: Table, wanted: Wanted) -> list[str | None]:
    """train, dev or test for each row; None for a row of another split than those that were asked for by name."""
    flags = ("train_split", "val_split", "test_split")
    asked = {word: flag for flag in flags if (word := getattr(wanted, flag)) is not None}
    column = table.optional(_SPLIT)
    if column is None:
        for word, flag in asked.items():
            raise KdError(f"--{flag.replace('_', '-')} {word}: {table.path} has no column of splits ({' or '.join(_SPLIT)}); leave it out")
        return ["train"] * table.count
    words = ["" if value is None else str(value).strip() for value in column]
    for i, word in enumerate(words):
        if not word:
            raise DataError(f"{table.row(i)}: the split is missing; it is train, val or test")
        if not asked and word.lower() not in SPLIT_WORDS:
            raise DataError(f"{table.row(i)}: the split is '{word}'{nearest(word.lower(), SPLIT_WORDS)}")
    if not asked:
        return [SPLIT_WORDS[word.lower()] for word in words]
    first: dict[str, str] = {}  # of Train, train and training the first stands for all, but for those that were asked for
    words = [word if word in asked else first.setdefault(SPLIT_WORDS.get(word.lower(), word), word) for word in words]
    parts = {word: part for part, word in wanted.splits_of(list(dict.fromkeys(words))).items()}
    return [parts.get(word) for word in words]

"""Text and JSON written whole or not at all; every failure of the disk is one line."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import platformdirs

from kdcore.errors import FileError


def cache_folder() -> Path:
    """Where kdcore keeps what it can find out again: the folder KDCORE_CACHE, or the user's cache. It may not exist."""
    with suppress(RuntimeError):  # a user without a home: some versions of platformdirs say so, others give a path that begins with ~
        found = Path(os.environ.get("KDCORE_CACHE") or platformdirs.user_cache_path("kdcore"))
        if "~" not in found.parts:
            return found
    return Path(tempfile.gettempdir()) / "kdcore-cache"


@contextmanager
def file_errors(path: str | Path, doing: str) -> Iterator[None]:
    """Every OSError within the block becomes a FileError of one line: what was being done to `path`, and why it cannot be."""
    try:
        yield
    except (FileExistsError, NotADirectoryError) as error:
        raise FileError(f"cannot {doing} {path}: {error.filename or path} is in the way, and is not a folder") from error
    except OSError as error:
        raise FileError(f"cannot {doing} {path}: {error.strerror or error}") from error


def write_text(path: str | Path, text: str) -> None:
    """UTF-8, with newlines as they are on every system; complete or not at all; folders on the way are made. Raises FileError."""
    try:
        content = text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise FileError(f"cannot write {path}: {error.object[error.start : error.end]!r} is not a character of UTF-8") from error
    write_bytes(path, content)


def write_bytes(path: str | Path, content: bytes) -> None:
    """Complete or not at all; folders on the way are made. Raises FileError."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with file_errors(path, "write"):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            remove_quietly(temporary)


def write_json(path: str | Path, value: Any) -> None:
    """Like `write_text`. Raises FileError, also for a number that is not finite: JSON has no word for it."""
    write_text(path, json_text(path, value))


def read_json(path: str | Path) -> Any:
    """Raises FileError where the file is missing, may not be read, or is no JSON."""
    with file_errors(path, "read"):
        text = Path(path).read_bytes()
    try:
        return json.loads(text)
    except ValueError as error:
        raise FileError(f"{path} is damaged, it is not JSON: {error}") from error


def json_text(path: str | Path, value: Any) -> str:
    """The value as JSON for `path`. Raises FileError for what JSON does not have, such as NaN."""
    try:
        return json.dumps(value, indent=1, allow_nan=False) + "\n"
    except ValueError as error:
        raise FileError(f"cannot write {path}: JSON does not allow it: {error}") from error


def remove_quietly(path: Path) -> None:
    """Removes a file that may be gone already, or that cannot be removed: neither matters."""
    with suppress(OSError):
        path.unlink(missing_ok=True)

"""A run that ended before it was finished says why: in `stopped.json` of its folder. One that was killed outright cannot. Imports no torch."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime

from kdcore.errors import FileError, KdError
from kdcore.files import read_json, remove_quietly, write_json
from kdcore.runs import Run

NAME = "stopped.json"
_LONGEST = 300


@contextmanager
def marked_when_stopped(run: Run) -> Iterator[None]:
    """The run is under way within the block. Whatever breaks it off is written down and goes on its way."""
    remove_quietly(run.path / NAME)
    try:
        yield
    except BaseException as error:
        if run.path.is_dir() and not (run.path / "results.json").exists():  # else only a logger failed after the end
            with suppress(FileError):  # a full disk is perhaps the very reason
                write_json(run.path / NAME, {"reason": reason(error), "date": datetime.now().astimezone().isoformat(timespec="seconds")})
        raise


def reason(error: BaseException) -> str:
    """One line: `Ctrl-C`, a user's error as it is, or the kind of any other."""
    text = " ".join(str(error).split())
    if isinstance(error, KeyboardInterrupt):
        text = text or ("Ctrl-C" if type(error) is KeyboardInterrupt else type(error).__name__.lower())
    elif not isinstance(error, KdError):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def why_stopped(run: Run) -> str | None:
    """The reason that the run left when it broke off; None where it left none: under way, finished, or killed outright."""
    try:
        return str(read_json(run.path / NAME)["reason"])
    except (FileError, KeyError, TypeError):
        return None

"""Errors that a user reads: one line each, and the exit status of the command that meets one."""

from collections.abc import Sequence


class KdError(Exception):
    """Usage or configuration: the line says what is wrong, who said it, and what to type."""

    exit_status = 2


class DataError(KdError):
    """The images or labels are not what training needs."""

    exit_status = 65


class FileError(KdError):
    """Something could not be read or written."""

    exit_status = 74


class Refused(KdError):
    """A part declares a need, or is made for something, that this run does not have: a teacher, exits, soft targets of a kind. The line says
    what would give it. A part that gives what it must not, or fails, is no refusal but a plain KdError: it would be wrong in every run."""


class NotInstalled(KdError):
    """A name is that of a plugin which is not there, or is blocked: the line says how it is had."""


class Diverged(KdError):
    """The loss is no longer finite."""


def nearest(name: str, known) -> str:
    """`; did you mean 'x'?` for the closest known name, or a list of what exists."""
    from difflib import get_close_matches

    known = sorted(known)
    close = get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; there is: {', '.join(known)}" if known else ""


def first_names(names: Sequence[str], count: int = 5) -> str:
    """`cat, dog, 'bird, small' and 3 more`: the first few; one with a comma is quoted."""
    some = ", ".join(f"'{name}'" if "," in name else name for name in names[:count])
    return some + (f" and {len(names) - count} more" if len(names) > count else "")

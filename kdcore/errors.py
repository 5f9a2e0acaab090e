"""Errors that a user reads: one line each, and the exit status of the command that meets one."""


class KdError(Exception):
    """Usage or configuration: the line says what is wrong, who said it, and what to type."""

    exit_status = 2


class DataError(KdError):
    """The images or labels are not what training needs."""

    exit_status = 65


class FileError(KdError):
    """Something could not be read or written."""

    exit_status = 74


def nearest(name: str, known) -> str:
    """`; did you mean 'x'?` for the closest known name, or a list of what exists."""
    from difflib import get_close_matches

    known = sorted(known)
    close = get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; there is: {', '.join(known)}" if known else ""

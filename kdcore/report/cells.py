"""A table is {"title", "headings", "kinds", "rows"}; its cells are plain values, and a column's kind says how they are written."""

from collections.abc import Sequence
from typing import Any


def table(title: str, columns: Sequence[tuple[str, str]], rows: list[list[Any]]) -> dict[str, Any]:
    """columns: heading and kind (text, percent, nll, count, int, number)."""
    return {"title": title, "headings": [name for name, _ in columns], "kinds": [kind for _, kind in columns], "rows": rows}


def written(value: Any, kind: str) -> str:
    """A cell as the page shows it."""
    if value is None:
        return "–"
    if kind == "percent":
        return f"{value:.1f}"
    if kind == "nll":
        return f"{value:.3f}"
    if kind == "count":
        return short(value)
    if kind == "number":
        return f"{value:.5g}" if isinstance(value, float) else str(value)
    return f"{value:,}" if kind == "int" else printable(str(value))


def printable(text: str) -> str:
    """A folder of an old zip may have a name that is not UTF-8: its bytes are written as `\\udcff`."""
    return text.encode("utf-8", "backslashreplace").decode()


def short(count: int) -> str:
    """`1234567` as `1.23 M`."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return str(count)

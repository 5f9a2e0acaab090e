"""What the two halves of a comparison share: which finished run stands in which row of the table, under which seed. Imports no torch."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Entry:
    """One finished run in a table. Runs of equal `row` differ in their seed alone; runs of equal `seed` are paired across rows."""

    row: str
    seed: int
    run: Path

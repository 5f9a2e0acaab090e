"""What lies in a run's folder, read once."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdcore.errors import FileError
from kdcore.files import read_json
from kdcore.predictions import Stored, read_predictions
from kdcore.report.analyses import Study, read_analyses
from kdcore.runs import Run

SPLITS = ("dev", "test")


@dataclass
class Facts:
    """`results` and `stored` are None where the run has not got that far (or is older than stored predictions)."""

    run: Run
    config: dict[str, Any]
    about: dict[str, Any]
    environment: dict[str, Any]
    records: list[dict[str, Any]]
    results: dict[str, Any] | None
    stored: Stored | None
    analyses: list[Study] = field(default_factory=list)

    @property
    def shown(self) -> str | None:
        """The split that the details are shown of: test where there is one. Nothing is chosen on it."""
        best = self.results["best"] if self.results else {}
        return "test" if "test" in best else "dev" if "dev" in best else None


@contextmanager
def as_kd_writes(run: str | Path) -> Iterator[None]:
    """A file of the run that is valid JSON, but not what kd writes, is a FileError of one line."""
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, StopIteration) as error:
        raise FileError(f"a file in {run} is not what kd writes: {type(error).__name__} {error} (KD_TRACEBACK=1 shows where)") from error


def read_facts(path: str | Path) -> Facts:
    """Raises FileError where there is no run, or one of its files is damaged or not what kd writes."""
    run = Run.open(path)
    facts = Facts(
        run,
        run.config(),
        _optional(run, "model.json"),
        _optional(run, "environment.json"),
        run.metrics(),
        run.results(),
        read_predictions(run),
        read_analyses(run),
    )
    for name, keys in {"results.json": ("best", "last", "checkpoints", "samples"), "model.json": ("class_names", "exits")}.items():
        found = facts.results if name == "results.json" else facts.about
        if found and (missing := [key for key in keys if key not in found]):
            raise FileError(f"{run.path / name} is not what kd writes: it lacks '{missing[0]}'")
    return facts


def _optional(run: Run, name: str) -> dict[str, Any]:
    path = run.path / name
    return read_json(path) if path.exists() else {}

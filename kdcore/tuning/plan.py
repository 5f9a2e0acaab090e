"""What a study is, in DIR/study.json: written when it begins, and the same whenever it goes on. Imports no torch."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kdcore.config import Config, read_config
from kdcore.errors import FileError, KdError
from kdcore.files import file_errors, read_json, write_json
from kdcore.tuning.objectives import Objective
from kdcore.tuning.space import Dimension, read_space

FILE = "study.json"


@dataclass(frozen=True)
class Plan:
    """`settings`: of every trial, resolved as far as no trial is needed. `search`: as it was typed. `epochs`: of the phase that is delivered."""

    settings: dict[str, Any]
    search: list[str]
    objective: str = "deepest"
    strategy: str = "tpe"
    pruner: str = "median"
    seeds: int = 1
    space: list[Dimension] = field(default_factory=list)
    trials: int | None = None
    """How many in all, as it was said last; it may change."""

    @property
    def measure(self) -> Objective:
        return Objective.read(self.objective)

    def write(self, folder: Path) -> None:
        values = asdict(self)
        values["space"] = [{name: _plain(value) for name, value in d.items()} for d in values["space"]]
        write_json(folder / FILE, values)

    @classmethod
    def read(cls, folder: Path) -> "Plan":
        """Raises FileError where the folder holds no study, or a damaged one."""
        if not (folder / FILE).is_file():
            raise FileError(f"{folder} holds no study of kd tune: it has no {FILE}")
        values = read_json(folder / FILE)
        try:
            space = [_dimension(entry) for entry in values.pop("space")]
            return cls(**values, space=space)
        except (TypeError, KeyError, ValueError, ArithmeticError, AttributeError) as error:
            raise FileError(f"{folder / FILE} is not what kd tune writes: {type(error).__name__} {error}") from error


def _plain(value: Any) -> Any:
    from decimal import Decimal

    return str(value) if isinstance(value, Decimal) else value


def _dimension(entry: dict[str, Any]) -> Dimension:
    from decimal import Decimal

    numbers = {name: None if entry[name] is None else Decimal(entry[name]) for name in ("low", "high", "step")}
    return Dimension(**{**entry, **numbers, "choices": tuple(entry["choices"])})


def differs(folder: Path, former: Plan, now: Plan) -> None:
    """Raises KdError that names the first thing in which a command differs from the study that it would go on with."""

    def refuse(flag: str, was: Any, wanted: Any) -> None:
        raise KdError(
            f"{folder} was begun with {flag} {was}, not {wanted}: choose another --dir, or go on with kd tune --dir {folder} --resume"
        )

    was, wanted = ([str(d) for d in read_space(plan.search)] for plan in (former, now))
    for one, other in zip(sorted(was), sorted(wanted), strict=False):
        if one != other:
            refuse("--search", one, other)
    if len(was) != len(wanted):
        refuse("--search", " --search ".join(was), " --search ".join(wanted))
    for name in ("objective", "strategy", "pruner", "seeds"):
        if getattr(former, name) != getattr(now, name):
            refuse(f"--{name}", getattr(former, name), getattr(now, name))
    for name in Config.model_fields:
        old, new = (getattr(read_config(plan.settings), name) for plan in (former, now))
        if old != new:
            refuse("BACKBONE" if name == "model" else f"--{name.replace('_', '-')}", old, new)


def new_folder(path: str | Path | None, stem: str = "tune") -> Path:
    """A folder for a new study: `path`, which must be empty or missing, or runs/tune-N. Raises KdError or FileError."""
    if path is None:
        with file_errors("runs", "make a folder in"):
            for number in range(1, 1_000_000):
                try:
                    (folder := Path("runs") / f"{stem}-{number}").mkdir(parents=True)
                    return folder
                except FileExistsError:
                    continue
    folder = Path(path or "runs")
    with file_errors(folder, "make a folder at"):
        folder.mkdir(parents=True, exist_ok=True)
        if any(entry.name != LOCK for entry in folder.iterdir()):
            raise KdError(f"{folder} is not empty, and holds no study of kd tune: choose another --dir")
    return folder


LOCK = ".lock"


@contextmanager
def alone(folder: Path) -> Iterator[int | None]:
    """Only one kd tune works in a folder at a time; a lock of a process that died is none. Gives its file descriptor, for children to hold too."""
    try:
        import fcntl
    except ImportError:  # Windows, where children cannot hold it
        from filelock import FileLock, Timeout

        lock = FileLock(folder / LOCK)
        with file_errors(folder / LOCK, "write"):
            try:
                lock.acquire(blocking=False)
            except Timeout:
                raise _at_work(folder) from None
        try:
            yield None
        finally:
            lock.release()
        return
    with file_errors(folder / LOCK, "write"):
        file = open(folder / LOCK, "ab")  # noqa: SIM115 - held open as long as the lock
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise _at_work(folder) from None
        yield file.fileno()
    finally:
        file.close()


def _at_work(folder: Path) -> KdError:
    return KdError(f"another kd tune is at work in {folder}: wait for it, or choose another --dir")

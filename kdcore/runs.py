"""The run folder: everything that a training leaves behind, as TOML, JSON and safetensors. Imports no torch.

```
config.toml        what was asked for, resolved: `kd train --config` repeats the run
environment.json   the exact versions and the machine
data.json          what its data is, so that changed data is found (kdcore/run_data.py)
metrics.jsonl      one record a line, in order
checkpoints/       NAME.safetensors with NAME.json
plugins/           copies of the loose files that it was given with -p
results.json       what it came to
stopped.json       why it broke off, until it goes on (kdcore/ending.py)
```
A run may be moved: what it names within itself is relative to it.
Nothing here deletes or takes over a folder in which somebody else has something.
"""

import json
import math
import platform
import re
import shlex
import sys
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any, Self

from kdcore.errors import FileError, KdError
from kdcore.files import file_errors, read_json, write_bytes, write_json, write_text

PACKAGES = ("torch", "torchvision", "timm", "safetensors", "numpy", "kdcore")


@dataclass(frozen=True)
class Run:
    """A run by its folder. What it reads or writes raises FileError, in one line, where that is impossible."""

    path: Path

    @classmethod
    def create(cls, path: str | Path | None, *, stem: str) -> Self:
        """A new run at `path`, or at runs/<stem>-<n> with the first free n; of two processes, only one gets it.

        Raises KdError where something is there already, FileError where the folder cannot be made.
        """
        if path is None:
            return cls._numbered(Path("runs"), re.sub(r"[^A-Za-z0-9._-]+", "-", stem)[-80:].strip("-."))  # a name on Windows too
        path = Path(path)
        with file_errors(path, "make a run at"):
            path.mkdir(parents=True, exist_ok=True)
            if not any(path.iterdir()):
                try:
                    (path / "checkpoints").mkdir()
                    return cls(path)
                except FileExistsError:
                    pass  # another process was quicker
        raise _taken(path)

    @staticmethod
    def check_free(path: str | Path) -> None:
        """Raises KdError where a new run cannot go because something is there: asked before the work that `create` comes after."""
        path = Path(path)
        with file_errors(path, "read"):
            if path.is_dir() and any(path.iterdir()):
                raise _taken(path)

    @classmethod
    def _numbered(cls, folder: Path, stem: str) -> Self:
        with file_errors(folder / stem, "make a run at"):
            folder.mkdir(parents=True, exist_ok=True)
            for n in count(1):
                path = folder / f"{stem}-{n}"
                try:
                    path.mkdir()
                except FileExistsError:
                    continue
                (path / "checkpoints").mkdir()
                return cls(path)
        raise AssertionError("unreachable")

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """A run that exists. Raises FileError where there is none."""
        path = Path(path)
        if not path.is_dir():
            raise FileError(f"there is no run folder {path}")
        if not (path / "config.toml").is_file():
            raise FileError(f"{path} is not a run folder: it has no config.toml")
        return cls(path)

    def write_config(self, values: Mapping[str, Any]) -> None:
        """TOML, which has no word for None: such values are left out.

        Loose files among `plugin` are copied into the run first, and named by the copy: the run stays whole where they are edited, and moves.
        """
        import tomli_w

        if values.get("plugin"):
            values = {**values, "plugin": [self._keep(name) if name.endswith(".py") else name for name in values["plugin"]]}
        write_text(self.path / "config.toml", tomli_w.dumps(_without_none(values)))

    def _keep(self, file: str) -> str:
        """Copies a loose file into the run, unless it lies there already. Returns where, relative to the run."""
        path = Path(file).expanduser().resolve()
        folder = self.path.resolve() / "plugins"
        if path.parent != folder:
            with file_errors(path, "copy"):
                write_bytes(folder / path.name, path.read_bytes())
        return f"plugins/{path.name}"

    def config(self) -> dict[str, Any]:
        """What `write_config` wrote, with whole paths to the loose files that the run keeps."""
        path = self.path / "config.toml"
        with file_errors(path, "read"):
            text = path.read_bytes()
        try:
            values = tomllib.loads(text.decode())
        except ValueError as error:
            raise FileError(f"{path} is damaged, it is not TOML: {error}") from error
        return with_own_files(values, self.path)

    def write_environment(self, plugins: list[dict[str, Any]]) -> None:
        """Versions, machine, command and date. A run that is resumed keeps what was written before under "earlier"."""
        path = self.path / "environment.json"
        former = read_json(path) if path.exists() else None
        here = environment(plugins)
        if former is not None:
            here["earlier"] = [*former.pop("earlier", []), former]
        write_json(path, here)

    def append(self, record: Mapping[str, Any]) -> None:
        """One more line of metrics.jsonl, there for every reader when this returns. Numbers that are not finite become null."""
        line = json.dumps(_finite(record), allow_nan=False).encode() + b"\n"
        path = self.path / "metrics.jsonl"
        with file_errors(path, "write"), open(path, "a+b") as file:
            if file.tell():
                file.seek(-1, 2)
                if file.read(1) != b"\n":  # somebody died within a line: keep ours out of it
                    line = b"\n" + line
            file.write(line)

    def metrics(self) -> list[dict[str, Any]]:
        """The records so far. A line that was torn when a process died is passed over; [] before the first."""
        path = self.path / "metrics.jsonl"
        if not path.exists():
            return []
        with file_errors(path, "read"):
            lines = path.read_bytes().split(b"\n")
        return [record for line in lines if isinstance(record := _parsed(line), dict)]

    def truncate_metrics(self, keep: Callable[[dict[str, Any]], bool]) -> None:
        """Drops the records that `keep` refuses, all at once: on resume, those made after the checkpoint."""
        path = self.path / "metrics.jsonl"
        if path.exists():
            write_text(path, "".join(json.dumps(record) + "\n" for record in self.metrics() if keep(record)))

    def results(self) -> dict[str, Any] | None:
        """What `write_results` wrote; None before that."""
        path = self.path / "results.json"
        return read_json(path) if path.exists() else None

    def write_results(self, results: Mapping[str, Any]) -> None:
        write_json(self.path / "results.json", results)

    def checkpoint(self, name: str) -> Path:
        """Where a checkpoint of this name lies, without suffix: for `save_tensors` and `load_tensors`."""
        return self.path / "checkpoints" / name

    def relative(self, path: str | Path) -> str:
        """A path within the run, with slashes and relative to it, as phases and results hold it. Raises KdError for one outside."""
        try:
            return Path(path).absolute().relative_to(self.path.absolute()).as_posix()
        except ValueError:
            raise KdError(f"{path} is not within the run {self.path}") from None

    def absolute(self, relative: str) -> Path:
        """The inverse of `relative`."""
        return self.path.absolute() / relative


def _taken(path: Path) -> KdError:
    """Why a new run cannot go into a folder that has something in it."""
    if (path / "config.toml").exists():
        return KdError(f"{path} already holds a run; add --resume to continue it, or choose another --run")
    if (path / "checkpoints").exists():
        return KdError(
            f"{path} holds a run that has not begun, or did not get as far as its config.toml: choose another --run, or remove it"
        )
    return KdError(f"{path} is not empty, and holds no run; choose another --run")


def with_own_files(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The settings of a TOML file in `folder`, with whole paths to the plugins' files that lie there, relative to it."""
    names = values.get("plugin")
    if not isinstance(names, list):
        return values

    def whole(name: Any) -> Any:
        path = folder / name if isinstance(name, str) and name.endswith(".py") else None
        return path.resolve().as_posix() if path is not None and path.is_file() else name

    return {**values, "plugin": [whole(name) for name in names]}


def environment(plugins: list[dict[str, Any]]) -> dict[str, Any]:
    """The machine, versions, command line and date, with the plugins as they are given."""
    from importlib.metadata import PackageNotFoundError, version

    versions: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "gpu": _gpu(),
        "versions": versions,
        "plugins": plugins,
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _gpu() -> str | None:
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return "Apple MPS" if torch.backends.mps.is_available() else None


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_without_none(item) for item in value]
    return value.as_posix() if isinstance(value, Path) else value

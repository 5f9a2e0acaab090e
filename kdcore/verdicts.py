"""What a check or a run last found out about a plugin, kept in the user's cache for listings. Imports neither torch nor the plugin.

A verdict holds for one version with one content in one environment: an edited or upgraded plugin has none until it is checked again, and none
under another kdcore, another Python or in another virtual environment, which share the cache.
"""

import json
import platform
import sys
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from kdcore.errors import FileError
from kdcore.files import cache_folder, write_json
from kdcore.installed import CORE, PluginInfo, file_hash

KEEP = 500
"""How many verdicts the file holds; the oldest go first."""


@dataclass(frozen=True)
class Verdict:
    """`broken`: why the plugin cannot be used, "" where it can. `failed`: advice by check, for `component: check`. `when`: ISO date."""

    broken: str = ""
    failed: dict[str, str] = field(default_factory=dict)
    when: str = ""

    @property
    def reason(self) -> str:
        """One line for a listing, with its day: what was missing then may be installed now. "" where nothing is wrong."""
        day = f"found on {self.when[:10]}"
        if self.broken or not self.failed:
            return f"{self.broken} ({day})" if self.broken else ""
        first = next(iter(self.failed))
        more = f" and {len(self.failed) - 1} more" if len(self.failed) > 1 else ""
        return f"fails {first}{more} ({day}; kd plugins check says why)"


def path() -> Path:
    return cache_folder() / "checks.json"


def read(info: PluginInfo) -> Verdict | None:
    """What was found out about this plugin as it is now; None where nobody looked since it changed."""
    known = _held()
    held = known.get(key_of(info)) if any(key.startswith(f"{info.distribution} ") for key in known) else None
    if not isinstance(held, dict):
        return None
    failed = held.get("failed")
    return Verdict(
        broken=str(held.get("broken", "")), failed=dict(failed) if isinstance(failed, dict) else {}, when=str(held.get("when", ""))
    )


def write(info: PluginInfo, *, broken: str = "", failed: dict[str, str] | None = None) -> None:
    """Keeps a verdict. A cache that cannot be written is no reason to end a command: then it is not kept."""
    from datetime import UTC, datetime

    held, key = _held(), key_of(info)
    held.pop(key, None)
    held[key] = {"broken": broken, "failed": failed or {}, "when": datetime.now(UTC).isoformat(timespec="seconds")}
    while len(held) > KEEP:
        del held[next(iter(held))]
    try:
        write_json(path(), held)
    except FileError:
        return
    _read.cache_clear()


def key_of(info: PluginInfo) -> str:
    """Distribution, version and a hash of the plugin's files; and the environment: kdcore, Python, and where they are installed."""
    here = f"kdcore {version(CORE)}, Python {platform.python_version()} in {sys.prefix}"
    return f"{info.distribution} {info.version} {file_hash(info)[:16]}, {here}"


def _held() -> dict[str, Any]:
    file = path()
    try:
        return dict(_read(str(file), file.stat().st_mtime_ns))
    except OSError:
        return {}


@cache
def _read(file: str, changed: int) -> dict[str, Any]:
    try:
        held = json.loads(Path(file).read_bytes())
    except (OSError, ValueError):
        return {}
    return held if isinstance(held, dict) else {}

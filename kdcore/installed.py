"""What is installed: plugins as the metadata of distributions has them, without importing one; those that this process leaves out; and what can
be told of each before it is imported."""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from functools import cache
from hashlib import sha256
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import cast

from kdcore import API
from kdcore.errors import KdError, nearest
from kdcore.mending import upgraded_by

GROUP = "kdcore"
CORE = "kdcore"

ONLY, WITHOUT = "KD_PLUGINS_ONLY", "KD_NO_PLUGIN"
"""Variables with names of plugins or distributions, parted by commas: those which alone are there, and those which are not."""


HASHED = (".py", ".toml", ".json", ".so", ".pyd")
"""Files of a package that decide what it does."""


@dataclass(frozen=True)
class PluginInfo:
    """What metadata says of a plugin, before anything of it is imported."""

    name: str
    distribution: str
    version: str
    module: str
    summary: str = ""
    families: tuple[str, ...] = ()
    api: int | None = None
    paper: str = ""

    @property
    def label(self) -> str:
        return f"{self.distribution} {self.version}".strip()


def installed(*, blocked: bool = False) -> list[PluginInfo]:
    """Every plugin that some distribution claims, sorted by name; a name that two claim stands there twice.

    blocked: those too that this process leaves out (KD_NO_PLUGIN, KD_PLUGINS_ONLY).
    """
    found = {}
    for entry in _entries():
        info = _info(entry)
        if blocked or blocked_by(info) is None:
            found[info.name, normal(info.distribution)] = info
    return sorted(found.values(), key=lambda info: (info.name, info.distribution))


def _entries() -> Iterable[metadata.EntryPoint]:
    """The entry points of the group. One distribution whose file of them cannot be read hides no other."""
    try:
        return metadata.entry_points(group=GROUP)
    except Exception:
        return list(_readable_entries())


def _readable_entries() -> Iterator[metadata.EntryPoint]:
    seen = set()
    for distribution in metadata.distributions():
        try:
            name, entries = normal(distribution.name), distribution.entry_points.select(group=GROUP)
        except Exception:  # whatever a damaged file makes of the parser
            continue
        if name not in seen:
            seen.add(name)
            yield from entries


def _info(entry: metadata.EntryPoint) -> PluginInfo:
    try:
        about = cast(Message, entry.dist.metadata) if entry.dist else None
    except Exception:  # a file that is no text
        about = None
    keywords = re.split(r"[,\s]+", (about.get("Keywords") or "") if about else "")
    apis = [word.partition(":")[2] for word in keywords if word.startswith("kdcore-api:")]
    links = [link.partition(",") for link in (about.get_all("Project-URL") or [] if about else [])]
    papers = [address.strip() for label, _, address in links if label.strip().lower() == "paper"]
    return PluginInfo(
        name=entry.name,
        distribution=(about.get("Name") if about else None) or "?",
        version=(about.get("Version") if about else None) or "",
        module=entry.value,
        summary=(about.get("Summary") or "") if about else "",
        families=tuple(word.partition(":")[2].replace("-", "_") for word in keywords if word.startswith("kdcore:")),
        api=int(apis[0]) if apis and apis[0].isdigit() else None,
        paper=papers[0] if papers else "",
    )


def normal(name: str) -> str:
    """A distribution's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


# -- what metadata can tell of a plugin that will not do ----------------------------------------------------------------------------


def fault_of(info: PluginInfo, claims: Sequence[PluginInfo]) -> tuple[str, str] | None:
    """Why a plugin is refused before it is imported: the word (clashing, broken), and one line that ends with what to type; else None.

    claims: all plugins of this name.
    """
    name = info.name
    if name == CORE:
        return "clashing", f"{info.label} claims the plugin name '{CORE}', which is the core's own; pip uninstall {info.distribution}"
    if len(claims) > 1:
        foreign = [claim.distribution for claim in claims if claim.distribution != directory().get(name)][-1]
        both = " and ".join(claim.label for claim in claims)
        return "clashing", f"two distributions claim the plugin name '{name}': {both}; pip uninstall {foreign}, or kd --no-plugin {foreign}"
    if not re.fullmatch(r"[A-Za-z0-9][\w-]*", name):
        return "broken", f"plugin '{name}' ({info.label}): its name must be letters, digits, _ and -; tell its author"
    if info.api is not None and info.api != API:
        upgrade = upgraded_by(info.distribution if info.api < API else CORE)
        return "broken", f"plugin '{name}' ({info.label}) was written for kdcore API {info.api} and this is API {API}; {upgrade}"
    return None


# -- what this process leaves out ---------------------------------------------------------------------------------------------------

_typed: dict[str, list[str]] = {}
"""Of the two variables, what the command line wrote into them: so that a refusal says who did it."""

_FLAGS = {ONLY: "--plugins-only", WITHOUT: "--no-plugin"}


def blocked_by(info: PluginInfo) -> str | None:
    """Who keeps a plugin out, as it was typed: `--no-plugin byot`, `KD_PLUGINS_ONLY=iskd`; None where it is let in."""
    own = {info.name, normal(info.distribution)}
    for names, variable in ((_typed.get(WITHOUT, []), WITHOUT), (_names(WITHOUT), WITHOUT)):
        for name in names:
            if name == info.name or normal(name) in own:
                return f"{_FLAGS[variable]} {name}" if names is _typed.get(variable) else f"{variable}={name}"
    only = _names(ONLY)
    if only and not own & {*only, *map(normal, only)}:
        return f"{_FLAGS[ONLY]} {','.join(only)}" if ONLY in _typed else f"{ONLY}={','.join(only)}"
    return None


def handed_on() -> dict[str, str]:
    """The variables that a worker on another machine needs, to have the same plugins as this process."""
    return {name: value for name in (ONLY, WITHOUT, "KD_TRACE") if (value := os.environ.get(name))}


def _names(variable: str) -> list[str]:
    return [name for name in re.split(r"[,\s]+", os.environ.get(variable, "")) if name]


@contextmanager
def blocking(only: Sequence[str] = (), without: Sequence[str] = ()) -> Iterator[None]:
    """Within it, only some plugins are there (`only`, if given), or all but some. By the environment, so that worker processes do the same.

    Raises KdError for a name that no plugin has: a slip of the pen would leave out nothing, or everything.
    """
    known = [info for info in installed(blocked=True)] if only or without else []
    names = {CORE, *(info.name for info in known)}
    for flag, given in ((_FLAGS[ONLY], only), (_FLAGS[WITHOUT], without)):
        for name in given:
            if name not in names and normal(name) not in {normal(info.distribution) for info in known}:
                raise KdError(f"{flag} {name}: there is no plugin '{name}'{nearest(name, names)}")
    if CORE in without:
        raise KdError(f"{_FLAGS[WITHOUT]} {CORE}: the core's own parts cannot be left out")
    former, typed = {name: os.environ.get(name) for name in _FLAGS}, dict(_typed)
    if only:
        os.environ[ONLY], _typed[ONLY] = ",".join(only), list(only)
    if without:
        os.environ[WITHOUT], _typed[WITHOUT] = ",".join(dict.fromkeys([*_names(WITHOUT), *without])), list(without)
    try:
        yield
    finally:
        _typed.clear()
        _typed.update(typed)
        for name, value in former.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


# -- files --------------------------------------------------------------------------------------------------------------------------


def file_hash(info: PluginInfo) -> str:
    """SHA-256 of a plugin's files, in hexadecimal: of its top package, or of its only file. Imports nothing; "" where there are none."""
    digest, files = sha256(), files_of(info.module)
    for name, path in files:
        try:
            content = path.read_bytes()
        except OSError:
            continue
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest() if files else ""


def files_of(module: str) -> list[tuple[str, Path]]:
    """A plugin's files, each with its name relative to the package, sorted by that."""
    if module.endswith(".py"):  # a loose file
        return [(Path(module).name, Path(module))]
    try:
        spec = find_spec(module.partition(":")[0].partition(".")[0])
    except (ImportError, ValueError):
        return []
    if spec is None:
        return []
    if spec.submodule_search_locations is None:
        return [(Path(spec.origin).name, Path(spec.origin))] if spec.origin and Path(spec.origin).is_file() else []
    places = [Path(place) for place in spec.submodule_search_locations]
    found = [(path.relative_to(place).as_posix(), path) for place in places for path in place.rglob("*") if path.suffix in HASHED]
    return sorted((name, path) for name, path in found if "__pycache__" not in name and path.is_file())


# -- the bundled directory ------------------------------------------------------------------------------------------------------------


@cache
def directory() -> dict[str, str]:
    """Plugins that kdcore knows of, name to distribution, from `directory.toml` beside this file.

    A distribution is named to a user only from here: one made up from a plugin's name would be installed by everyone who mistypes, whoever
    took that name on an index.
    """
    import tomllib

    return tomllib.loads((Path(__file__).parent / "directory.toml").read_text(encoding="utf-8"))


def how_to_install(plugin: str) -> str:
    """`pip install kdcore-byot` for a plugin of the directory, else ""."""
    distribution = directory().get(plugin)
    return f"pip install {distribution}" if distribution else ""

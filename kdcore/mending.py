"""What a user is told to type where a plugin does not work, and the reason in a line.

pip is given a name only where the distribution came from an index: an author's own folder may have a name that somebody else took there, or will.
"""

import json
import traceback
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:  # kdcore.installed asks this module
    from kdcore.installed import PluginInfo


@dataclass(frozen=True)
class Origin:
    """Where an installed distribution came from. `pip`: what pip installs it from again, "" where that is not known. `folder`: the author's own."""

    pip: str = ""
    folder: str = ""
    editable: bool = False


def origin(distribution: str) -> Origin:
    """By what its installer wrote down: `direct_url.json` for a folder, file or repository (PEP 610), INSTALLER alone for an index."""
    try:
        found = metadata.distribution(distribution)
        direct, installer = map(found.read_text, ("direct_url.json", "INSTALLER"))
        if direct is not None:
            return _given(json.loads(direct))
    except (metadata.PackageNotFoundError, OSError, ValueError, KeyError, TypeError, AttributeError):  # it is not there, or damaged
        return Origin()
    return Origin(pip=distribution if installer and installer.strip() not in ("", "conda") else "")


def _given(about: dict[str, Any]) -> Origin:
    """What PEP 610 says of an address that pip was given."""
    url, versioned, folder = about["url"], about.get("vcs_info"), about.get("dir_info")
    if versioned:
        revision = f"@{versioned['requested_revision']}" if versioned.get("requested_revision") else ""
        inner = f"#subdirectory={about['subdirectory']}" if about.get("subdirectory") else ""
        return Origin(pip=f'"{versioned["vcs"]}+{url}{revision}{inner}"')
    path = _path(url)
    source = _quoted(path or url)
    if folder is None:
        return Origin(pip=source)
    if folder.get("editable"):
        return Origin(pip=f"-e {source}", folder=path, editable=True)
    return Origin(pip=source, folder=path)


def mended_by(info: "PluginInfo", error: BaseException) -> str:
    """What to do where an import failed. A module that is missing is not named to pip: its distribution may be called otherwise."""
    source = origin(info.distribution)
    own = info.module.partition(".")[0]
    if isinstance(error, ModuleNotFoundError) and error.name and error.name.partition(".")[0] != own:
        return f"pip install {source.pip} adds what it says it needs" if source.pip else "install what it says it needs"
    again = f"pip install --force-reinstall --no-deps {source.pip}"
    if source.pip and not source.folder:
        return again
    mend = f"mend {_place(info, error) or f'its entry point, which names {info.module}'}"
    return mend if source.editable or not source.pip else f"{mend}, then {again}"


def upgraded_by(distribution: str) -> str:
    """What to do where a distribution is too old."""
    source = origin(distribution)
    if source.editable or not source.pip:
        return f"bring {distribution}{f' in {source.folder}' if source.folder else ''} up to date"
    return f"pip install --upgrade {source.pip}"


def reason_of(error: BaseException) -> str:
    """`KeyError: 'lr'`: an error's class and the first line of what it says."""
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"


def _place(info: "PluginInfo", error: BaseException) -> str:
    """`FILE:LINE`, the last of the plugin's own that the error went through; "" where there is none."""
    from kdcore.installed import files_of

    own = {path.resolve() for _, path in files_of(info.module)}
    if isinstance(error, SyntaxError) and error.filename and Path(error.filename).resolve() in own:
        return f"{error.filename}:{error.lineno}"
    places = [
        f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).resolve() in own
    ]
    return places[-1] if places else ""


def _path(url: str) -> str:
    """The path in `file:///...`; "" for another address."""
    from urllib.request import url2pathname

    return url2pathname(urlsplit(url).path) if url.startswith("file:") else ""


def _quoted(path: str) -> str:
    return f'"{path}"' if " " in path else path

"""Which plugins a run was made with: written down when it begins, and compared when it goes on or is evaluated. Imports no torch."""

from kdcore.files import read_json
from kdcore.installed import CORE, file_hash
from kdcore.plugins import Plugins
from kdcore.runs import Run


def recorded(plugins: Plugins) -> list[dict[str, str]]:
    """The plugins imported so far, the core first: name, distribution, version, and `files`, the SHA-256 of their files."""
    infos = sorted(plugins.loaded.values(), key=lambda info: (info.name != CORE, info.name))
    return [{"name": i.name, "distribution": i.distribution, "version": i.version, "files": file_hash(i)} for i in infos]


def plugin_changes(run: Run, plugins: Plugins) -> list[str]:
    """A line for each plugin that is not what the run was last made with: another version, other files under the same one, another distribution.

    Of the core only the version counts: whoever works on it would read this line at every command.
    """
    path = run.path / "environment.json"
    former = {plugin["name"]: plugin for plugin in (read_json(path).get("plugins", []) if path.exists() else [])}
    return [line for now in recorded(plugins) if (then := former.get(now["name"])) and (line := _change(then, now))]


def _change(then: dict[str, str], now: dict[str, str]) -> str:
    was, here = (f"{plugin['distribution']} {plugin['version']}".strip() for plugin in (then, now))
    if was != here:
        return f"plugin '{now['name']}' is {here} here, and the run was made with {was}: its numbers may differ"
    if now["name"] != CORE and "files" in then and then["files"] != now["files"]:
        return f"plugin '{now['name']}' ({here}) has other files than those that the run was made with: its numbers may differ"
    return ""

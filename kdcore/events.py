"""Event hooks for loggers: called in the host process; one that raises is reported and dropped, and the run goes on."""

from collections.abc import Callable
from typing import Any

from kdcore.mending import reason_of
from kdcore.plugins import Plugins


class Events:
    """Fires `run_start`, `log`, `epoch_end` and `run_end` at every plugin that the run has imported."""

    def __init__(self, plugins: Plugins, report: Callable[[str], None]) -> None:
        self.plugins = plugins
        self.report = report
        self.dropped: set[str] = set()

    def fire(self, event: str, **facts: Any) -> None:
        manager = self.plugins.manager
        for implementation in getattr(manager.hook, event).get_hookimpls():
            name = implementation.plugin_name
            if name in self.dropped:
                continue
            others = [plugin for other, plugin in manager.list_name_plugin() if other != name and plugin is not None]
            try:
                manager.subset_hook_caller(event, others)(**facts)
            except (Exception, SystemExit) as error:
                self.dropped.add(name)
                label = self.plugins.loaded[name].label
                self.report(f"plugin '{name}' ({label}) failed in {event}: {reason_of(error)}; it is left out of the rest of this run")

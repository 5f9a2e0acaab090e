"""Runs the kit over an installed plugin or a loose file, without pytest's collection: what `kd plugins check` prints."""

import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from kdcore.errors import KdError
from kdcore.plugins import Part
from kdcore.testing.base import Kit, one_line
from kdcore.testing.classes import class_for, logger_class, plugin_class


@dataclass(frozen=True)
class Outcome:
    """What became of a check. `status`: passed, failed, cannot (a declared limit) or skipped; `text`: the advice or the reason."""

    component: str
    family: str
    check: str
    status: str
    text: str = ""
    seconds: float = 0.0


def run(name: str, only: str | None = None, note: Callable[[Outcome], None] = lambda outcome: None) -> list[Outcome]:
    """Every check of the kit on a plugin and all its parts. name: an installed plugin, or a loose file (`my_idea.py`).

    only: checks whose name contains this. note: told of each as it ends. A plugin that does not load fails in `test_hook_signatures`.
    """
    whole = plugin_class(name)
    kits: list[tuple[str, str, type[Kit]]] = [(whole.plugin, "plugin", whole)]
    parts: list[Part] = []
    found: list[Outcome] = []
    try:
        logger = logger_class(whole)
        if logger is not None:
            kits.append((whole.plugin, "events", logger))
        parts = whole.parts()
    except KdError:
        pass  # and a check of the plugin says why
    for part in parts:
        kits.append((part.name, part.family, class_for(part, whole)))
    for component, family, kit in kits:
        for check, call in checks_of(kit):
            if only is None or only in check:
                found.append(Outcome(component, family, check, *judged(call)))
                note(found[-1])
    return found


def checks_of(kit: type[Kit]) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Every check with its parameters, as pytest would call it on an instance of its own."""
    for name in dict.fromkeys(name for base in reversed(kit.__mro__) for name in vars(base) if name.startswith("test_")):
        function = getattr(kit, name)
        sets = [mark.args for mark in getattr(function, "pytestmark", []) if mark.name == "parametrize"]
        if not sets:
            yield name, partial(_call, kit, name)
        for names, values in sets:
            for value in values:
                yield f"{name}[{value}]", partial(_call, kit, name, **{names: value})


def _call(kit: type[Kit], check: str, **values: Any) -> None:
    getattr(kit(), check)(**values)


def judged(call: Callable[[], Any]) -> tuple[str, str, float]:
    """Status, advice or reason, and seconds. A warning of deprecation is the library's affair."""
    began = time.perf_counter()
    status, text = "passed", ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            call()
    except pytest.xfail.Exception as outcome:  # a kind of failure, so it comes first
        status, text = "cannot", str(outcome)
    except pytest.skip.Exception as outcome:
        status, text = "skipped", str(outcome)
    except pytest.fail.Exception as outcome:
        status, text = "failed", str(outcome)
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        status, text = "failed", f"{type(error).__name__}: {error} ({last.filename}:{last.lineno}); a mistake of the kit: tell kdcore"
    return status, one_line(text), time.perf_counter() - began

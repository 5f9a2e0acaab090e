"""What plugins do, said aloud on stderr: an import that takes long, and with KD_TRACE=1 every import and every call of a hook."""

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import Timer
from typing import Any

import pluggy

from kdcore.installed import PluginInfo

SLOW = 5.0
"""Seconds of an import after which a user wants to know what is going on: more than torch itself takes, which the first plugin may bring in."""

LONG = 100  # characters of an answer


def tracing() -> bool:
    return os.environ.get("KD_TRACE", "") not in ("", "0")


def say(text: str) -> None:
    print(f"kd: {text}", file=sys.stderr, flush=True)


@contextmanager
def import_aloud(info: PluginInfo) -> Iterator[None]:
    """Around the import of a plugin: one that takes longer than `SLOW` is named while it lasts, and its seconds are said when it ends."""
    who = f"plugin '{info.name}' ({info.label})"
    timer = Timer(SLOW, lambda: say(f"{who} is being imported, for {SLOW:g} s so far"))
    timer.daemon = True
    timer.start()
    begin = time.perf_counter()
    try:
        yield
    finally:
        timer.cancel()
        took = time.perf_counter() - begin
        if took >= SLOW:
            say(f"{who} took {took:.1f} s to import")
        if tracing():
            say(f"trace: {info.name}: import {info.module} {1000 * took:.1f} ms")


def trace_hooks(manager: pluggy.PluginManager) -> None:
    """With KD_TRACE=1: a line for each call of a hook, with the plugin, the time it took, and what it answered."""
    if not tracing():
        return
    begun: list[float] = []  # a hook may call another

    def before(hook: str, methods: Sequence[Any], facts: Mapping[str, object]) -> None:
        begun.append(time.perf_counter())

    def after(outcome: Any, hook: str, methods: Sequence[Any], facts: Mapping[str, object]) -> None:
        took = time.perf_counter() - begun.pop()
        if methods:
            who = ", ".join(method.plugin_name for method in methods)
            say(f"trace: {who}: {hook}({', '.join(facts)}) {1000 * took:.1f} ms: {_answered(outcome)}")

    manager.add_hookcall_monitoring(before, after)


def _answered(outcome: Any) -> str:
    """The names that a family's hook gave, what an event's hook returned, or what was raised; cut where it is long."""
    try:
        text = _in_words(outcome)
    except Exception as error:  # a repr() that raises: what is only told changes nothing
        text = f"an answer whose text raised {type(error).__name__}"
    text = " ".join(text.split())
    return text if len(text) <= LONG else f"{text[:LONG]}..."


def _in_words(outcome: Any) -> str:
    if outcome.exception is not None:
        return f"raised {type(outcome.exception).__name__}: {outcome.exception}"
    answers = outcome.get_result()
    answer = answers[0] if isinstance(answers, list) and len(answers) == 1 else answers
    if answer is None or (isinstance(answer, list | dict) and not answer):  # of an array nobody knows whether it is true
        return "nothing"
    return ", ".join(map(str, answer)) if isinstance(answer, dict) else repr(answer)

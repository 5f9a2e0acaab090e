"""The core's schedule. Schedules are generators, so that generations, hint phases and stop rules are ordinary Python."""

from collections.abc import Generator

from kdcore.phases import Phase, PhaseResult

Schedule = Generator[Phase, PhaseResult, PhaseResult | None]


def single(context) -> Schedule:
    """One phase of `--epochs` epochs with every term."""
    result = yield Phase("main")
    return result

"""Where a part of a plugin is at home: the method that has it, else where its soft targets come from.

What `kd new` writes into a test file, and `kd plugins check` runs without one. Imports no torch, and no pydantic before it is asked for a method.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from kdcore.methods import Method, declared

if TYPE_CHECKING:
    from kdcore.plugins import Part

DEEPEST, TEACHER = "deepest", "teacher"


def methods_of(parts: Iterable["Part"]) -> dict[str, Method]:
    """The methods among the parts with their defaults, by full name; without those that need an option, or fail, of which a check says why."""
    from kdcore.options import options_of

    found = {}
    for part in parts:
        try:
            if part.family == "methods" and not any(option.required for option in options_of(part.target).values()):
                made = part.target()
                if isinstance(made, Method):
                    found[part.name] = made
        except Exception:
            continue
    return found


def home_of(part: "Part", methods: Mapping[str, Method]) -> str | None:
    """The full name of the first method that has the part; None for one that no method has."""
    from kdcore.options import target_of

    for name, method in methods.items():
        inside = [method.exits, method.schedule, *method.sources.values(), *(term.loss for term in method.terms.values())]
        if any(target_of(component) is part.target for component in inside if component is not None):
            return name
    return None


def source_of(reads: tuple[str, ...] | None, needs: Iterable[str]) -> str | None:
    """Where a loss has its soft targets from in a method that has it not: None for one that reads none, the teacher where it needs one."""
    if reads == ():
        return None
    return TEACHER if {"teacher", "able_teacher"} & set(needs) else DEEPEST


def setting(part: "Part", beside: Iterable["Part"]) -> dict[str, Any]:
    """What a conformance class is told beside the component: `method`, or `source` where it is not the deepest exit. beside: its plugin's parts."""
    if part.family not in ("losses", "soft_targets", "exits", "schedules"):
        return {}
    home = home_of(part, methods_of(beside))
    if home is not None:
        return {"method": home}
    source = source_of(getattr(part.target, "reads", None), declared(part.target)) if part.family == "losses" else DEEPEST
    return {} if source == DEEPEST else {"source": source}

"""Parts that would do nothing in a run: a teacher that no term reads, a term that no phase trains, soft targets that a loss does not look at.

The rehearsal of a run's phases shows them. What is surely a mistake is refused, what is harmless becomes a note.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kdcore.errors import KdError, Refused
from kdcore.methods import Weight, declared, reads_of
from kdcore.objective import Bound, BoundTerm
from kdcore.phases import Phase, Where
from kdcore.recipes import Recipe, ignored
from kdcore.task import DistillationTask


@dataclass
class Rehearsed:
    """What the phases of a run showed, each added as it was rehearsed."""

    active: set[str] = field(default_factory=set)
    looked: set[str] = field(default_factory=set)
    taught: int = 0
    """Phases whose teacher some term reads."""
    asked: list[str] = field(default_factory=list)
    """Names of the phases that ask for a teacher which no term reads."""
    offered: int = 0
    """Phases that would take a given teacher, which no term reads."""

    def add(self, phase: Phase, task: DistillationTask) -> None:
        objective = task.objective
        self.active |= {term.name for term in objective.terms}
        self.looked |= {term.name for term in objective.terms if term.looked}
        if task.teacher is None:
            return
        if any("teacher" in declared(bound.run) for bound in [*objective.sources.values(), *objective.terms]):
            self.taught += 1
        elif phase.teacher == "auto":
            self.offered += 1
        else:
            self.asked.append(phase.name)

    def notes(self, recipe: Recipe, sources: Mapping[str, Bound], terms: Sequence[BoundTerm], could_read: bool) -> list[str]:
        """A line for each part that does nothing, or KdError for the first that cannot be meant so.

        could_read: whether a part would read a teacher, had it another weight, or a weight asks whether there is one.
        """
        found = self._teachers(recipe, could_read)
        for term in terms:
            if term.name not in self.active:
                found += _never_trains(recipe, term, sources.get(term.source or ""), self.taught > 0)
            elif term.source is not None and term.name not in self.looked and not reads_of(term.run):
                typed = recipe.asked.get(f"term {term.name}", "").removeprefix("--loss ")
                if "@" in typed:
                    raise KdError(f'{ignored(typed, term.label)} (one of your own that looks at them later says reads = ("logits",))')
                found.append(f"{term.label} is given the soft targets '{term.source}' and does not look at them")
        return found

    def _teachers(self, recipe: Recipe, could_read: bool) -> list[str]:
        if self.asked and not could_read:
            raise Refused(
                f"{recipe.labels['schedule']} gives phase '{self.asked[0]}' a teacher, and no term of {recipe.labels['method']} reads it: "
                f"add --loss kl@teacher=0.5{recipe.brought('schedule')}"
                ' (a part of your own that reads step.teacher says needs = ("teacher",))'
            )
        if self.asked:
            several = len(self.asked) > 1
            names = ", ".join(f"'{name}'" for name in self.asked)
            return [f"{'phases' if several else 'phase'} {names}: no term that has a weight reads the teacher, which teaches nothing"]
        if self.offered and not self.taught:
            return ["no term that has a weight reads the teacher, which teaches nothing"]
        return []


class _Watched(Where):
    """A place in training that knows whether it was asked for its teacher."""

    asked = False

    def __getattribute__(self, name: str) -> Any:
        if name == "has_teacher":
            object.__setattr__(self, "asked", True)
        return super().__getattribute__(name)


def asks_for_a_teacher(weight: Weight) -> bool:
    """Whether a weight looks at `where.has_teacher`: it is tried at a few places. One that fails there may."""
    if not callable(weight):
        return False
    for progress in (0.0, 0.5, 1.0):
        for generation in (1, 2):
            where = _Watched(epoch=2 * progress, progress=progress, generation=generation)
            try:
                weight(where)
            except Exception:
                return True
            if where.asked:
                return True
    return False


def _never_trains(recipe: Recipe, term: BoundTerm, source: Bound | None, taught: bool) -> list[str]:
    """Says of a term that is active in no phase why, unless its weight is 0, as somebody asked."""
    schedule, place = recipe.labels["schedule"], f"term {term.name}"
    if term.weight == 0:
        return []
    if not taught and ("teacher" in declared(term.run) or (source is not None and "teacher" in declared(source.run))):
        return [f"term '{term.name}' ({term.label}) never trains: no phase of {schedule} has a teacher"]
    if getattr(term.weight, "settled", False):  # to 0, in every phase that has it
        return []
    if place in recipe.asked:
        raise Refused(
            f"{term.label} never trains: {schedule} says which terms its phases have, and none has it: leave out {recipe.asked[place]}"
        )
    return [f"term '{term.name}' ({term.label}) never trains: no phase of {schedule} has it"]

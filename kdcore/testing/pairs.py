"""Pairs with every installed method: a component trains a finite step there, or is refused for a need. There is no third outcome."""

from collections.abc import Iterator
from functools import partial
from typing import Any

from kdcore.errors import KdError
from kdcore.installed import installed
from kdcore.methods import Method, Term
from kdcore.options import configured, options_of, target_of
from kdcore.plugins import CORE, Part, Plugins
from kdcore.recipes import Recipe, resolve
from kdcore.testing import scene
from kdcore.testing.base import fail, refusal, said
from kdcore.testing.running import RunChecks


class PairChecks(RunChecks):
    def test_pairs_with_every_method(self) -> None:
        """As one would type it: `--loss`, `--soft-targets`, `--exits` or `--schedule` beside every `--method` that is installed."""
        self.built()
        known, refusals, trained = self.plugins(), [], False
        for method in methods(known):
            try:
                with scene.one_thread():
                    composition = scene.compose(partial(self.beside, method, known), self.home())
                    answers = scene.trained(composition, steps=1)
            except Exception as error:
                if refusal(error):
                    refusals.append(f"--method {method.name}: {said(error)}")
                    continue
                fail(
                    f"{self.about()}: with --method {method.name} it ends in: {said(error)}; declare what it needs (kdcore.needs), or raise "
                    "kdcore.KdError in setup() or at the first call, with the line to type"
                )
            if wrong := scene.not_finite(answers):
                fail(f"{self.about()}: with --method {method.name}, {wrong}; a loss stays finite whatever stands beside it")
            trained = True
        if not trained and getattr(self, "method", None) is None:  # one that a method has may be for that alone: it is trained there
            fail(
                f"{self.about()}: every installed method refuses it beside itself; say in `needs` only what it cannot do without ({refusals[0]})"
            )

    @classmethod
    def beside(cls, method: Part, known: Plugins, taught: bool) -> Recipe:
        """The recipe of a method with this component, as words of the command line add it."""
        name, family = cls.part().name, cls.family
        words: dict[str, Any] = {}
        if family == "losses":
            source = None if getattr(cls.part().target, "reads", None) == () else getattr(cls, "source", None)
            words["losses"] = [f"{name}{f'@{source}' if source else ''}"]
        elif family == "soft_targets":
            words["losses"] = [f"{getattr(cls, 'loss', 'kl')}@{name}"]
        elif family == "exits":
            words["exits"] = name
        elif family == "schedules":
            words["schedule"] = name
        elif family == "methods":
            own = resolve(name, dict(cls.options), plugins=known, exits=cls.exits, has_teacher=True)
            words = added(known, own.method, method)
        if cls.exits is not None:
            words.setdefault("exits", cls.exits)
        options = {} if family == "methods" else cls.part_options()
        return resolve(method.name, {**options, **words.pop("options", {})}, plugins=known, has_teacher=taught, **words)


def methods(known: Plugins) -> Iterator[Part]:
    """Every installed method whose options all have defaults. A plugin that does not load is passed over: it is no fault of this one."""
    for plugin in dict.fromkeys([CORE, *(info.name for info in installed()), *known.loaded]):
        try:
            parts = known.parts_of(plugin, "methods").values()
            yield from (part for part in parts if not any(option.required for option in options_of(part.target).values()))
        except KdError:
            continue


def added(known: Plugins, second: Method, base: Part) -> dict[str, Any]:
    """What a method has and another lacks, as words of the command line: its losses with their soft targets, and its schedule."""
    first = base.target()
    has = {_parts(first, term) for term in first.terms.values()}
    names = list(first.terms)
    losses: list[str] = []
    options: dict[str, Any] = {}
    for term in second.terms.values():
        loss = known.name_of("losses", target_of(term.loss))
        source = known.name_of("soft_targets", target_of(second.sources[term.source])) if term.source else None
        if _parts(second, term) in has or loss is None or (term.source and source is None):
            continue
        names.append(_free(loss.name, names))
        options |= _changed(term.loss, names[-1])
        if source is not None and term.source is not None:
            options |= _changed(second.sources[term.source], source.name)
        weight = "" if callable(term.weight) else f"={term.weight:g}"
        on = term.exits if isinstance(term.exits, str) else ",".join(map(str, [term.exits] if isinstance(term.exits, int) else term.exits))
        losses.append(f"{loss.name}{f'@{source.name}' if source is not None else ''}:{on}{weight}")
    schedule = None
    if first.schedule is None and second.schedule is not None:
        found = known.name_of("schedules", target_of(second.schedule))
        schedule = found.name if found is not None else None
    return {"losses": losses, "schedule": schedule, "options": options}


def _parts(method: Method, term: Term) -> tuple[Any, Any]:
    return target_of(term.loss), target_of(method.sources[term.source]) if term.source else None


def _free(name: str, taken: list[str]) -> str:
    """What a term is called that `--loss` adds where there is one of its name."""
    while name in taken:
        name += "+"
    return name


def _changed(component: Any, name: str) -> dict[str, Any]:
    """`{NAME.OPTION: VALUE}` for what a method has set in one of its parts."""
    usual = configured(target_of(component))
    return {f"{name}.{option}": value for option, value in configured(component).items() if value != usual.get(option)}

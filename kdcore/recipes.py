"""From names and options to a recipe: a method with its parts replaced, added and checked. Nothing is built and no torch is needed."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kdcore import options as opt
from kdcore.errors import KdError, Refused, nearest
from kdcore.methods import Component, Method, Term, declared, least_exits, parse_exits, unknown_needs
from kdcore.plugins import Part, Plugins

RESERVED = ("loss", "output", "epoch", "step", "steps", "lr")
"""What a task's answer and a log line hold beside the terms."""

GIVE_TEACHER = "add --teacher BACKBONE, --teacher RUN or --teacher FILE, or in Python teacher=..."


@dataclass
class Recipe:
    """What will run. `labels` says of each component, by `term ce` or `source teacher`, who made it and from where; `asked` of those
    that the command line brought, what was typed."""

    name: str
    method: Method
    plugins: Plugins
    options: dict[str, Any] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    parts: dict[str, Part] = field(default_factory=dict)
    asked: dict[str, str] = field(default_factory=dict)

    def components(self) -> dict[str, Component]:
        """Every component under its place: exits, teacher exits, schedule, source NAME, term NAME."""
        method = self.method
        found = {"exits": method.exits, "teacher exits": method.teacher_exits, "schedule": method.schedule}
        found |= {f"source {name}": source for name, source in method.sources.items()}
        found |= {f"term {name}": term.loss for name, term in method.terms.items()}
        return {place: component for place, component in found.items() if component is not None}

    def brought(self, place: str) -> str:
        """How a refusal of a component ends: what to leave out, or whose it is."""
        if place in self.asked:
            return f", or leave out {self.asked[place]}"
        who, (kind, _, name) = self.labels["method"], place.partition(" ")
        users = [term for term, its in self.method.terms.items() if kind == "source" and its.source == name]
        if users:
            return f" (for term '{users[0]}' of {who})"
        return "" if self.labels[place].endswith(who) else f" (it is part of {who})"

    def replace(self, place: str, component: Component) -> None:
        kind, _, name = place.partition(" ")
        if kind == "source":
            self.method.sources[name] = component
        elif kind == "term":
            self.method.terms[name] = dataclasses.replace(self.method.terms[name], loss=component)
        else:
            setattr(self.method, place.replace(" ", "_"), component)


def family_of(place: str) -> str:
    return {"source": "soft_targets", "term": "losses", "schedule": "schedules"}.get(place.partition(" ")[0], "exits")


def resolve(
    method: str | Method,
    options: Mapping[str, Any] | None = None,
    *,
    plugins: Plugins | None = None,
    exits: str | None = None,
    soft_targets: str | None = None,
    losses: Sequence[str] = (),
    schedule: str | None = None,
    has_teacher: bool = False,
    hard_labels: bool = True,
) -> Recipe:
    """A recipe from a method (a name, or one already made) and what the command line adds to it or replaces.

    options: `alpha` goes to the method; `byot.hint.reduction` to a part, by its full name or by the name of its term or source.
    losses: `NAME[@SOURCE][:EXITS][=WEIGHT]`. Raises KdError in one line that names the plugin and says what to type.
    """
    plugins = plugins or Plugins()
    given = dict(options or {})
    own = {name: value for name, value in given.items() if "." not in name}
    if not isinstance(method, Method):
        typed = {"exits": [exits], "soft_targets": [soft_targets], "schedules": [schedule]}
        typed["losses"] = [parse_loss(text)[0] for text in losses]
        typed["soft_targets"] += [source for text in losses if (source := parse_loss(text)[1])]
        _check_whose(own, plugins.part("methods", method), typed, plugins)
    recipe = _from_method(method, own, plugins)
    if exits is not None:
        both = recipe.method.teacher_exits is not None and recipe.method.teacher_exits is recipe.method.exits
        recipe.method.exits = _named(recipe, "exits", plugins.part("exits", exits), f"--exits {exits}")
        if both:  # a method that gives its teacher the student's exits means it
            recipe.method.teacher_exits = _named(recipe, "teacher exits", plugins.part("exits", exits), f"--exits {exits}")
    if schedule is not None:
        recipe.method.schedule = _named(recipe, "schedule", plugins.part("schedules", schedule), f"--schedule {schedule}")
    if soft_targets is not None:
        _replace_source(recipe, plugins.part("soft_targets", soft_targets))
    for text in losses:
        _add_loss(recipe, text)
    if recipe.method.schedule is None:
        recipe.method.schedule = _named(recipe, "schedule", plugins.part("schedules", "single"))
    _check_terms(recipe)
    _name_the_rest(recipe)
    _set_part_options(recipe, {name: value for name, value in given.items() if "." in name})
    for place, component in recipe.components().items():
        opt.check(component, recipe.labels[place], _option_prefix(recipe, place))
    _check_needs(recipe, has_teacher, hard_labels)
    return recipe


def _check_whose(own: Mapping[str, Any], method: Part, typed: Mapping[str, Sequence[str | None]], plugins: Plugins) -> None:
    """Raises KdError for an option that the method lacks, and a part has that was typed beside it. typed: names by family."""
    strange = own.keys() - opt.options_of(method.target).keys()
    for family, each in [(family, each) for family, names in typed.items() for each in names if each and strange]:
        try:
            part = plugins.part(family, each)
            known = opt.options_of(part.target)
        except KdError:  # a source of the method's own, or no part at all, which is said where it is used
            continue
        for name in strange & known.keys():
            raise KdError(f"{method.label} has no option '{name}', which {part.label} has: write -o {part.name}.{name}={own[name]}")
    if not strange:
        return
    try:
        made = _from_method(method.name, {name: value for name, value in own.items() if name not in strange}, plugins)
        _name_the_rest(made)
        places = {place: opt.options_of(component) for place, component in made.components().items()}
    except KdError:  # which is said where it is built
        return
    for place, name in [(place, name) for place, known in places.items() for name in sorted(strange & known.keys())]:
        raise KdError(
            f"{method.label} has no option '{name}', which its {place} has: "
            f"write -o {place.partition(' ')[2] + '.' if ' ' in place else _option_prefix(made, place)}{name}={own[name]}"
        )


def _from_method(method: str | Method, own: dict[str, Any], plugins: Plugins) -> Recipe:
    if isinstance(method, Method):
        if own:
            raise KdError(f"a Method that is already made takes no options: {', '.join(own)}")
        copied = dataclasses.replace(method, sources=dict(method.sources), terms=dict(method.terms))
        return Recipe("custom", copied, plugins, labels={"method": "method (custom)"})
    part = plugins.part("methods", method)
    checked = opt.validate(part.target, own, part.label)
    try:
        made = part.target(**checked)
    except KdError:
        raise
    except Exception as error:
        raise KdError(f"{part.label} failed: {type(error).__name__}: {error}") from error
    if not isinstance(made, Method):
        raise KdError(f"{part.label} must return a kdcore.Method, not {type(made).__name__}")
    return Recipe(part.name, made, plugins, opt.configured(part.target) | checked, {"method": part.label}, {"method": part})


def _named(recipe: Recipe, place: str, part: Part, asked: str | None = None) -> Any:
    if asked is not None:
        recipe.asked[place] = asked
    recipe.labels[place] = part.label
    recipe.parts[place] = part
    return part.target


def _replace_source(recipe: Recipe, part: Part) -> None:
    used = {term.source for term in recipe.method.terms.values() if term.source}
    if len(used) > 1:
        raise KdError(
            f"--soft-targets {part.name}: method '{recipe.name}' has terms with different soft targets ({', '.join(sorted(used))}), "
            f"so one cannot replace them; add a term of its own with --loss NAME@{part.name}"
        )
    if not used:
        raise KdError(f"--soft-targets {part.name}: no term of method '{recipe.name}' has soft targets; add one with --loss kl@{part.name}")
    old = used.pop()
    del recipe.method.sources[old]
    recipe.method.sources[part.name] = _named(recipe, f"source {part.name}", part, f"--soft-targets {part.name}")
    for name, term in recipe.method.terms.items():
        if term.source == old:
            recipe.method.terms[name] = dataclasses.replace(term, source=part.name)


def parse_loss(text: str) -> tuple[str, str | None, str | list[int], float]:
    """`NAME[@SOURCE][:EXITS][=WEIGHT]`, e.g. `kl@deepest:shallow=0.5`, as name, source, exits, weight."""
    rest, equals, weight = text.partition("=")
    rest, colon, exits = rest.partition(":")
    name, at, source = rest.partition("@")
    if not name or (at and not source) or (colon and not exits):
        raise KdError(f"--loss {text}: write NAME[@SOURCE][:EXITS][=WEIGHT], e.g. kl@deepest:shallow=0.5")
    try:
        number = float(weight) if equals else 1.0
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise KdError(f"--loss {text}: the weight '{weight}' is no number")
    return name, source or None, parse_exits(exits) if exits else "all", number


def _add_loss(recipe: Recipe, text: str) -> None:
    name, source, exits, weight = parse_loss(text)
    part = recipe.plugins.part("losses", name)
    sources, reads = recipe.method.sources, getattr(part.target, "reads", None)
    if source is not None and reads == ():
        raise KdError(ignored(text, part.label))
    if source is not None and source not in sources:
        sources[source] = _named(recipe, f"source {source}", recipe.plugins.part("soft_targets", source), f"--loss {text}")
    if source is None and reads:
        if len(sources) != 1:
            has = f"has {', '.join(sources)}" if sources else "has none"
            raise Refused(
                f"--loss {text}: {part.label} needs soft targets and the method {has}; write --loss {name}@SOURCE, e.g. {name}@deepest"
            )
        source = next(iter(sources))
    term = part.name
    while term in recipe.method.terms:
        term += "+"
    recipe.method.terms[term] = Term(part.target, source=source, weight=weight, exits=exits)
    _named(recipe, f"term {term}", part, f"--loss {text}")


def ignored(text: str, label: str) -> str:
    """What a user reads who gives soft targets to a loss that reads none."""
    name, source, _, _ = parse_loss(text)
    rest = text[len(f"{name}@{source}") :]
    return f"--loss {text}: {label} reads no soft targets: write --loss {name}{rest}, or a loss that imitates them, e.g. kl@{source}{rest}"


def _name_the_rest(recipe: Recipe) -> None:
    """Says of each component that a method brought itself which part it is, or that it is the method's own."""
    for place, component in recipe.components().items():
        if place in recipe.labels:
            continue
        part = recipe.plugins.name_of(family_of(place), opt.target_of(component))
        if part is not None:
            _named(recipe, place, part)
        else:
            recipe.labels[place] = f"{place} of {recipe.labels['method']}"


def _set_part_options(recipe: Recipe, values: dict[str, Any]) -> None:
    for name, value in values.items():
        part, _, option = name.rpartition(".")
        components = recipe.components()
        places = [place for place in components if place.partition(" ")[2] == part]
        places = places or [place for place, found in recipe.parts.items() if found.name == part and place in components]
        if not places:
            known = {found.name for place, found in recipe.parts.items() if place in components}
            known |= {place.partition(" ")[2] for place in components} - {"", "exits"}
            raise KdError(f"-o {name}={value}: this run has no part '{part}'{nearest(part, known)}")
        places = [place for place in places if option in opt.options_of(components[place])] or places  # a source and a term of one name
        for place in places:
            recipe.replace(place, opt.reconfigure(components[place], {option: value}, recipe.labels[place]))


def _option_prefix(recipe: Recipe, place: str) -> str:
    return (recipe.parts[place].name if place in recipe.parts else place.partition(" ")[2]) + "."


def _check_terms(recipe: Recipe) -> None:
    """What a method's author may get wrong in its terms."""
    who, terms, sources = recipe.labels["method"], recipe.method.terms, recipe.method.sources
    if not terms:
        raise KdError(f"{who} has no terms, so there is nothing to train on; add --loss ce")
    for name, term in terms.items():
        if not isinstance(term, Term):
            raise KdError(f"{who}: its term '{name}' must be a kdcore.Term, not {type(term).__name__}")
        if name in RESERVED:
            raise KdError(f"{who}: no term can be called '{name}', which a step's answer and log hold already; rename it")
        if not callable(term.weight) and not (isinstance(term.weight, int | float) and math.isfinite(term.weight)):
            raise KdError(f"{who}: the weight of its term '{name}' must be a number or a function of Where, not {term.weight!r}")
        if term.source is not None and term.source not in sources:
            has = f"it has {', '.join(sources)}" if sources else "it has none"
            raise KdError(f"{who}: its term '{name}' names the source '{term.source}', and {has}")
    for kind, components in (("source", sources), ("term", {name: term.loss for name, term in terms.items()})):
        for name, component in components.items():
            if not callable(component):
                raise KdError(f"{who}: its {kind} '{name}' must be a class, a function or something callable, not {component!r}")


def _check_needs(recipe: Recipe, has_teacher: bool, hard_labels: bool) -> None:
    schedule_gives = getattr(opt.target_of(recipe.method.schedule), "provides", ())
    for place, component in recipe.components().items():
        what = declared(component)
        label = recipe.labels[place]
        check_needs(label, what, has_teacher or "teacher" in schedule_gives, hard_labels, recipe.brought(place))
        if least_exits(what) > 1 and recipe.method.exits is None and place != "exits":
            raise Refused(
                f"{label} needs at least {least_exits(what)} exits, and this run has one: add --exits linear{recipe.brought(place)}"
            )


def check_needs(label: str, what: Iterable[str], has_teacher: bool, hard_labels: bool, brought: str = "") -> None:
    """Needs that kdcore knows, and a teacher and hard labels where they are needed. has_teacher: one is given, or the schedule brings its own.
    brought: `Recipe.brought`."""
    if unknown := unknown_needs(what):
        raise KdError(f"{label} declares a need that kdcore does not know: {', '.join(unknown)}")
    if "teacher" in what and not has_teacher:
        raise Refused(f"{label} needs a teacher: {GIVE_TEACHER}{brought}")
    if "hard_labels" in what and not hard_labels:
        raise Refused(f"{label} needs hard labels, and mixup or cutmix makes soft ones: add --mixup 0 --cutmix 0, or leave this part out")

"""Composition: a recipe, a backbone and perhaps a teacher become networks and components that were run once, and tasks for each phase."""

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from inspect import isclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from kdcore import checks
from kdcore.context import Shapes
from kdcore.errors import KdError, Refused
from kdcore.exits import attached
from kdcore.idle import Rehearsed, asks_for_a_teacher
from kdcore.methods import Method, declared, exit_indices, settle
from kdcore.objective import Bound, BoundTerm, Objective, backbone_within, part_key, takes_views
from kdcore.options import target_of
from kdcore.phases import Phase, Where
from kdcore.plugins import Plugins
from kdcore.recipes import GIVE_TEACHER, Recipe, check_needs, resolve
from kdcore.rehearsal import dry_batch, dry_images, rehearsed_result, run_once
from kdcore.renewal import first_tensors, renew
from kdcore.seeds import seeded
from kdcore.students import Students
from kdcore.tapped import Tapped, TapSpec, copied, dry
from kdcore.task import Adapted, DistillationTask, Teacher
from kdcore.walk import Walk

Norm = tuple[tuple[float, ...], tuple[float, ...]]

NEW = ("pretrained", "fresh")
"""Starts of a phase that trains a new student."""

FREEZE_ADVICE = "; --freeze keeps the backbone as it is: add --exits linear, and terms that reach them (--method deep-supervision)"


class Composition:
    """Everything of a run that computes. `task(phase)` is what trains; `student` is what comes out; `modules()` is what is saved."""

    def __init__(
        self, recipe: Recipe, students: Students, teacher: nn.Module | None, teacher_options: Mapping[str, Any], freeze: bool = False
    ) -> None:
        self.recipe = recipe
        self.freeze = freeze
        self.context = context = students.context
        self.teacher_options = dict(teacher_options)
        self._students = students
        self.head_drawn = students.head_drawn
        self.student: nn.Module = students.first()
        self.device = next(self.student.parameters()).device
        checks.check_student(self.student, dry_images(context, self.device), context.num_classes, recipe)
        context.student = self.student
        context.student_shapes = self._shapes(self.student)
        self.given_teacher = self._with_exits(teacher) if teacher is not None else None
        if self.given_teacher is not None:
            context.teacher_shapes = self._shapes(self.given_teacher)
        method = recipe.method
        self._own: dict[int, Any] = {}
        for place, component in recipe.components().items():
            if place in ("exits", "schedule"):  # those of terms and sources are counted in every phase
                checks.check_exits(recipe.labels[place], declared(component), context.student_shapes, None, recipe.brought(place))
        self.sources = {name: self._bind("source", name, source) for name, source in method.sources.items()}
        self.terms = [
            BoundTerm(**vars(self._bind("term", name, term.loss)), source=term.source, weight=term.weight, exits=term.exits)
            for name, term in method.terms.items()
        ]
        self.initial: dict[str, Tensor] | None = None
        """The run's initial weights, where a phase starts from them."""
        self.trained_exits: set[int] | None = set()
        """Positions, from 0, of the exits that some term sees in some phase; None where a term sees what is no exit."""
        self.notes: list[str] = []
        """What is worth saying of parts that do nothing."""
        self.phases = self._rehearse()
        if any(phase.start == "pretrained" for phase in self.phases):
            self.initial = {name: tensor.detach().clone() for name, tensor in self.student.state_dict().items()}
        self.first_components: dict[str, Tensor] = {}
        """Losses and sources as they were drawn, where a later phase begins with a new student, and so with new ones."""
        if any(phase.start in NEW for phase in self.phases[1:]) and self.device.type != "meta":
            self.first_components = first_tensors(self._components())

    # -- building -----------------------------------------------------------------------------------------------------

    def _bind(self, kind: str, name: str, component: Any) -> Bound:
        """Builds a component under its own random numbers; functions and instances are taken as they are."""
        label = self.recipe.labels[f"{kind} {name}"]
        run = component
        with seeded(self.context.seed, kind, name):
            if isclass(component) or (isinstance(component, partial) and isclass(component.func)):
                run = checks.guarded(label, component)
            if isinstance(run, nn.Module):
                run.to(self.device)
            if hasattr(run, "setup"):
                if run is component and dataclasses.is_dataclass(run) and not isinstance(run, nn.Module):
                    run = self._own.setdefault(id(component), copy.copy(run))  # what it finds out is this run's, not the method's
                checks.guarded(label, run.setup, self.context)
            if isinstance(run, nn.Module):
                run.to(self.device)
        brings = getattr(target_of(self.recipe.method.schedule), "provides", ())
        has_teacher = self.given_teacher is not None or "teacher" in brings
        brought = self.recipe.brought(f"{kind} {name}")
        check_needs(label, declared(run), has_teacher, not self.context.soft_labels, brought)  # an option may have decided them
        return Bound(name, run, label, takes_views(run))

    def _with_exits(self, teacher: nn.Module) -> Adapted:
        """The given teacher with the method's teacher exits, taking the student's images."""
        size = self.teacher_options.get("image_size") or self.context.image_size
        taps = self.context.taps if self.context.taps in ("stages", "quarters") else None  # numbers and names are the student's own
        model = teacher if not hasattr(teacher, "forward_intermediates") else Tapped(teacher, taps, size)
        exits = self.recipe.method.teacher_exits
        if exits is not None and isinstance(model, Tapped):  # a teacher that has exits already keeps them
            with seeded(self.context.seed, "teacher exits"):
                model = attached(exits, self.recipe.labels["teacher exits"], model.to(self.device), self.context)
            self.context.teacher_exits_new = True
        own = {**self.teacher_options, "image_size": size if size != self.context.image_size else None}
        return Adapted(model, **own).to(self.device)

    def _shapes(self, model: nn.Module) -> Shapes:
        with dry(model), torch.no_grad():
            outputs = model(dry_images(self.context, self.device))
        return Shapes(
            [tuple(t.shape[1:]) for t in outputs.logits],
            [tuple(t.shape[1:]) for t in outputs.embeddings],
            [tuple(t.shape[1:]) for t in outputs.maps],
            {name: tuple(t.shape[1:]) for name, t in outputs.extras.items()},
        )

    # -- phases -------------------------------------------------------------------------------------------------------

    def schedule(self) -> Walk:
        """A fresh walk through the schedule's phases."""
        schedule = self.recipe.method.schedule
        assert schedule is not None  # resolving a recipe settles it
        label = self.recipe.labels["schedule"]
        return Walk(checks.guarded(label, schedule, self.context), label, self._frozen if self.freeze else None)

    def _frozen(self, phase: Phase) -> Phase:
        """The phase without the student's backbone among what trains: what is not trained stays in eval mode, its statistics too."""
        return dataclasses.replace(phase, trains=tuple(group for group in phase.trains if group != "student"))

    def _rehearse(self) -> list[Phase]:
        """Walks the schedule with results that always improve, and runs each phase once, forward and backward."""
        phases: list[Phase] = []
        seen = Rehearsed()
        walk = self.schedule()
        phase = walk.next()
        while phase is not None and len(phases) < 64:
            phases.append(phase)
            task = self.task(phase, rehearsal=True)
            seen.add(phase, task)
            self._count_exits(task, phase)
            phase = walk.next(rehearsed_result(phase, len(phases), self._shapes_in(phase), self.context))
        if not phases:
            raise KdError(f"{walk.label} yields no phase")
        if len(phases) > 1:
            self.task(phases[0], rehearsal=True)  # what is free and what is frozen, as the first begins
        self.notes = seen.notes(self.recipe, self.sources, self.terms, self._could_read_a_teacher)
        return phases

    def _count_exits(self, task: DistillationTask, phase: Phase) -> None:
        for term in task.objective.terms if phase.model == "student" else ():
            seen = exit_indices(term.exits, self.context.student_shapes.exits)
            self.trained_exits = None if seen is None or self.trained_exits is None else self.trained_exits | set(seen)

    @property
    def uses_teacher(self) -> bool:
        """Whether a part declares that it needs a teacher, or a phase trains it or asks for it."""
        phases = any(phase.model == "teacher" or phase.teacher == "given" for phase in self.phases)
        return phases or self.recipe.method.teacher_exits is not None or self._could_read_a_teacher

    @property
    def _could_read_a_teacher(self) -> bool:
        """Whether a part declares that it needs one, or a weight asks whether there is one."""
        parts = [bound.run for bound in [*self.sources.values(), *self.terms]] + list(self.recipe.components().values())
        return any(asks_for_a_teacher(term.weight) for term in self.terms) or any("teacher" in declared(part) for part in parts)

    def _shapes_in(self, phase: Phase) -> Shapes:
        """Those of the network whose outputs the phase's terms see."""
        shapes = self.context.student_shapes if phase.model == "student" else self.context.teacher_shapes
        assert shapes is not None  # a phase that trains a missing teacher is refused before
        return shapes

    def task(self, phase: Phase | None = None, *, teacher: nn.Module | None = None, rehearsal: bool = False) -> DistillationTask:
        """The task of one phase: the active terms, what trains set free, all else frozen, after one dry forward and backward.

        teacher: the network of a result, where `phase.teacher` names one.
        """
        phase = phase or self.phases[0]
        model = self.student
        frozen: nn.Module | None = None
        if phase.model == "teacher":
            if self.given_teacher is None:
                raise Refused(f"phase '{phase.name}' trains a teacher: {GIVE_TEACHER}")
            model = self.given_teacher
        elif phase.teacher in ("auto", "given"):
            frozen = self.given_teacher
            if frozen is None and phase.teacher == "given":
                raise Refused(f"phase '{phase.name}' needs a teacher: {GIVE_TEACHER}")
        elif phase.teacher is not None:
            frozen = copied(self.student) if rehearsal else teacher
        wrapped = None if frozen is None else Teacher(frozen).to(self.device)
        terms = self._active(phase, wrapped is not None)
        sources = {name: source for name, source in self.sources.items() if any(term.source == name for term in terms)}
        shapes = self._shapes_in(phase)
        for kind, bound in [*(("source", source) for source in sources.values()), *(("term", term) for term in terms)]:
            checks.check_exits(bound.label, declared(bound.run), shapes, phase, self.recipe.brought(f"{kind} {bound.name}"))
        for term in terms:
            checks.check_term(term, shapes, phase, self.recipe.brought(f"term {term.name}"))
        if phase.up_to is not None:
            terms = checks.checked_up_to(terms, shapes, phase)
            sources = {name: source for name, source in sources.items() if any(term.source == name for term in terms)}
        objective = Objective(model, sources, terms, shapes.exits).to(self.device)
        index_users = [self.recipe.labels[f"{kind} {b.name}"] for kind, b in objective._bounds() if "index" in declared(b.run)]
        task = DistillationTask(
            objective,
            wrapped,
            phase=phase,
            views=self.recipe.method.views,
            needs_index=index_users[0] if index_users else None,
            device=self.device,
        )
        advice = FREEZE_ADVICE if self.freeze and phase.model == "student" else ""
        run_once(task, dry_batch(self.context, self.device), self.context.seed, [self.student, self.given_teacher], advice)
        return task

    def _active(self, phase: Phase, has_teacher: bool) -> list[BoundTerm]:
        """The phase's terms: those named (all by default) whose source exists, with weights that are not a constant 0."""
        names = {term.name for term in self.terms} if phase.terms is None else set(phase.terms)
        if unknown := names - {term.name for term in self.terms}:
            raise Refused(
                f"phase '{phase.name}' of {self.recipe.labels['schedule']} names terms that the method lacks: {', '.join(sorted(unknown))}"
            )
        active = []
        for term in self.terms:
            source = self.sources.get(term.source) if term.source else None
            wants_teacher = "teacher" in declared(term.run) or (source is not None and "teacher" in declared(source.run))
            if term.name not in names or (wants_teacher and not has_teacher):
                continue
            weight = phase.terms[term.name] if isinstance(phase.terms, Mapping) else term.weight
            weight = settle(weight, lambda: Where(generation=phase.generation, phase=phase.name, has_teacher=has_teacher))
            if callable(weight) or weight != 0:
                active.append(dataclasses.replace(term, weight=weight))
        if not active:
            raise Refused(f"phase '{phase.name}' has no active term: every weight is 0, or every source is missing")
        return active

    # -- starting a phase, saving -------------------------------------------------------------------------------------

    def start(self, phase: Phase) -> None:
        """Puts the student where the phase starts: as it stands, at the run's initial weights, or drawn anew by the phase's name.

        With a new student, losses and sources are new as well: as they were drawn when the run was composed.
        """
        if phase.start in NEW:
            renew(self._components(), self.first_components)
        if phase.start == "pretrained":
            assert self.initial is not None
            self.student.load_state_dict(self.initial)
        elif phase.start == "fresh":
            drawn = self._students.fresh(phase.name).state_dict()
            if self.freeze:  # its exits alone are drawn anew
                backbone = backbone_within(self.student)[1]
                drawn = {name: tensor for name, tensor in drawn.items() if not name.startswith(backbone)}
            self.student.load_state_dict(drawn, strict=not self.freeze)

    def modules(self) -> nn.ModuleDict:
        """Everything that a checkpoint holds: the student, components that are modules, and a teacher that the method trains."""
        held = nn.ModuleDict({"student": self.student})
        if self.given_teacher is not None and any(phase.model == "teacher" for phase in self.phases):
            held["teacher"] = self.given_teacher
        held.update(self._components())
        return held

    def _components(self) -> dict[str, nn.Module]:
        """Sources and losses that are modules, by `part_key`; without those that never took shape."""
        bounds = [("source", b) for b in self.sources.values()] + [("term", b) for b in self.terms]
        modules = {part_key(kind, bound.name): bound.run for kind, bound in bounds if isinstance(bound.run, nn.Module)}
        return {key: module for key, module in modules.items() if not any(map(is_lazy, module.parameters()))}


def compose(
    backbone: str | nn.Module,
    method: str | Method | Recipe = "deep-supervision",
    *,
    num_classes: int | None = None,
    options: Mapping[str, Any] | None = None,
    exits: str | None = None,
    soft_targets: str | None = None,
    losses: Sequence[str] = (),
    schedule: str | None = None,
    teacher: nn.Module | None = None,
    teacher_norm: Norm | None = None,
    student_norm: Norm | None = None,
    teacher_size: tuple[int, int] | None = None,
    taps: TapSpec = None,
    image_size: tuple[int, int] | int | None = None,
    in_chans: int = 3,
    seed: int = 0,
    device: torch.device | str = "cpu",
    pretrained: bool = False,
    init: Mapping[str, Tensor] | None = None,
    plugins: Plugins | None = None,
    backbone_options: Mapping[str, Any] | None = None,
    freeze: bool = False,
    grad_checkpointing: bool = False,
    labels: Tensor | None = None,
    **facts: Any,
) -> Composition:
    """Composes a run in Python: `compose("resnet18", "byot", num_classes=10).task()` is a timm training task.

    backbone: a timm name, or a model that will be trained itself. method: a name, a `Method`, or a recipe that is already resolved.
    teacher: a timm model or a multi-exit one, frozen here; its (mean, std) and size, where they differ from the student's, let the core
    adapt its input. freeze: only exits and losses train, in every phase. facts: epochs, batch_size, steps_per_epoch, num_samples, has_dev,
    soft_labels, for components that ask. Raises KdError in one line where parts do not fit.
    """
    recipe = method
    if not isinstance(recipe, Recipe):
        recipe = resolve(
            recipe,
            options,
            plugins=plugins,
            exits=exits,
            soft_targets=soft_targets,
            losses=losses,
            schedule=schedule,
            has_teacher=teacher is not None,
            hard_labels=not facts.get("soft_labels", False),
        )
    students = Students(
        recipe,
        backbone,
        num_classes=num_classes,
        in_chans=in_chans,
        image_size=image_size,
        taps=taps,
        seed=seed,
        device=device,
        pretrained=pretrained,
        init=init,
        backbone_options=backbone_options,
        grad_checkpointing=grad_checkpointing,
        labels=labels,
        **facts,
    )
    return Composition(
        recipe, students, teacher, {"student_norm": student_norm, "own_norm": teacher_norm, "image_size": teacher_size}, freeze
    )

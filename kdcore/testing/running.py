"""Checks of whatever stands in a run: a loss, soft targets, exits, a schedule, a method, a backbone."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, ClassVar

import pytest

from kdcore.composition import Composition
from kdcore.errors import KdError
from kdcore.options import target_of
from kdcore.plugins import Plugins
from kdcore.recipes import Recipe
from kdcore.testing import scene
from kdcore.testing.base import fail, said
from kdcore.testing.options import OptionChecks, ready

KINDS = tuple(scene.BACKBONES)


class RunChecks(OptionChecks):
    """`method`: what to run the component in (default: a plain one). `exits`: what stands in place of the method's. `teacher`: give the
    run one, though no part says that it needs it."""

    method: ClassVar[str | None] = None
    exits: ClassVar[str | None] = None
    teacher: ClassVar[bool] = False
    _fault: ClassVar[str | None]

    @classmethod
    def resolved(cls, plugins: Plugins, has_teacher: bool) -> Recipe:
        """The recipe of a run with the component in it; each family says how."""
        raise NotImplementedError

    @classmethod
    def own_terms(cls, recipe: Recipe) -> list[str]:
        """The terms that the component has a part in: its own, those of its soft targets, else all."""
        name = cls.part().name
        places = [place for place, part in recipe.parts.items() if part.name == name and part.family == cls.family]
        kind, _, found = places[0].partition(" ") if places else ("", "", "")
        terms = recipe.method.terms
        if kind == "term":
            return [place.partition(" ")[2] for place in places]
        if kind == "source":
            return [term for term, its in terms.items() if its.source == found]
        return list(terms)

    @classmethod
    def limits(cls) -> dict[str, str]:
        """Its own, and those of the parts that it is run with: a method cannot do what one of its parts cannot."""
        found: dict[str, str] = {}
        with suppress(Exception):  # another check says why there is no recipe
            for component in cls.resolved(cls.plugins(), True).components().values():
                own = getattr(target_of(component), "cannot", {})
                found |= own if isinstance(own, Mapping) else {}
        return {**found, **super().limits()}

    @classmethod
    def home(cls) -> str:
        """The backbone of all checks but one: the first that is not declared out of reach."""
        return next((kind for kind in KINDS if kind not in cls.limits()), KINDS[0])

    @classmethod
    def composed(cls, kind: str | None = None, *, plugins: Plugins | None = None, **more: Any) -> Composition:
        """A run with the component. Raises KdError where the core refuses it."""
        known = plugins or cls.plugins()
        return scene.compose(lambda taught: cls.resolved(known, taught), kind or cls.home(), teacher=cls.teacher, **more)

    @classmethod
    def fault(cls) -> str | None:
        """Why it does not build on its first backbone, found out once; None where it does."""
        if "_fault" not in vars(cls):
            cls._fault = None
            try:
                with scene.one_thread():
                    cls.composed()
            except Exception as error:
                cls._fault = said(error)
        return cls._fault

    @classmethod
    def built(cls, **more: Any) -> Composition:
        """A run with the component, for checks of something else than building: they are skipped where it does not build."""
        ready(cls)
        if cls.fault() is not None:
            pytest.skip(f"it does not build: test_builds_on_every_backbone[{cls.home()}] says why")
        with scene.one_thread():
            return cls.composed(**more)

    @classmethod
    def tried(cls, options: dict[str, Any]) -> None:
        if cls.fault() is None:
            other: Any = type(cls.__name__, (cls,), {"options": {**cls.options, **options}})
            with scene.one_thread():
                other.composed()

    @pytest.mark.parametrize("kind", KINDS)
    def test_builds_on_every_backbone(self, kind: str) -> None:
        """It is composed, and trains a finite step, on a ResNet, a ViT, a ConvNeXt and a MobileNet."""
        ready(type(self))
        name, size = scene.BACKBONES[kind]
        if kind != self.home() and kind not in self.limits() and self.fault() is not None:
            pytest.skip(f"it does not build: test_builds_on_every_backbone[{self.home()}] says why")
        with self.advising(f"on {name} at {size} pixels; what it cannot do is declared: cannot = {{'{kind}': 'why'}}", kind):
            with scene.one_thread():
                answers = scene.trained(self.composed(kind), steps=1)
            if wrong := scene.not_finite(answers):
                raise KdError(f"{wrong} in the first step")

    def test_same_seed_same_numbers(self) -> None:
        """Two runs of one seed come to the same numbers, whatever else in the process drew random ones."""
        found, phases = [], []
        for number in (1, 2):
            with scene.world(number):
                composition = self.built()
                phases.append([phase.to_json() for phase in composition.phases])
                with self.advising(), scene.one_thread():
                    found.append(scene.trained(composition))
        differs = scene.first_difference(*found) if phases[0] == phases[1] else "in their phases"
        if differs:
            fail(
                f"{self.about()}: two runs of one seed differ ({differs}); draw random numbers with torch, when it is built or runs: Python's "
                "random and numpy's do not know the run's seed, nor does what is drawn when the module is imported"
            )

"""What all checks share: the component and its limits, failures that read like advice, and the rule that no check is dropped."""

import inspect
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import FunctionType
from typing import Any, ClassVar, NoReturn

import pytest

import kdcore
from kdcore.checks import where_of
from kdcore.errors import KdError, Refused, nearest
from kdcore.plugins import Part, Plugins
from kdcore.testing.waiting import Waits

LIMITS = {
    "resnet": "builds on a ResNet",
    "vit": "builds on a ViT",
    "convnext": "builds on a ConvNeXt",
    "mobilenet": "builds on a MobileNet",
    "two_classes": "two classes",
    "permutation": "the order of a batch",
    "sync": "no waiting for the device",
    "compile": "torch.compile in one graph",
    "ddp": "DistributedDataParallel",
    "paper": "a link to the paper",
}
"""What `cannot` may declare, with what each of them says."""

METHODS = (FunctionType, classmethod, staticmethod)

OUTCOMES = (pytest.fail.Exception, pytest.skip.Exception, pytest.xfail.Exception)


def one_line(text: object) -> str:
    return " ".join(str(text).split())


def fail(text: object) -> NoReturn:
    """Ends a check with a line of advice, without a traceback."""
    pytest.fail(one_line(text), pytrace=False)


def said(error: BaseException) -> str:
    """An exception as part of a line: what a KdError says, or the type, the message and the author's own line of code."""
    if isinstance(error, KdError):
        return one_line(error)
    if isinstance(error, Waits):
        return f"{error}{where_of(error)}"
    first = next(iter(str(error).strip().splitlines()), "no message")
    return f"{type(error).__name__}: {first}{where_of(error)}"


def refusal(error: Exception) -> bool:
    """Whether it says that a need is not met: a declared one, or one that a plugin's own code finds out and says in a KdError.

    What the core says of a part that gives nan, or no scalar, or fails, is none: the part is wrong, beside that method at least.
    """
    if isinstance(error, Refused):
        return True
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    core = Path(kdcore.__file__).parent
    return isinstance(error, KdError) and frame is not None and core not in Path(frame.tb_frame.f_code.co_filename).parents


@lru_cache(maxsize=8)
def _plugins(file: str | None, changed: int, path: tuple[str, ...]) -> Plugins:
    return Plugins([file] if file else [])


def plugins_with(file: str | None) -> Plugins:
    """What is installed, with a loose file. One object as long as the file stays as it is, so that its classes are the same in every check."""
    if file is None:
        return _plugins(None, 0, tuple(sys.path))
    path = Path(file).expanduser().resolve()
    return _plugins(str(path), path.stat().st_mtime_ns if path.is_file() else 0, tuple(sys.path))


class _AsksForReasons(type):
    """A mark over a whole class, which `test_nothing_is_dropped` cannot see since it is turned off too, needs a reason."""

    def __setattr__(cls, name: str, value: Any) -> None:
        if name == "pytestmark":  # what a decorator sets
            _ask_for_reasons(cls.__name__, value)
        super().__setattr__(name, value)


def _ask_for_reasons(who: str, marks: Any) -> None:
    """Raises TypeError for an xfail or a skip that gives none."""
    for entry in marks if isinstance(marks, list | tuple) else [marks]:
        mark: Any = getattr(entry, "mark", entry)  # a decorator holds one
        reason = mark.kwargs.get("reason") or (mark.args[0] if mark.name == "skip" and mark.args else "")
        if mark.name in ("xfail", "skip") and not str(reason).strip():
            raise TypeError(f'{who}: @pytest.mark.{mark.name} without a reason turns off every check; write {mark.name}(reason="...")')


class Kit(metaclass=_AsksForReasons):
    """The base of every class of checks.

    `file`: a loose file that brings the plugin, where it is not installed. `cannot`: declared limits, each with its reason; a component may
    declare them too, in an attribute of that name.
    """

    file: ClassVar[str | None] = None
    cannot: ClassVar[Mapping[str, str]] = {}

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        if "test_nothing_is_dropped" in vars(cls):
            raise TypeError(f"{cls.__name__} overrides test_nothing_is_dropped, which keeps the others; take it out")
        _ask_for_reasons(cls.__name__, vars(cls).get("pytestmark", []))
        _ask_for_reasons(cls.__module__, getattr(sys.modules.get(cls.__module__), "pytestmark", []))  # of the file, where it stands on top

    @classmethod
    def limits(cls) -> dict[str, str]:
        """The declared limits with their reasons."""
        return dict(cls.cannot)

    @classmethod
    def about(cls) -> str:
        """How advice names what is checked."""
        return cls.__name__

    def test_nothing_is_dropped(self) -> None:
        """No check of the kit is overridden or removed, but with an xfail that gives a reason, nor what the checks stand on; every declared
        limit is one, with a reason."""
        own = type(self)
        for name, original in sorted(_of_the_kit(own).items()):
            found = inspect.getattr_static(own, name, None)
            if found is original:
                continue
            if not name.startswith("test_"):
                fail(f"{own.__name__} overrides {name}(), on which checks of the kit stand: take that out, or call it otherwise")
            what = "sets it to None" if found is None else "overrides it"
            if not _excused(found):
                fail(
                    f"{own.__name__} drops the check {name} ({what}): take that out; what a component cannot do stands in `cannot` with a "
                    'reason, or put @pytest.mark.xfail(reason="...") on the method that overrides it'
                )
        for limit, reason in self.limits().items():
            if limit not in LIMITS:
                fail(f"{self.about()}: cannot has '{limit}', which is no limit{nearest(limit, LIMITS)}")
            if not str(reason).strip():
                fail(f"{self.about()}: cannot has '{limit}' without a reason; write cannot = {{'{limit}': 'why'}}")

    @contextmanager
    def advising(self, advice: str = "", limit: str | None = None, more: bool = False) -> Iterator[None]:
        """What is raised within becomes a failure of one line that ends with the advice; or the declared limit, which must hold.

        more: it may yet hold in what follows, as in a later phase.
        """
        declared = self.limits().get(limit) if limit else None
        try:
            yield
        except OUTCOMES as outcome:
            if declared is None or not isinstance(outcome, pytest.fail.Exception):
                raise
            pytest.xfail(declared)
        except Exception as error:
            if declared is not None:
                pytest.xfail(declared)
            line, who = said(error), self.about()
            fail(f"{line if who in line else f'{who}: {line}'}{f'; {advice}' if advice else ''}")
        if declared is not None and not more:
            fail(f"{self.about()}: cannot declares '{limit}' ({declared}), and it works; take it out of cannot")


def of_the_kit(base: type) -> bool:
    return base.__module__.startswith("kdcore.testing.")


def _of_the_kit(own: type) -> dict[str, Any]:
    """Every method of the kit that a class should have, by name: the checks and what they call."""
    named = {name: value for base in reversed(own.__mro__) if of_the_kit(base) for name, value in vars(base).items()}
    return {name: value for name, value in named.items() if not name.startswith("__") and isinstance(value, METHODS)}


def _excused(found: Any) -> bool:
    """Whether a method bears an xfail with a reason."""
    marks = getattr(found, "pytestmark", [])
    return any(mark.name == "xfail" and str(mark.kwargs.get("reason", "")).strip() for mark in marks)


class ComponentKit(Kit):
    """Checks of one component, by its full name. `options`: what to build it with, beside its defaults."""

    component: ClassVar[str] = ""
    options: ClassVar[Mapping[str, Any]] = {}
    family: ClassVar[str] = ""

    @classmethod
    def plugins(cls) -> Plugins:
        return plugins_with(cls.file)

    @classmethod
    def part(cls) -> Part:
        """The component. Raises KdError where there is none of this name."""
        if not cls.component:
            raise KdError(f'{cls.__name__} names no component; write component = "mine.gap"')
        return cls.plugins().part(cls.family, cls.component)

    @classmethod
    def part_options(cls) -> dict[str, Any]:
        """The options as a run of some method is given them: by the component's full name."""
        return {f"{cls.part().name}.{option}": value for option, value in cls.options.items()}

    @classmethod
    def limits(cls) -> dict[str, str]:
        try:
            own = getattr(cls.part().target, "cannot", {})
        except KdError:
            own = {}
        return {**(own if isinstance(own, Mapping) else {}), **cls.cannot}

    @classmethod
    def about(cls) -> str:
        try:
            return cls.part().label
        except KdError:
            return f"{cls.__name__} ({cls.component or 'no component'})"

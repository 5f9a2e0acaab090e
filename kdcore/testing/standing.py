"""Checks of what stands outside of a training step: metrics, analyses, loggers."""

import inspect
import math
import pickle
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from kdcore.analysis import HANDED
from kdcore.errors import KdError
from kdcore.options import options_of
from kdcore.plugins import Plugins
from kdcore.testing.base import ComponentKit, Kit, fail, one_line, plugins_with, said
from kdcore.testing.listening import loud
from kdcore.testing.options import OptionChecks, ready


class ReferenceChecks(ComponentKit):
    """What every function or class has to be."""

    def test_pickles(self) -> None:
        """It goes through pickle by its name, as to a worker process that is started afresh."""
        part = ready(type(self))
        try:
            if pickle.loads(pickle.dumps(part.target)) is not part.target:
                raise pickle.PicklingError("its name finds something else")
        except Exception as error:
            fail(f"{part.label}: it does not pickle: {one_line(error)}; define it at the top of a module, under the name that it has there")


class MetricTests(OptionChecks, ReferenceChecks):
    """A function of logits [N, K] and labels [N] that gives a number, or a mapping of numbers."""

    family = "metrics"

    def test_scalar_and_finite(self) -> None:
        """Numbers, or None and NaN where there is nothing to measure: for logits of +-60, two classes, one class, one sample."""
        ready(type(self))
        logits, labels = _answers(4)
        self._numbers(loud(logits), labels, "logits of +-60")
        self._numbers(logits, labels * 0, "samples of one class", undefined=True)
        self._numbers(logits[:1], labels[:1], "one sample", undefined=True)
        with self.advising("with two classes; what it cannot do is declared: cannot = {'two_classes': 'why'}", "two_classes"):
            self._numbers(*_answers(2), "two classes")

    def test_batch_permutation(self) -> None:
        """The order of the samples does not change it, and it leaves its arguments as they were."""
        ready(type(self))
        logits, labels = _answers(4)
        kept, order = (logits.clone(), labels.clone()), torch.arange(len(labels)).flip(0)
        with self.advising():
            one, other = self._measured(logits, labels), self._measured(logits[order], labels[order])
        if not torch.equal(logits, kept[0]) or not torch.equal(labels, kept[1]):
            fail(f"{self.about()}: it changes its arguments in place; work on a clone()")
        with self.advising("it must not ask where they stand; or declare cannot = {'permutation': 'why'}", "permutation"):
            for name in one | other:
                before, after = one.get(name), other.get(name)
                if (before is None) != (after is None) or not _close(before or 0.0, after or 0.0):
                    raise KdError(f"{name or 'it'} is {_shown(before)}, and {_shown(after)} when the samples change places")

    @classmethod
    def tried(cls, options: dict[str, Any]) -> None:
        type(cls.__name__, (cls,), {"options": {**cls.options, **options}})()._measured(*_answers(4))

    def _measured(self, logits: Tensor, labels: Tensor) -> dict[str, float | None]:
        """Every number that it gives; those in mappings and lists by their place, as `grade.2`."""
        return dict(_numbers_in(partial(self.part().target, **self.options)(logits, labels)))

    def _numbers(self, logits: Tensor, labels: Tensor, what: str, undefined: bool = False) -> None:
        with self.advising(f"for {what}"):
            values = self._measured(logits, labels)
        wrong = [name for name, value in values.items() if value is not None and not math.isfinite(value)]
        if wrong and not undefined:
            fail(f"{self.about()}: {wrong[0] or 'it'} is {values[wrong[0]]} for {what}; a report holds finite numbers, or None")


def _numbers_in(value: Any, name: str = "") -> Iterator[tuple[str, float | None]]:
    """What JSON can hold of numbers: one, or mappings and lists of them."""
    if hasattr(value, "tolist"):  # of a tensor or an array
        value = value.tolist()
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _numbers_in(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        for place, number in [found for key, item in enumerate(value) for found in _numbers_in(item, f"{name}.{key}")]:
            yield place, None if number is None or not math.isfinite(number) else number  # nothing fell into that bin, say
    elif value is None or isinstance(value, int | float):
        yield name, None if value is None else float(value)
    else:
        what = type(value).__name__
        raise KdError(
            f"it gives {what}{f' as {name}' if name else ''}; a metric gives a number, or a mapping of names to numbers, lists or mappings"
        )


def _shown(number: float | None) -> str:
    return "None" if number is None else f"{number:.6g}"


def _close(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=1e-4, abs_tol=1e-6) or (math.isnan(one) and math.isnan(other))


def _answers(classes: int) -> tuple[Tensor, Tensor]:
    drawn = torch.Generator().manual_seed(0)
    return torch.randn(24, classes, generator=drawn), torch.arange(24) % classes


class AnalysisTests(OptionChecks, ReferenceChecks):
    """A function of finished runs: `(run, *, options) -> kdcore.Analysis`. What it finds in a run is its own test's to say."""

    family = "analyses"

    def test_asks_for_runs(self) -> None:
        """Its parameters before the options are those that the core gives."""
        part = ready(type(self))
        own = options_of(part.target)
        names = [name for name in inspect.signature(part.target).parameters if name not in own][1:]
        if unknown := [name for name in names if name not in HANDED]:
            fail(f"{part.label} asks for '{unknown[0]}', and analyses are handed {', '.join(HANDED)}; put options after a star")


class LoggerTests(Kit):
    """`plugin`: the logger's name, as `-p` takes it; or `file`. A run of two epochs on random images is logged."""

    plugin: ClassVar[str] = ""

    @classmethod
    def about(cls) -> str:
        return f"plugin '{cls.plugin or cls.file}'"

    def test_events(self) -> None:
        """Every event of a run reaches it, and none raises."""
        from kdcore.hookspecs import EVENTS

        known, name = self._known()
        hooks = [event for event in EVENTS if any(impl.plugin_name == name for impl in getattr(known.manager.hook, event).get_hookimpls())]
        if not hooks:
            fail(f"{self.about()} has no event hook; write @kdcore.hookimpl over a function called {', '.join(EVENTS)}")
        said_aloud = self._trained(True)[1]
        if wrong := [line for line in said_aloud if f"plugin '{name}'" in line]:
            fail(f"{self.about()}: {wrong[0]}; a logger takes a run as it is")

    def test_another_plugin_changes_nothing(self) -> None:
        """A run with it comes to the numbers of a run without."""
        self._known()
        (with_it, _), (without, _) = self._trained(True), self._trained(False)
        if with_it != without:
            fail(
                f"{self.about()}: a run comes to other numbers with it; it only reads what it is given, and draws no random numbers of torch"
            )

    def _known(self) -> tuple[Plugins, str]:
        from pathlib import Path

        name = self.plugin or Path(self.file or "").stem
        try:
            known = plugins_with(self.file)
            known.add(self.file or self.plugin)
        except KdError as error:
            fail(error)
        return known, name

    def _trained(self, logged: bool) -> tuple[Any, list[str]]:
        """What a small run came to, and the lines that it said."""
        import tempfile
        from pathlib import Path

        import numpy as np

        import kdcore
        from kdcore.testing.scene import one_thread

        lines: list[str] = []
        with tempfile.TemporaryDirectory() as folder, one_thread():
            drawn = np.random.default_rng(0)
            arrays: dict[str, Any] = {}
            for split in ("train", "val", "test"):
                arrays[f"{split}_images"] = drawn.integers(0, 256, (32, 16, 16), dtype=np.uint8)
                arrays[f"{split}_labels"] = np.arange(32)[:, None] % 4
            np.savez(Path(folder) / "few.npz", **arrays)
            settings = {"data": str(Path(folder) / "few.npz"), "epochs": 2, "batch_size": 16, "device": "cpu", "amp": "none", "lr": 0.02}
            settings |= {"drop": 0.1, "log_interval": 1}  # every other step draws numbers after a logger may have taken some
            own = {"plugin": [self.file or self.plugin]} if logged else {}
            try:
                with pytest.MonkeyPatch.context() as patched:
                    patched.setattr("kdcore.events.Events.fire", _overheard(lines))
                    done = kdcore.train(
                        "test_resnet_32px", method="plain", run=str(Path(folder) / "run"), channels_last=False, **settings, **own
                    )
            except KdError as error:
                fail(f"{self.about()}: {said(error)}")
            return [{**record, "minutes": 0} for record in done.run.metrics()], lines


def _overheard(lines: list[str]) -> Any:
    """`Events.fire` that keeps what is reported."""
    from kdcore.events import Events

    plain = Events.fire

    def fire(self: Events, event: str, **facts: Any) -> None:
        report, self.report = self.report, lines.append
        try:
            plain(self, event, **facts)
        finally:
            self.report = report

    return fire

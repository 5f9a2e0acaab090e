"""Checks of what machines ask for: no waiting in a step, one graph, DistributedDataParallel, pickles, and a student that timm knows."""

import pickle
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import timm
import torch
from torch import Tensor

from kdcore.errors import KdError
from kdcore.options import target_of
from kdcore.tapped import copied
from kdcore.testing import scene
from kdcore.testing.base import fail, one_line, said
from kdcore.testing.running import RunChecks
from kdcore.testing.waiting import no_waiting


class MachineChecks(RunChecks):
    def test_no_synchronisation(self) -> None:
        """A step waits for no value of the device: no `.item()`, no `if tensor`, no boolean mask."""
        for number, device in enumerate(found := devices(), start=1):
            self._waits_for_nothing(device, last=number == len(found))

    def _waits_for_nothing(self, device: str, last: bool) -> None:
        composition = self.built(device=device)
        advice = "keep it on the device: torch.where for `if`, a sum with a mask for x[mask]; or declare cannot = {'sync': 'why'}"
        phases = scene.phases(composition)
        for phase in phases:
            with scene.one_thread():
                with self.advising():
                    task, optimizer = scene.started(composition, phase)
                    scene.take_step(task, optimizer, _on(device, scene.batch(composition)), 0)
                    given = _on(device, scene.batch(composition, 1))
                more = phase is not phases[-1] or not last
                with self.advising(advice, "sync", more), no_waiting(cuda=device == "cuda"):
                    answer = task(*given)
                    answer["loss"].backward()
                    task.after_step()

    def test_compiles(self) -> None:
        """torch.compile takes it in one graph (aot_eager), which comes to the numbers of eager mode and serves every later step."""
        eager, compiled = self.built(), self.built()
        advice = "write it with tensor operations alone; or declare cannot = {'compile': 'why'}"
        phases = scene.phases(eager)
        for phase in phases:
            with scene.one_thread():
                before = copied(eager.student)
                with self.advising():
                    task, optimizer = scene.started(eager, phase, before=before)
                    wanted = [scene.take_step(task, optimizer, scene.batch(eager, step), step) for step in range(3)]
                    task, optimizer = scene.started(compiled, phase, before=before)
                with self.advising(advice, "compile", more=phase is not phases[-1]), _fresh_compiler():
                    try:
                        task.compile(backend="aot_eager")
                        found = [scene.take_step(task, optimizer, scene.batch(compiled, 0), 0)]
                        with torch._dynamo.config.patch(error_on_recompile=True):
                            found += [scene.take_step(task, optimizer, scene.batch(compiled, step), step) for step in (1, 2)]
                    except KdError:
                        raise
                    except Exception as error:
                        raise KdError(f"does not compile in one graph: {_from_the_compiler(error)}") from error
                    if differs := _apart(wanted, found):
                        raise KdError(f"the compiled graph comes to other numbers: {differs}")

    def test_ddp(self) -> None:
        """DistributedDataParallel finds every parameter that trains in every step, in one of a single class too."""
        composition = self.built()
        advice = "let every parameter take part in every step (multiply by 0 where it does not count); or declare cannot = {'ddp': 'why'}"
        phases = scene.phases(composition)
        for phase in phases:
            with scene.one_thread(), _one_process():
                with self.advising():
                    task, optimizer = scene.started(composition, phase)
                with self.advising(advice, "ddp", more=phase is not phases[-1]):
                    task.prepare_distributed()
                    for step in range(4):
                        images, labels, index = scene.batch(composition, step)
                        try:
                            scene.take_step(task, optimizer, (images, labels * (step != 1), index), step)
                        except RuntimeError as error:
                            if "finished reduction" not in str(error):
                                raise
                            raise KdError("a parameter that trains had no part in a step of a single class, or in one before it") from error

    def test_pickles(self) -> None:
        """Components and the student go through pickle, as to a worker process that is started afresh."""
        composition = self.built()
        method = composition.recipe.method
        built = [bound.run for bound in [*composition.sources.values(), *composition.terms]]
        held = [*composition.recipe.components().values(), *(term.weight for term in method.terms.values()), method.views]
        for component in [target_of(self.part().target), *held, *built, copied(composition.student)]:
            try:
                pickle.loads(pickle.dumps(component))
            except Exception as error:
                fail(
                    f"{self.about()}: it does not pickle: {one_line(error)}; define classes and functions at the top of a module, and keep "
                    "no lambda, generator or open file in an attribute"
                )

    def test_stripped_student_is_timm(self) -> None:
        """The trained student without its exits is the plain timm model, in names and in answers; each exit alone answers as it did."""
        composition = self.built()
        with self.advising(), scene.one_thread():
            scene.trained(composition, steps=1)
            student = composition.student.eval()
            images = scene.batch(composition)[0]
            with torch.no_grad():
                logits = student(images).logits
                plain = student.strip(-1).eval()
                wanted = self.plain_network(composition)
                if missing := wanted.state_dict().keys() ^ plain.state_dict().keys():
                    fail(f"{self.about()}: the stripped student is not timm's: '{sorted(missing)[0]}' is in one of them only; see strip()")
                wanted.load_state_dict(plain.state_dict())
                for what, answer in (("the stripped student", plain(images)), ("timm's own", wanted.eval()(images))):
                    if not torch.allclose(answer, logits[-1], rtol=1e-4, atol=1e-5):
                        fail(
                            f"{self.about()}: {what} answers otherwise than the deepest exit; strip(-1) must compute what forward computes"
                        )
                for number in range(1, len(logits)):
                    alone = student.strip(number).eval()(images)
                    if alone.shape != logits[number - 1].shape or not torch.allclose(alone, logits[number - 1], rtol=1e-4, atol=1e-5):
                        fail(
                            f"{self.about()}: strip({number}) answers otherwise than exit {number}; strip(exit) counts from 1, shallow to deep"
                        )

    @classmethod
    def plain_network(cls, composition: Any) -> torch.nn.Module:
        name, size = scene.BACKBONES[cls.home()]
        sized: dict[str, Any] = {"img_size": size} if "vit" in name else {}
        return timm.create_model(name, num_classes=composition.context.num_classes, **sized)


def devices() -> list[str]:
    """Where a step is looked at: on a CPU, where waiting has to be recognised, and on a GPU where there is one, which knows."""
    return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def _on(device: str, given: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    images, labels, index = given
    return images.to(device), labels.to(device), index.to(device)


@contextmanager
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    try:
        yield
    finally:
        torch._dynamo.reset()


def _from_the_compiler(error: Exception) -> str:
    """What dynamo did not take, with the author's line of code where it names one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    places = re.findall(r'File "([^"]+)", line (\d+)', str(error))
    where = f" ({places[-1][0].rpartition('/')[2]}:{places[-1][1]})" if places else ""
    return f"{lines[0] if lines else type(error).__name__}{where}" if where else said(error)


def _apart(wanted: list[dict[str, torch.Tensor]], found: list[dict[str, torch.Tensor]]) -> str | None:
    for step, (one, other) in enumerate(zip(wanted, found, strict=True), start=1):
        for name in one:
            if not torch.allclose(one[name], other[name], rtol=1e-3, atol=1e-4):
                return f"{name} is {float(other[name]):.6g} in place of {float(one[name]):.6g} in step {step}"
    return None


@contextmanager
def _one_process() -> Iterator[None]:
    """A group of one process, of which DDP asks what it asks of many."""
    import torch.distributed as dist

    if dist.is_initialized():
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        try:
            yield
        finally:
            dist.destroy_process_group()

"""Five throw-away plugins, each the skeleton of a method that stretches the contract: a table of probe x check.

Run as a script (`python test_probes.py FOLDER`), it is the two gloo processes of `test_two_processes`.
"""

import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import kdcore
from kdcore import Phase, compose
from kdcore.backbones import create_backbone
from kdcore.checkpoints import load_tensors, restore, save_tensors, state_of
from kdcore.composition import Composition
from kdcore.config import Config
from kdcore.optimisation import create_optimizer
from kdcore.optimizer_state import optimizer_tensors, restore_optimizer
from kdcore.plugins import Plugins
from kdcore.seeds import seeded
from kdcore.task import DistillationTask
from kdcore.training import Watch

HERE = Path(__file__).parent
BACKBONE, CLASSES, SIZE, SAMPLES, BATCH = "test_resnet_32px", 4, 16, 48, 16


@dataclasses.dataclass(frozen=True)
class Probe:
    """One plugin. `phases`: by name, what trains in it, as beginnings of the objective's parameter names (nothing else may).
    `exits`: the numbers of those that have the data's classes. `shallow_classes`: how many exit 1 has."""

    phases: dict[str, tuple[str, ...]]
    exits: tuple[int, ...]
    teacher: bool = False
    shallow_classes: int = CLASSES


LOWER_HALF = ("model.net.conv1", "model.net.bn1", "model.net.layer1", "model.net.layer2")
PROBES = {
    "probe_crd": Probe({"main": ("model.", "parts.term:contrast")}, exits=(1,), teacher=True),
    "probe_hsakd": Probe(
        {"teacher-exits": ("model.model.branches",), "student": ("model.",)}, exits=(4,), teacher=True, shallow_classes=4 * CLASSES
    ),
    "probe_one": Probe({"main": ("model.",)}, exits=(1, 2)),
    "probe_dml": Probe({"main": ("model.",)}, exits=(1, 2)),
    "probe_fitnet": Probe({"hint": (*LOWER_HALF, "parts.term:hint"), "kd": ("model.",)}, exits=(1,), teacher=True),
}
every_probe = pytest.mark.parametrize("name", PROBES)


# -- what the checks share ------------------------------------------------------------------------------------------------


def composed(name: str, backbone: str = BACKBONE, size: int = SIZE, **more: Any) -> Composition:
    """A probe as a user brings it, a loose file, on a tiny backbone; where it wants a teacher, one that is drawn at random."""
    teacher = None
    if PROBES[name].teacher:
        with seeded("teacher"):
            own_size = {"img_size": size} if "vit" in backbone else {}
            teacher = create_backbone(backbone, num_classes=CLASSES, **own_size)
    plugins = Plugins([str(HERE / f"{name}.py")])
    return compose(backbone, name, num_classes=CLASSES, teacher=teacher, image_size=size, plugins=plugins, num_samples=SAMPLES, **more)


def samples() -> tuple[Tensor, Tensor]:
    """Images that can be learnt: each class has a pattern, each sample its noise."""
    with seeded("samples"):
        labels = torch.arange(SAMPLES) % CLASSES
        return torch.randn(CLASSES, 3, SIZE, SIZE)[labels] + 0.5 * torch.randn(SAMPLES, 3, SIZE, SIZE), labels


def batch_of(step: int, rank: int = 0, world: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    images, labels = samples()
    with seeded("batch", step):
        index = torch.randperm(SAMPLES)[: BATCH * world][rank::world]
    return images[index], labels[index], index


def optimizer_of(task: DistillationTask) -> torch.optim.Optimizer:
    return create_optimizer(task.objective, Config(model=BACKBONE, data="digits", lr=0.02))


def take_step(task: DistillationTask, optimizer: torch.optim.Optimizer, step: int, steps: int = 30, rank: int = 0, world: int = 1) -> float:
    """One training step as the loop takes it: the clocks move, components learn of it afterwards."""
    task.at(epoch=2 * step / steps, progress=step / steps)
    loss = task(*batch_of(step, rank, world))["loss"]
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    task.after_step()
    return float(loss.detach())


def started(composition: Composition, phase: Phase) -> tuple[DistillationTask, torch.optim.Optimizer]:
    composition.start(phase)
    task = composition.task(phase)
    task.train()
    return task, optimizer_of(task)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny networks lose time to threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# -- the table ------------------------------------------------------------------------------------------------------------


@every_probe
def test_composes_and_trains_only_what_it_says(name: str) -> None:
    """What does not train is in eval mode, and neither its weights nor its statistics move."""
    composition, expected = composed(name), PROBES[name].phases
    assert [phase.name for phase in composition.phases] == list(expected)
    for phase in composition.phases:
        task, optimizer = started(composition, phase)
        objective = task.objective
        trains = {parameter for parameter, value in objective.named_parameters() if value.requires_grad}
        assert trains == {parameter for parameter, _ in objective.named_parameters() if parameter.startswith(expected[phase.name])}
        frozen = {module for module in task.modules() if (held := list(module.parameters())) and not any(p.requires_grad for p in held)}
        assert not any(module.training for module in frozen)
        before = [{key: value.clone() for key, value in module.state_dict().items()} for module in frozen]
        take_step(task, optimizer, 0)
        assert all(same(kept, module.state_dict()) for kept, module in zip(before, frozen, strict=True))


@every_probe
def test_the_loss_falls(name: str) -> None:
    composition = composed(name)
    for phase in composition.phases:
        task, optimizer = started(composition, phase)
        losses = [take_step(task, optimizer, step) for step in range(30)]
        assert sum(losses[-5:]) < sum(losses[:5]), phase.name


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in ("probe_hsakd", "probe_fitnet"))) for name in PROBES]
)
def test_compiles_in_one_graph(name: str) -> None:
    """The same losses as in eager mode; later steps, at other times of the phase, run what the first one compiled."""
    eager, compiled = composed(name), composed(name)
    for phase in eager.phases:
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        task, optimizer = started(eager, phase)
        wanted = [take_step(task, optimizer, step) for step in range(4)]
        task, optimizer = started(compiled, phase)
        task.compile(backend="aot_eager")
        found = [take_step(task, optimizer, 0)]
        with torch._dynamo.config.patch(error_on_recompile=True):
            found += [take_step(task, optimizer, step) for step in range(1, 4)]
        assert found == pytest.approx(wanted, abs=1e-5)
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == (1 if task.teacher is None else 2)
    torch._dynamo.reset()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which two processes, started once for all probes, left what each of them came to."""
    folder = tmp_path_factory.mktemp("gloo")
    done = subprocess.run([sys.executable, __file__, str(folder)], capture_output=True, text=True, timeout=240)
    (folder / "stderr").write_text(done.stderr)
    return folder


@every_probe
def test_two_processes(name: str, two_processes: Path) -> None:
    """Each process sees its own samples; afterwards parameters and buffers, memory banks among them, are the same in both."""
    left = [two_processes / f"{name}-{rank}.json" for rank in (0, 1)]
    assert all(path.exists() for path in left), (two_processes / "stderr").read_text()[-3000:]
    (first, about), (second, other_about) = (load_tensors(path) for path in left)
    assert about["losses"] != other_about["losses"]
    assert [key for key in first if not torch.equal(first[key], second[key])] == []


@every_probe
def test_steps_on_equally_after_a_restart(name: str, tmp_path: Path) -> None:
    composition = composed(name)
    for phase in composition.phases:
        task, optimizer = started(composition, phase)
        for step in range(2):
            take_step(task, optimizer, step)
    tensors, about = optimizer_tensors(optimizer)
    save_tensors(tmp_path / "modules", state_of(composition.modules()), {})
    save_tensors(tmp_path / "optimizer", tensors, about)
    loss = take_step(task, optimizer, 2)

    again = composed(name, seed=1)
    task, optimizer = started(again, phase)
    assert not same(state_of(again.modules()), state_of(composition.modules()))
    restore(again.modules(), load_tensors(tmp_path / "modules")[0])
    restore_optimizer(optimizer, *load_tensors(tmp_path / "optimizer"))
    assert take_step(task, optimizer, 2) == loss
    assert same(state_of(again.modules()), state_of(composition.modules()))


@every_probe
def test_strips_to_a_plain_student(name: str) -> None:
    composition = composed(name)
    for phase in composition.phases:
        task, optimizer = started(composition, phase)
        take_step(task, optimizer, 0)
    images = samples()[0][:4]
    with evaluating(composition.student):
        outputs = composition.student(images)
    plain = composition.student.strip(-1).eval()
    assert type(plain) is type(timm.create_model(BACKBONE))
    assert list(plain.state_dict()) == list(timm.create_model(BACKBONE, num_classes=CLASSES).state_dict())
    with torch.no_grad():
        assert torch.equal(plain(images), outputs.logits[-1])
        shallow = composition.student.strip(exit=1).eval()(images)
    assert torch.equal(shallow, outputs.logits[0]) and shallow.shape[1] == PROBES[name].shallow_classes


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    module.eval()
    with torch.no_grad():
        yield
    module.train()


@every_probe
def test_on_a_vit(name: str) -> None:
    composition = composed(name, "test_vit", size=32)
    for phase in composition.phases:
        task = composition.task(phase)
        loss = task(torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 3]), torch.arange(4))["loss"]
        loss.backward()
        assert all(parameter.grad is not None for parameter in task.objective.parameters() if parameter.requires_grad)


# -- particulars ----------------------------------------------------------------------------------------------------------


def test_the_fusion_has_its_own_learning_rate_and_weight_decay() -> None:
    task = composed("probe_one").task()
    groups = optimizer_of(task).param_groups
    fusion = {id(parameter) for parameter in task.objective.model.fusion.parameters()}
    (own,) = [group for group in groups if group["weight_decay"] == 1e-5]
    assert {id(parameter) for parameter in own["params"]} == fusion
    assert all(fusion.isdisjoint(map(id, group["params"])) for group in groups if group is not own)


def test_the_peers_are_drawn_apart_and_the_student_is_the_last() -> None:
    """Layer groups and frozen backbones are the student's own, though its peers come first."""
    composition = composed("probe_dml", options={"peers": 2})
    cohort = composition.student
    first, second, own = (next(network.parameters()) for network in [*cohort.peers, cohort.backbone])
    assert not torch.equal(first, second) and not torch.equal(first, own)
    assert {"kl1", "kl2"} <= set(composition.task()(*batch_of(0)))
    task = composition.task(Phase(trains=("exits",)))
    assert {name.split(".")[1] for name, parameter in task.objective.named_parameters() if parameter.requires_grad} == {"peers"}


def test_the_ramp_rises_with_the_epochs() -> None:
    task = composed("probe_one").task()
    weights = []
    for epoch in (0, 40, 80):
        task.at(epoch=epoch)
        weights.append(float(task.objective.weight0))
    assert weights == pytest.approx([0.006738, 0.286505, 1.0], abs=1e-6)


def test_the_memory_holds_what_was_seen() -> None:
    composition = composed("probe_crd")
    task, optimizer = started(composition, composition.phases[0])
    bank = composition.modules()["term:contrast"].student_bank
    before = bank.clone()
    _, _, index = batch_of(0)
    take_step(task, optimizer, 0)
    changed = (bank != before).any(dim=1).nonzero().flatten()
    assert changed.tolist() == sorted(index.tolist())
    torch.testing.assert_close(bank.norm(dim=1), torch.ones(SAMPLES))


# -- whole runs -----------------------------------------------------------------------------------------------------------

SETTINGS = {
    "data": "digits",
    "epochs": 2,
    "img_size": SIZE,
    "labels_per_class": 10,
    "batch_size": 32,
    "amp": "none",
    "channels_last": False,
}


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The run of a teacher that was trained plainly."""
    run = tmp_path_factory.mktemp("runs") / "teacher"
    kdcore.train(BACKBONE, method="plain", run=run, **SETTINGS)
    return str(run)


def run_of(name: str, run: Path, taught: str, **more) -> kdcore.training.Trained:
    """`kd train test_resnet_32px --data digits --method NAME -p NAME.py [--teacher RUN]`"""
    teacher = {"teacher": taught} if PROBES[name].teacher else {}
    return kdcore.train(BACKBONE, method=name, plugin=[str(HERE / f"{name}.py")], run=run, **SETTINGS, **teacher, **more)


@every_probe
def test_a_whole_run(name: str, tmp_path: Path, taught: str) -> None:
    trained = run_of(name, tmp_path / "run", taught)
    assert [entry["exit"] for entry in trained.results["last"]["test"]["exits"]] == list(PROBES[name].exits)
    epochs = [(record["phase"], record["epoch"]) for record in trained.run.metrics()]
    assert epochs == [(phase, epoch) for phase in PROBES[name].phases for epoch in (1, 2)]
    assert kdcore.load(trained.run.path, exit=-1)(torch.randn(2, 1, SIZE, SIZE)).shape == (2, 10)


class Killed(Watch):
    """Ends the process, as it seems, after an epoch of a phase."""

    def __init__(self, phase: str, epoch: int) -> None:
        self.when = (phase, epoch)

    def epoch(self, record) -> None:
        if (record["phase"], record["epoch"]) == self.when:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, taught: str) -> kdcore.training.Trained:
    """A run of two phases that nobody disturbed."""
    return run_of("probe_fitnet", tmp_path_factory.mktemp("runs") / "whole", taught)


@pytest.mark.parametrize("when", [("hint", 1), ("hint", 2), ("kd", 1)], ids=str)
def test_a_killed_run_goes_on_to_the_same_numbers(when: tuple[str, int], tmp_path: Path, taught: str, whole) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_of("probe_fitnet", tmp_path / "killed", taught, watch=Killed(*when))
    assert_same_run(kdcore.train(run=tmp_path / "killed", resume=True), whole)


@pytest.mark.parametrize("place", ["kdcore.runs.Run.append", "kdcore.phase_run.save_tensors"])
def test_a_run_killed_as_it_writes_loses_nothing(place: str, tmp_path: Path, taught: str, whole, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(*args) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(place, dies)
        run_of("probe_fitnet", tmp_path / "killed", taught)
    assert_same_run(kdcore.train(run=tmp_path / "killed", resume=True), whole)


def assert_same_run(resumed: kdcore.training.Trained, whole: kdcore.training.Trained) -> None:
    for which in ("last", "best"):
        one, other = (load_tensors(trained.run.absolute(trained.results["checkpoints"][which]))[0] for trained in (whole, resumed))
        assert same(one, other)
        assert resumed.results[which] == whole.results[which]
    lines, wanted = ([{**record, "minutes": 0} for record in trained.run.metrics()] for trained in (resumed, whole))
    assert lines == wanted


# -- two processes --------------------------------------------------------------------------------------------------------


def in_two_processes(rank: int, folder: str) -> None:
    """Three steps of every phase of every probe; the state, after the statistics were averaged as at an epoch's end, goes to `folder`."""
    import torch.distributed as dist
    from timm.utils import distribute_bn

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    for name in PROBES:
        composition, losses = composed(name), []
        for phase in composition.phases:
            task, optimizer = started(composition, phase)
            task.prepare_distributed()
            losses += [take_step(task, optimizer, step, rank=rank, world=2) for step in range(3)]
            distribute_bn(task.objective, world_size=2, reduce=True)
        save_tensors(Path(folder) / f"{name}-{rank}", state_of(composition.modules()), {"losses": losses})
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.multiprocessing.start_processes(in_two_processes, args=(sys.argv[1],), nprocs=2, start_method="fork")

"""`--compile`: the whole task in one graph of torch.compile, and the whole step in one of CUDA; what of it a CPU can show."""

from functools import partial

import pytest
import torch

from kdcore import compose, loop
from kdcore.backbones import create_backbone
from kdcore.config import read_config
from kdcore.graphed import WARM_UP, GraphedStep, counters, graphed_step
from kdcore.loop import train_epoch
from kdcore.optimisation import create_optimizer
from kdcore.precision import Precision

CPU = torch.device("cpu")
CUDA = torch.device("cuda")


class Batches:
    """Seven batches, the last of another size, which a graph cannot take."""

    def __init__(self, device: torch.device = CPU) -> None:
        self.device = device

    def __len__(self) -> int:
        return 7

    def epoch(self, epoch: int):
        draw = torch.Generator().manual_seed(epoch)
        for step in range(7):
            count = 8 if step < 6 else 4
            batch = torch.randn(count, 3, 16, 16, generator=draw), torch.arange(count) % 3, torch.arange(count)
            yield tuple(tensor.to(self.device) for tensor in batch)


def task_of(case: str):
    teacher = {"losses": ["kl@teacher"], "teacher": create_backbone("test_resnet_32px", num_classes=3)} if case == "kd" else {}
    torch.manual_seed(3)
    return compose("test_resnet_32px", "plain" if case == "kd" else case, num_classes=3, image_size=16, **teacher).task()


def trained(case: str, settings: dict, device: torch.device = CPU, compiled: str | None = None):
    torch.manual_seed(0)
    task = task_of(case).to(device)
    config = read_config({"model": "m", "data": "d", "lr": 0.05, "compile": device.type == "cuda", **settings})
    optimizer = create_optimizer(task.objective, config)
    if compiled is not None:
        task.compile(backend=compiled)
    about = {"epochs": 2, "settings": config, "precision": Precision(), "device": device, "on_log": lambda line: None}
    means = []
    for epoch in range(2):
        for group in optimizer.param_groups:
            group["lr"] = 0.05 / (epoch + 1)
        means.append(train_epoch(task, Batches(device), optimizer, epoch=epoch, **about))
    return task, means


@pytest.mark.parametrize(
    ("case", "settings"), [("plain", {}), ("byot", {"clip_grad": 0.5}), ("kd", {"opt": "adamw", "lr": 0.001}), ("plain", {"opt": "lion"})]
)
def test_a_step_on_buffers_that_stay_is_the_loops_own_step_bit_for_bit(case, settings, monkeypatch):
    task, means = trained(case, settings)
    made: list[GraphedStep] = []

    def on_buffers(task, optimizer, settings, precision, device):
        if not made:
            made.append(GraphedStep(task, optimizer, settings, precision, capture=False))
        return made[0]

    monkeypatch.setattr(loop, "graphed_step", on_buffers)
    other, other_means = trained(case, settings)
    assert made[0].steps == 14 and len(made[0]._inputs[0]) == 8
    state = task.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in other.state_dict().items())
    assert means == other_means


def test_only_cuda_has_a_graph_of_the_whole_step_and_only_where_every_step_is_an_update():
    task = task_of("plain")
    config = read_config({"model": "m", "data": "d", "compile": True})
    ask = partial(graphed_step, task, create_optimizer(task.objective, config))
    assert ask(config, Precision(), CPU) is None
    assert ask(config.model_copy(update={"grad_accum_steps": 2}), Precision(), CUDA) is None
    assert ask(config.model_copy(update={"compile": False}), Precision(), CUDA) is None
    graphed = ask(config, Precision(), CUDA)
    assert graphed is not None and ask(config, Precision(), CUDA) is graphed


def test_adaptive_optimisers_are_made_fit_for_recording():
    task = task_of("plain")
    config = read_config({"model": "m", "data": "d", "opt": "adamw", "lr": 0.01})
    optimizer = create_optimizer(task.objective, config)
    GraphedStep(task, optimizer, config, Precision())
    assert all(group["capturable"] for group in optimizer.param_groups)


@pytest.mark.parametrize(("opt", "held"), [("sgd", False), ("lion", False), ("lamb", True), ("adan", True), ("lookahead_sgd", True)])
def test_an_optimiser_that_counts_on_the_host_is_not_recorded(opt, held, monkeypatch):
    """A replay would divide by the bias correction of the recorded step for ever."""
    task, config = task_of("plain"), read_config({"model": "m", "data": "d", "opt": opt, "lr": 0.01})
    optimizer = create_optimizer(task.objective, config)
    monkeypatch.setattr("kdcore.graphed.counters", lambda optimizer, device: counters(optimizer, CUDA))
    step = GraphedStep(task, optimizer, config, Precision(), capture=False)
    for batch in list(Batches().epoch(0))[: WARM_UP + 1]:
        step(*batch)
    assert step.refused.startswith(f"--opt {opt} ") if held else not step.refused
    assert bool(step._inputs) != held


def test_components_with_memories_of_their_own_are_not_recorded():
    task = task_of("plain")
    config = read_config({"model": "m", "data": "d", "compile": True})
    task.objective.steppers = [object()]
    assert graphed_step(task, create_optimizer(task.objective, config), config, Precision(), CUDA) is None


def test_a_step_that_cannot_be_recorded_goes_on_without_a_graph(monkeypatch):
    """On the device of the images, whichever is current, and with a loader's pinning thread let alone."""
    asked = []

    def refuse(graph, **options):
        asked.append(options)
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    class Nothing:
        def __init__(self, *device):
            asked.append(device)

        def wait_stream(self, other):
            pass

        __enter__ = __exit__ = lambda self, *error: None

    for name in ("Stream", "stream", "device", "current_stream", "synchronize", "CUDAGraph"):
        monkeypatch.setattr(torch.cuda, name, Nothing)
    monkeypatch.setattr(torch.cuda, "graph", refuse)
    task, _ = trained("plain", {"lr": 0.05})
    other = task_of("plain")
    config = read_config({"model": "m", "data": "d", "lr": 0.05})
    optimizer = create_optimizer(other.objective, config)
    step = GraphedStep(other, optimizer, config, Precision())
    other.train()
    for epoch in range(2):
        for group in optimizer.param_groups:
            group["lr"] = 0.05 / (epoch + 1)
        for batch in Batches().epoch(epoch):
            step(*batch)
    assert step.refused == "operation not permitted when stream is capturing" and step.graph is None
    assert (CPU,) in asked and [options["capture_error_mode"] for options in asked if isinstance(options, dict)] == ["thread_local"]
    state = task.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in other.state_dict().items())


@pytest.mark.parametrize("case", ["byot"])
def test_the_whole_task_is_one_graph(case):
    """fullgraph: dynamo refuses what it cannot take in. Autograd's kernels are torch's own here, so the numbers are those of eager."""
    images, labels, index = next(Batches().epoch(0))
    torch._dynamo.reset()
    eager, task = task_of(case), task_of(case)
    task.compile(backend="aot_eager")
    task.train(), eager.train()
    for epoch in (0.0, 0.5):  # moving clocks make no new graph
        task.at(epoch=epoch, progress=epoch)
        answers = eager(images, labels, index), task(images, labels, index)
        for name, value in answers[0].items():
            torch.testing.assert_close(value, answers[1][name], rtol=1e-4, atol=1e-5)
        for answer in answers:
            answer["loss"].backward()
    torch._dynamo.reset()


def test_a_network_that_gave_logits_alone_compiles_into_one_that_gives_all():
    """A plain phase takes the hooks away, and nothing can put them back while a graph is traced."""
    images, labels, index = next(Batches().epoch(0))
    task = compose("test_resnet_32px", "plain", num_classes=3, image_size=16).task()
    task(images, labels, index)
    assert task.objective.only_logits
    task.objective.only_logits = False  # as in a phase whose losses read maps
    torch._dynamo.reset()
    task.compile(backend="eager")
    task(images, labels, index)["loss"].backward()
    torch._dynamo.reset()


@pytest.mark.slow
def test_inductor_comes_to_the_losses_of_eager():
    torch._dynamo.reset()
    _, eager = trained("byot", {})
    _, compiled = trained("byot", {}, compiled="inductor")
    for one, other in zip(eager, compiled, strict=True):
        assert one == pytest.approx(other, rel=1e-2)
    torch._dynamo.reset()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize(("case", "settings"), [("plain", {}), ("byot", {"clip_grad": 0.5}), ("kd", {"opt": "adamw", "lr": 0.001})])
def test_a_recorded_step_is_the_loops_own(case, settings):
    _, eager = trained(case, {**settings, "compile": False}, CUDA)
    task, recorded = trained(case, settings, CUDA)
    assert task.graphed.graph is not None and not task.graphed.refused and task.graphed.steps > WARM_UP
    for one, other in zip(eager, recorded, strict=True):
        assert one == pytest.approx(other, rel=1e-3)

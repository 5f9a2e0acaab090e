"""Host overhead of a step over a hand-written loop, and the weights that both come to.

    python benchmarks/step.py [--quick] [--json step.json] [--device cuda] [--real]

On a network of two tiny convolutions nothing counts but what the host does around the arithmetic: the microseconds by which a step of
kdcore's loop, of timm's own task and of torchdistill's box is longer than a step of a loop that a researcher wrote by hand
(`handwritten.py`). All have the same networks, batches, optimiser and mathematics, and run in turns. Before that, kdcore and the
hand-written loop take 50 steps from the same weights, in float32 and bfloat16, and must end at the same bits.

--real: the ratio of the two loops on ResNet-20 and ResNet-18 (32 px, batch 64), where nothing but arithmetic should count.
"""

import copy
import logging
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import handwritten
import torch
from common import Ratio, arguments, interleaved, row, write
from timm.optim import create_optimizer_v2
from torch import nn

import kdcore
from kdcore import backbones  # noqa: F401 - registers the 32-pixel ResNets
from kdcore.config import read_config
from kdcore.loop import train_epoch
from kdcore.optimisation import create_optimizer
from kdcore.precision import Precision

TARGETS = {"plain": 30.0, "kd": 40.0}
CASES = ("plain", "deep-supervision", "byot", "kd")


class Ready:
    """Batches that are there already, as kdcore's loop reads them."""

    def __init__(self, batches: list) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def epoch(self, epoch: int) -> list:
        return self.batches


def autocast_of(precision: str, device: torch.device) -> Callable:
    return partial(torch.autocast, device.type, dtype=torch.bfloat16) if precision == "bfloat16" else nullcontext


def composed(case: str, net: Callable[[], nn.Module], size: int, device: torch.device) -> tuple[Any, nn.Module]:
    """The case on a network, with a teacher of the same architecture for KD; the same weights whenever it is asked."""
    torch.manual_seed(1)
    teacher = net().to(device)
    torch.manual_seed(0)
    given = {"losses": ["kl@teacher"], "teacher": copy.deepcopy(teacher)} if case == "kd" else {}
    method = "plain" if case == "kd" else case
    return kdcore.compose(net(), method, num_classes=10, image_size=size, device=device, batch_size=64, **given), teacher


def kdcore_loop(
    case: str, net: Callable, size: int, batches: list, device: torch.device, precision: str
) -> tuple[Callable, nn.Module, Any]:
    composition, _ = composed(case, net, size, device)
    task = composition.task()
    settings = read_config({"model": "tiny", "data": "none", "opt": "sgd", "lr": 0.05})
    optimizer = create_optimizer(task.objective, settings)
    chosen = Precision(precision)
    about = {"epoch": 0, "epochs": 1, "settings": settings, "precision": chosen, "device": device, "on_log": lambda line: None}
    return partial(train_epoch, task, Ready(batches), optimizer, **about), composition.student, optimizer


def by_hand(case: str, net: Callable, size: int, batches: list, device: torch.device, precision: str) -> tuple[Callable, nn.Module]:
    composition, teacher = composed(case, net, size, device)
    task = composition.task()
    optimizer = create_optimizer(task.objective, read_config({"model": "tiny", "data": "none", "opt": "sgd", "lr": 0.05}))
    student = composition.student.train()
    write_step = getattr(handwritten, case.replace("-", "_"))
    step = write_step(student, teacher) if case == "kd" else write_step(student)
    return partial(handwritten.loop, step, batches, optimizer, autocast_of(precision, device)), student


def sgd(student: nn.Module) -> torch.optim.Optimizer:
    """The same optimiser for all: timm's choice of groups, momentum, fused."""
    return create_optimizer_v2(student, "sgd", lr=0.05, momentum=0.9, weight_decay=2e-5, fused=True)


def timm_loop(case: str, net: Callable, size: int, batches: list, device: torch.device) -> Callable | None:
    """timm's own task under the loop of its train.py, without its logging."""
    from timm.task import ClassificationTask, LogitDistillationTask

    student = net().to(device)
    criterion = nn.CrossEntropyLoss()
    if case == "plain":
        task: Any = ClassificationTask(student, criterion, device=device, verbose=False)
    elif case == "kd":
        weights = {"task_loss_weight": 1.0, "distill_loss_weight": 1.0, "temperature": handwritten.TEMPERATURE["kd"]}
        task = LogitDistillationTask(student, net().to(device), criterion, device=device, verbose=False, **weights)
    else:
        return None
    task.train()
    optimizer = sgd(student)
    return partial(handwritten.loop, lambda images, labels: task(images, labels)["loss"], batches, optimizer, nullcontext)


def torchdistill_loop(case: str, net: Callable, size: int, batches: list, device: torch.device) -> Callable | None:
    """torchdistill's box as its examples drive it: pre_epoch_process, forward_process and post_forward_process; without their logging."""
    try:
        logging.disable(logging.WARNING)
        import torchdistill.losses.mid_level  # noqa: F401
        from torchdistill.core.distillation import DistillationBox
        from torchdistill.core.training import TrainingBox
    except ImportError:
        return None
    finally:
        logging.disable(logging.NOTSET)
    if case not in ("plain", "kd"):
        return None
    outputs = {"student_module_path": ".", "student_module_io": "output", "teacher_module_path": ".", "teacher_module_io": "output"}
    kd = {"key": "KDLoss", "kwargs": {**outputs, "temperature": handwritten.TEMPERATURE["kd"], "alpha": 1.0, "beta": 1.0}}
    wrapper = {"input": {"is_from_teacher": False, "module_path": ".", "io": "output"}, "target": {"uses_label": True}}
    ce = {
        "criterion": {"key": "CrossEntropyLoss", "kwargs": {}},
        "criterion_wrapper": {"key": "SimpleLossWrapper", "kwargs": wrapper},
        "weight": 1.0,
    }
    logging.disable(logging.WARNING)
    if case == "kd":
        criterion = {"key": "WeightedSumLoss", "kwargs": {"sub_terms": {"kd": {"criterion": kd, "weight": 1.0}}}}
        teacher = {"requires_grad": False, "forward_proc": "forward_batch_only"}
        student = {"forward_proc": "forward_batch_only"}
        config = {
            "num_epochs": 1,
            "teacher": teacher,
            "student": student,
            "criterion": criterion,
            "optimizer": {"key": "SGD", "kwargs": {"lr": 0.05}},
        }
        box: Any = DistillationBox(net().to(device).eval(), net().to(device), {}, config, device, None, False, 1)
    else:
        model = {"forward_proc": "forward_batch_only"}
        criterion = {"key": "WeightedSumLoss", "kwargs": {"sub_terms": {"ce": ce}}}
        config = {"num_epochs": 1, "model": model, "criterion": criterion, "optimizer": {"key": "SGD", "kwargs": {"lr": 0.05}}}
        box = TrainingBox(net().to(device), {}, config, device, None, False, 1)
    logging.disable(logging.NOTSET)
    box.optimizer = sgd(box.student_model if case == "kd" else box.model)

    def epoch() -> None:
        box.pre_epoch_process(epoch=0)
        for images, labels, _ in batches:
            loss = box.forward_process(images, labels, {})
            box.post_forward_process(loss=loss)

    return epoch


def data(count: int, batch: int, size: int, device: torch.device) -> list:
    draw = torch.Generator().manual_seed(0)
    images = torch.randn(8, batch, 3, size, size, generator=draw).to(device)
    labels = torch.randint(0, 10, (8, batch), generator=draw).to(device)
    index = torch.arange(batch, device=device)
    return [(images[k % 8], labels[k % 8], index) for k in range(count)]


def same_bits(case: str, net: Callable, size: int, device: torch.device, precision: str, steps: int = 50) -> bool:
    """Whether kdcore and the hand-written loop end at the same weights and buffers."""
    batches = data(steps, 4, size, device)
    ours, student, _ = kdcore_loop(case, net, size, batches, device, precision)
    theirs, by_hands = by_hand(case, net, size, batches, device, precision)
    ours(), theirs()
    one, other = student.state_dict(), by_hands.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def overhead(case: str, steps: int, pairs: int, device: torch.device) -> dict[str, Ratio]:
    """Each loop against the hand-written one, by name."""
    net, batches = handwritten.Tiny, data(steps, 4, 8, device)
    hand, _ = by_hand(case, net, 8, batches, device, "float32")
    loops = {"kdcore": kdcore_loop(case, net, 8, batches, device, "none")[0]}
    for name, make in (("timm", timm_loop), ("torchdistill", torchdistill_loop)):
        if (made := make(case, net, 8, batches, device)) is not None:
            loops[name] = made
    clock = time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    return {name: interleaved(hand, loop, pairs, warmup=2, device=device, clock=clock) for name, loop in loops.items()}


def real(device: torch.device, pairs: int, threads: int) -> list[dict[str, Any]]:
    import timm

    def resnet20() -> nn.Module:
        try:
            import kdcore_cifar  # noqa: F401

            return timm.create_model("cifar_resnet20", num_classes=10)
        except (ImportError, RuntimeError):
            return timm.create_model("test_resnet_32px", num_classes=10)

    rows = []
    for name, net, steps in (("resnet20", resnet20, 8), ("resnet18_32px", partial(timm.create_model, "resnet18_32px", num_classes=10), 1)):
        for case in CASES:
            batches = data(steps, 64, 32, device)
            hand, _ = by_hand(case, net, 32, batches, device, "float32")
            ours = kdcore_loop(case, net, 32, batches, device, "none")[0]
            ratio = interleaved(hand, ours, pairs, device=device)
            print(f"{name:14} {case:17} step ratio {ratio}", flush=True)
            about = {"against": "hand-written", "target": "low <= 1.01", "met": ratio.low <= 1.01}
            rows.append(row(f"step-ratio/{name}/{case}", "ratio", ratio.median, ratio.low, ratio.high, ratio.pairs, **about))
    return rows


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--real", action="store_true", help="also ResNet-20 and ResNet-18 at 32 px, batch 64 (ten minutes on a CPU)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    steps, pairs = (60, 15) if args.quick else (200, max(args.pairs, 41))
    rows: list[dict[str, Any]] = []
    for precision in ("none", "bfloat16"):
        for case in CASES:
            equal = same_bits(case, handwritten.Tiny, 8, device, precision)
            print(
                f"{case:17} {'float32' if precision == 'none' else precision:9} weights after 50 steps: {'the same bits' if equal else 'DIFFERENT'}"
            )
            rows.append(row(f"same-bits/{case}/{precision}", "bool", float(equal), float(equal), float(equal), 1, target="1", met=equal))
    for case in CASES:
        for name, found in overhead(case, steps, pairs, device).items():
            micro = [1e6 * value / steps for value in (found.difference, found.difference_low, found.difference_high, found.a)]
            met = {} if name != "kdcore" or case not in TARGETS else {"target": f"<= {TARGETS[case]:g}", "met": micro[0] <= TARGETS[case]}
            print(
                f"{case:17} {name:13} {micro[0]:7.1f} us a step more than by hand ({micro[1]:.1f} to {micro[2]:.1f}; by hand {micro[3]:.0f} us)",
                flush=True,
            )
            rows.append(row(f"overhead/{case}/{name}", "us/step", *micro[:3], found.pairs, against="hand-written", by_hand=micro[3], **met))
    if args.real:
        rows += real(device, args.pairs, args.threads)
    write(args.json, rows, device)


if __name__ == "__main__":
    main()

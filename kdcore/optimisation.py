"""The optimiser and learning-rate schedule of a phase: timm's, with groups of their own for what components name."""

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from timm.optim import create_optimizer_v2, get_optimizer_class, list_optimizers, param_groups_layer_decay, param_groups_weight_decay
from timm.scheduler import create_scheduler_v2

from kdcore.config import Config, read_config
from kdcore.errors import KdError, nearest
from kdcore.objective import Objective, backbone_within
from kdcore.phases import Phase

FROM_PHASE = {"opt", "lr", "lr_base", "momentum", "weight_decay", "layer_decay", "sched", "warmup_epochs", "warmup_lr", "min_lr"}
FROM_PHASE |= {"decay_milestones", "decay_epochs", "decay_rate", "clip_grad", "clip_mode"}

OPTIMISERS = ("sgd", "momentum", "adamw", "lamb", "lion", "rmsprop", "adafactor")
"""The usual ones of timm's hundred."""

SCHEDULES = ("cosine", "step", "multistep", "poly", "tanh", "wsd", "rsqrt", "constant")
"""timm's, but for plateau; timm has no list of them."""


def settings_of(config: Config, phase: Phase) -> Config:
    """The run's settings with the phase's overrides; the learning rate stays open unless one of them gives it, so that it follows from both.

    Raises KdError for an override that is no optimiser setting.
    """
    if unknown := set(phase.optim) - FROM_PHASE:
        raise KdError(f"phase '{phase.name}' overrides {', '.join(sorted(unknown))}; it can override {', '.join(sorted(FROM_PHASE))}")
    return read_config(config.model_dump() | dict(phase.optim))


def learning_rate(settings: Config) -> float:
    """`lr`, or timm's rule: lr_base for 256 images a step, in proportion (by the square root for adaptive optimisers)."""
    if settings.lr is not None:
        return settings.lr
    ratio = settings.batch_size * settings.grad_accum_steps / 256
    adaptive = any(word in settings.opt.lower() for word in ("ada", "lamb", "lion"))
    return settings.lr_base * (0.01 * ratio**0.5 if adaptive else ratio)


def check_settings(config: Config, phases: Iterable[Phase], student: torch.nn.Module | None = None) -> None:
    """Raises KdError for an optimiser or schedule that timm lacks, in the run's settings or a phase's, before a run is made.

    Also for a layer decay on a student whose backbone does not say which layers it has.
    """
    for phase in phases:
        settings = settings_of(config, phase)
        if settings.layer_decay is not None and student is not None and not hasattr(backbone_within(student)[0], "group_matcher"):
            raise KdError(f"--layer-decay: backbone '{config.model}' has no group_matcher, which says what its layers are; leave it out")
        optimizer = _optimizer([{"params": [torch.nn.Parameter(torch.zeros(2, 2))]}], settings)
        create_scheduler(optimizer, settings, phase.epochs or settings.epochs)


def create_optimizer(objective: Objective, settings: Config) -> torch.optim.Optimizer:
    """timm's optimiser over everything that trains. Groups that components name in `optim` keep their own settings."""
    special = component_groups(objective)
    taken = {id(parameter) for group in special for parameter in group["params"]}
    skip = objective.no_weight_decay()
    if settings.layer_decay is not None:
        groups = param_groups_layer_decay(objective, settings.weight_decay, skip, layer_decay=settings.layer_decay)
    else:
        groups = param_groups_weight_decay(objective, settings.weight_decay, no_weight_decay_list=skip)
    groups = [{**group, "params": [p for p in group["params"] if id(p) not in taken]} for group in groups]
    groups = [group for group in groups + special if group["params"]]
    return _optimizer(groups, settings)


def _optimizer(groups: list[dict[str, Any]], settings: Config) -> torch.optim.Optimizer:
    about: dict[str, Any] = {
        "opt": settings.opt,
        "lr": learning_rate(settings),
        "weight_decay": settings.weight_decay,
        "momentum": settings.momentum,
    }
    try:
        return create_optimizer_v2(groups, **about, **fused_if_it_can(settings.opt, groups))
    except (AssertionError, ValueError, KeyError) as error:
        known = [str(name) for name in list_optimizers()]
        if settings.opt.lower().rpartition("lookahead_")[2] not in known:
            raise KdError(f"--opt {settings.opt}: timm has no such optimiser{_nearest_or(settings.opt, known, OPTIMISERS)}") from error
        raise KdError(f"--opt {settings.opt}: {str(error).splitlines()[0]}; others need nothing more: {', '.join(OPTIMISERS)}") from error


def fused_if_it_can(opt: str, groups: list[dict[str, Any]]) -> dict[str, Any]:
    """`fused=True` for those of torch's optimisers that have one kernel for all parameters, on devices and dtypes that it knows.

    On one thread and 65 tensors of a small convolution's size, a step takes .26 (SGD) and .20 (AdamW) of the time of torch's loop over them,
    where `foreach` takes .60 and .82.
    """
    if opt.lower() not in list_optimizers():
        return {}  # a name that timm makes up on the way (lookahead_...), or knows no more
    takes = inspect.signature(get_optimizer_class(opt, bind_defaults=False)).parameters
    kinds = {(parameter.device.type, parameter.dtype) for group in groups for parameter in group["params"]}
    fits = all(device in ("cpu", "cuda", "mps") and dtype.is_floating_point for device, dtype in kinds)
    return {"fused": True} if "fused" in takes and fits else {}


def _nearest_or(name: str, known: Iterable[str], usual: Iterable[str]) -> str:
    """The nearest name, or those that are usual, where all of them would not fit a line."""
    near = nearest(name.lower(), known)
    return near if "did you mean" in near else f"; usual are {', '.join(usual)}"


def component_groups(objective: Objective) -> list[dict[str, Any]]:
    """Parameter groups that components ask for: `optim = {"fusion": {"weight_decay": 1e-5}}` names a module within the component."""
    groups: list[dict[str, Any]] = []
    for owner in objective.modules():
        wishes = getattr(owner, "optim", None)
        if not isinstance(wishes, Mapping):
            continue
        for name, overrides in wishes.items():
            parameters = [p for p in owner.get_submodule(name).parameters() if p.requires_grad]
            if parameters:
                groups.append({"params": parameters, **overrides})
    return groups


def create_scheduler(optimizer: torch.optim.Optimizer, settings: Config, epochs: int) -> Any:
    """timm's learning-rate schedule, a function of the epoch alone, so that a resumed run goes on with the same rates."""
    if settings.sched == "plateau":
        raise KdError(
            "--sched plateau: timm gives it up, and a run that was stopped could not go on with it; use cosine, step or multistep"
        )
    try:
        scheduler, _ = create_scheduler_v2(
            optimizer,
            sched=settings.sched,
            num_epochs=epochs,
            decay_epochs=settings.decay_epochs,
            decay_milestones=settings.decay_milestones,
            decay_rate=settings.decay_rate,
            min_lr=settings.min_lr,
            warmup_lr=settings.warmup_lr,
            warmup_epochs=settings.warmup_epochs,
        )
    except (AssertionError, ValueError) as error:
        if settings.sched in SCHEDULES:
            raise KdError(f"--sched {settings.sched}: {str(error).splitlines()[0] or 'refused'}") from error
        scheduler = None
    if scheduler is None and settings.sched not in ("constant", "none", ""):
        raise KdError(f"--sched {settings.sched}: timm has no such schedule{nearest(settings.sched.lower(), SCHEDULES)}")
    return scheduler

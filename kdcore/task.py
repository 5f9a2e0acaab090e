"""A training task that speaks timm's protocol: `task(images, labels, index)` gives a dict with `loss`, `output` and every term."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from timm.task import TrainingTask
from timm.utils import unwrap_model
from torch import Tensor, nn

from kdcore.errors import KdError
from kdcore.objective import Objective
from kdcore.phases import Phase, Where
from kdcore.tapped import Tapped
from kdcore.vocabulary import Batch, Outputs


class Adapted(nn.Module):
    """A network that is given images made for another: their normalisation and size are changed to what it wants.

    images come normalised for the student; `student_norm` and `own_norm` are (mean, std). image_size: what the network wants, None for
    as they come.
    """

    def __init__(
        self,
        model: nn.Module,
        student_norm: tuple[tuple[float, ...], tuple[float, ...]] | None = None,
        own_norm: tuple[tuple[float, ...], tuple[float, ...]] | None = None,
        image_size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.image_size = image_size
        self.adapts = student_norm is not None and own_norm is not None and student_norm != own_norm
        if self.adapts:
            assert student_norm is not None and own_norm is not None
            (mean, std), (own_mean, own_std) = (tuple(torch.tensor(v).view(1, -1, 1, 1) for v in norm) for norm in (student_norm, own_norm))
            self.register_buffer("scale", std / own_std, persistent=False)
            self.register_buffer("shift", (mean - own_mean) / own_std, persistent=False)

    def forward(self, images: Tensor) -> Outputs:
        return self.model(self.adapted(images))

    def classify(self, images: Tensor) -> Outputs:
        """The logits alone, where the network can do without the rest."""
        model = self._modules["model"]  # as in Objective.forward
        if self.adapts or self.image_size is not None:
            images = self.adapted(images)
        return model.classify(images) if hasattr(model, "classify") else model(images)

    def adapted(self, images: Tensor) -> Tensor:
        if self.adapts:
            images = images * self.scale + self.shift
        if self.image_size is not None and images.shape[-2:] != self.image_size:
            images = F.interpolate(images, self.image_size, mode="bilinear", align_corners=False, antialias=True)
        return images


class Teacher(nn.Module):
    """A frozen network that answers in the student's stead: always in eval mode and without gradients.

    only_logits: nobody reads its embeddings and maps; a task says so.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.only_logits = False
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "Teacher":
        return super().train(False)

    def forward(self, images: Tensor) -> Outputs:
        model = self._modules["model"]
        with torch.no_grad():
            return model.classify(images) if self.only_logits else model(images)


class LastExit(nn.Module):
    """A multi-exit model as others expect a classifier: images -> the deepest exit's logits [B, K]."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images).logits[-1]


class DistillationTask(TrainingTask):
    """One phase of a method as a task. Made by `Composition.task(phase)`.

    `trainable_module` holds the student, its exits, losses and sources under one forward pass; the frozen teacher stays outside.
    Call `at(epoch=, progress=)` to say where training stands (only moving weights and clocks need it), and `after_step()` after each
    batch (only components with memories need it); kdcore's own loop does both.
    """

    def __init__(
        self,
        objective: Objective,
        teacher: Teacher | None = None,
        *,
        phase: Phase | None = None,
        views: Callable | None = None,
        needs_index: str | None = None,
        device: torch.device | None = None,
    ) -> None:
        super().__init__(device=device, verbose=False)
        self.trainable_module: nn.Module = objective
        self.objective_module = [objective]  # in a list: DDP and compile wrap the one above, not this reference
        self.teacher = teacher
        if teacher is not None:
            teacher.only_logits = objective.reads_only_logits and hasattr(teacher.model, "classify")
        self.phase = phase or Phase()
        self.views = views
        self.needs_index = needs_index
        self.graphed: Any = None  # its step as one CUDA graph, where `kdcore.graphed` made one

    @property
    def objective(self) -> Objective:
        return self.objective_module[0]

    def forward(self, input: Tensor, target: Tensor, index: Tensor | None = None) -> dict[str, Tensor]:
        """input: images [B, C, H, W]; target: labels [B], or soft labels [B, K]; index: sample numbers [B]. Raises KdError without needed ones."""
        if index is None and self.needs_index is not None:
            raise KdError(f"{self.needs_index} needs the samples' numbers: call task(images, labels, index)")
        batch = make_batch(input, target, index, self.views)
        networks = self._modules  # as in Objective.forward
        teacher = networks.get("teacher")
        return networks["trainable_module"](batch, None if teacher is None else teacher(batch.images))

    def at(self, *, epoch: float = 0.0, progress: float = 0.0) -> "DistillationTask":
        """Where training stands within the phase: epochs done (with their fraction), and the done share of it in [0, 1]. Returns the task."""
        self.objective_module[0].at(
            epoch, progress, lambda: Where(epoch, progress, self.phase.generation, self.phase.name, self.teacher is not None)
        )
        return self

    def listens(self) -> bool:
        """Whether anything asks where training stands, so that `at` does something."""
        return self.objective_module[0].listens

    def remembers(self) -> bool:
        """Whether a component has something to do after a step, so that `after_step` does something."""
        return self.objective_module[0].remembers

    def after_step(self, *, updated: bool = True) -> None:
        """Comes after each batch's forward and backward pass, and after the optimiser's step where it took one.

        updated: whether the optimiser took one; a loop that accumulates gradients over several batches says False for those between.
        """
        self.objective_module[0].after_step(updated)

    # -- timm's protocol ----------------------------------------------------------------------------------------------

    def prepare_distributed(self, device_ids: list | None = None, **ddp_kwargs: Any) -> "DistillationTask":
        from torch.nn.parallel import DistributedDataParallel

        self.trainable_module = DistributedDataParallel(self.trainable_module, device_ids=device_ids, **ddp_kwargs)
        return self

    def compile(self, backend: str = "inductor", mode: str | None = None, **compile_kwargs: Any) -> nn.Module:
        """Compiles the whole objective in one graph, before DDP wraps it."""
        for module in self.modules():
            if isinstance(module, Tapped):
                module.listen()
        self.trainable_module = torch.compile(self.trainable_module, backend=backend, mode=mode, fullgraph=True, **compile_kwargs)
        if self.teacher is not None:
            self.teacher = torch.compile(self.teacher, backend=backend, mode=mode, **compile_kwargs)
        return self.get_eval_model()

    def network(self, ema: bool = False) -> nn.Module:
        """The network of this phase, images -> Outputs, without DDP's or compile's wrapping."""
        if ema:
            return self.trainable_module_ema.module.model
        return self.objective.model

    def get_eval_model(self, module: nn.Module | None = None, ema: bool = False) -> nn.Module:
        if module is not None:
            return LastExit(unwrap_model(module).model)
        return LastExit(self.network(ema))

    def setup_ema(self, decay: float = 0.9999, use_warmup: bool = False, device: torch.device | None = None, **kwargs: Any) -> nn.Module:
        from timm.utils import ModelEmaV3

        self.trainable_module_ema = ModelEmaV3(self.objective, decay=decay, use_warmup=use_warmup, device=device, **kwargs)
        return self.trainable_module_ema

    def update_ema(self, step: int | None = None) -> None:
        if "trainable_module_ema" in self._modules:  # has_ema() looks for it in vain in every step
            self.trainable_module_ema.update(self.objective, step=step)

    def get_clip_parameters(self, exclude_head: bool = False) -> list[nn.Parameter]:
        """The parameters that train (timm's adaptive clipping leaves the classifiers out)."""
        heads = {id(p) for m in self.objective.model.modules() if isinstance(m, nn.Linear) and exclude_head for p in m.parameters()}
        return [p for p in self.objective.parameters() if p.requires_grad and id(p) not in heads]


def make_batch(images: Tensor, target: Tensor, index: Tensor | None, views: Callable | None = None) -> Batch:
    """A batch from what a loader gives; soft labels [B, K] keep their largest class as the label; views multiply the rows."""
    soft = target if target.ndim == 2 else None
    labels = target.argmax(dim=1) if soft is not None else target
    if views is None:
        return Batch(images, labels, index, soft)
    multiplied = views(images)
    count = multiplied.shape[0] // images.shape[0]

    def repeat(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.repeat_interleave(count, dim=0)

    return Batch(multiplied, labels.repeat_interleave(count), repeat(index), repeat(soft), views=count)

"""What a component may ask for once, when a run is composed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn


@dataclass
class Shapes:
    """Shapes of a network's outputs as the dry run found them, without the batch: logits (K,), embeddings (D,), maps (C, H, W)."""

    logits: list[tuple[int, ...]] = field(default_factory=list)
    embeddings: list[tuple[int, ...]] = field(default_factory=list)
    maps: list[tuple[int, ...]] = field(default_factory=list)
    extras: dict[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def exits(self) -> int:
        return len(self.logits)


@dataclass
class Context:
    """Facts of a run. Given to exits and schedules when they are built, and to the optional `setup(context)` of any other component.

    `labels` [N] are the training set's, int64; `backbone(name=None)` builds another backbone freshly initialised, tapped as the student is
    (each call draws anew: deep copies would stay identical for ever). `student` and its shapes are there from `setup` on. `has_dev`: there is
    a dev split; without one a phase's result has no metrics. `soft_labels`: mixup or cutmix makes some, and batches have them.
    `teacher_exits_new`: the given teacher got the method's exits for this run, and nobody has trained them.
    """

    num_classes: int
    image_size: tuple[int, int] = (224, 224)
    in_chans: int = 3
    seed: int = 0
    epochs: int = 1
    batch_size: int = 64
    steps_per_epoch: int = 1
    num_samples: int = 0
    has_dev: bool = True
    soft_labels: bool = False
    labels: Tensor | None = None
    taps: Sequence[int | str] | str | None = None
    backbone: Callable[..., nn.Module] | None = None
    student: nn.Module | None = None
    student_shapes: Shapes = field(default_factory=Shapes)
    teacher_shapes: Shapes | None = None
    teacher_exits_new: bool = False

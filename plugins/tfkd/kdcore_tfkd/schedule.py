"""Self-training's two phases: a network is trained, frozen, and teaches another of its kind."""

from typing import Annotated, Literal

from annotated_types import Ge

from kdcore import Context, Phase
from kdcore.schedules import Schedule


def itself(
    context: Context,
    *,
    start: Literal["fresh", "pretrained"] = "fresh",
    teacher_epochs: Annotated[int, Ge(1)] | None = None,
    checkpoint: Literal["best", "last"] = "best",
) -> Schedule:
    """The student's phase, with `--teacher`; without one, the same network is trained before, and what it becomes is the teacher.

    start: the student's weights, `fresh` (drawn anew, as the paper's) or `pretrained` (the weights that the run began with). teacher_epochs:
    of the teacher's phase (default: `--epochs`). checkpoint: the teacher's best epoch on dev, as in the code, or its last. The teacher's
    phase has every term of the method that needs no teacher.
    """
    teacher = "given"
    if context.teacher_shapes is None:
        first = yield Phase("teacher", epochs=teacher_epochs, teacher=None)
        teacher = first.best_checkpoint if checkpoint == "best" and first.best_checkpoint else first.checkpoint
    return (yield Phase("student", start=start, teacher=teacher, generation=2))


itself.provides = ("teacher",)  # type: ignore[attr-defined]  # so that terms which need a teacher may come without --teacher

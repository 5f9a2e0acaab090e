"""The teacher's exits first, where they are new; then the student, all its exits at once or one more with every phase."""

from collections.abc import Generator
from typing import Annotated, Literal

from annotated_types import Ge

from kdcore import Context, Phase, PhaseResult, needs
from kdcore.schedules import Schedule

TeacherExits = Literal["frozen", "joint"]
Epochs = Annotated[int, Ge(1)] | None


@needs("able_teacher")
def joint(
    context: Context, *, teacher_exits: TeacherExits = "frozen", teacher_epochs: Epochs = None, teacher_milestones: list[int] | None = None
) -> Schedule:
    """All of the student's exits at once, after the teacher's, where they are new.

    teacher_exits: they train on the teacher as it stands (`frozen`), or the teacher trains with them (`joint`). A teacher that came with
    exits of its own, such as a run's, keeps them as they are, without that phase. teacher_epochs: its length (default: `--epochs`).
    teacher_milestones: its `--decay-milestones`, where those of the run do not fit. A teacher that knows no more than guessing is refused.
    """
    yield from _teacher_first(context, teacher_exits, teacher_epochs, teacher_milestones)
    return (yield Phase("main"))


@needs("able_teacher")
def phased(
    context: Context,
    *,
    early_epochs: Epochs = None,
    teacher_exits: TeacherExits = "frozen",
    teacher_epochs: Epochs = None,
    teacher_milestones: list[int] | None = None,
) -> Schedule:
    """One exit more with every phase: the first trains exit 1 and the stages before it, the second exits 1 and 2, and so on.

    early_epochs: of each phase but the last, which lasts `--epochs` (default: that too). teacher_exits: they train on the teacher as it stands
    (`frozen`), or the teacher trains with them (`joint`). teacher_epochs: length of their phase (default: `--epochs`). teacher_milestones: its
    `--decay-milestones`. Stages that trained go on training. The teacher is as in `mskd.joint`; with one exit, this is it.
    """
    yield from _teacher_first(context, teacher_exits, teacher_epochs, teacher_milestones)
    for number in range(1, context.student_shapes.exits):
        yield Phase(f"to-exit-{number}", epochs=early_epochs, up_to=number)
    return (yield Phase("main"))


def _teacher_first(
    context: Context, how: TeacherExits, epochs: int | None, milestones: list[int] | None
) -> Generator[Phase, PhaseResult, None]:
    """The phase that trains a teacher's exits, with every term that needs no teacher: nothing where none are new."""
    if not context.teacher_exits_new:
        return
    trains = ("teacher_exits",) if how == "frozen" else ("teacher", "teacher_exits")
    optim = {} if milestones is None else {"decay_milestones": milestones}
    yield Phase("teacher-exits", epochs=epochs, model="teacher", teacher=None, trains=trains, optim=optim)

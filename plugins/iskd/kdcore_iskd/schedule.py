"""Generations, and the two baselines that train for as many epochs.

A generation never starts from the one before it: S_k begins where S_1 began, with the same head, and S_(k-1) is its frozen teacher.
"""

from typing import Annotated, Literal

from annotated_types import Ge

from kdcore import Context, KdError, Phase, PhaseResult
from kdcore.schedules import Schedule

Start = Literal["pretrained", "fresh"]
Checkpoint = Literal["last", "best"]


def generations(
    context: Context,
    *,
    start: Start = "pretrained",
    max_generations: Annotated[int, Ge(1)] = 6,
    min_delta: Annotated[float, Ge(0)] = 0.0,
    patience: Annotated[int, Ge(1)] | None = 1,
    checkpoint: Checkpoint = "last",
) -> Schedule:
    """Generations of `--epochs` epochs until dev top-1 shows no gain; the best of them is delivered.

    start: the weights with which every generation begins, `pretrained` (the run's initial ones, head included, the same to the bit) or `fresh`
    (drawn anew for each). max_generations: at most so many; the paper trained 6. min_delta: percentage points by which a generation has to
    beat all before it. patience: end after so many in a row that do not; `none` trains them all. checkpoint: the epoch that teaches and by
    which generations are compared, the `last` or the `best` on dev. Raises KdError where a teacher is given.
    """
    _refuse_teacher(context, "iskd.generations")
    if patience is not None and not context.has_dev:
        raise KdError(
            "iskd.generations stops by accuracy on dev, and there is no dev split: add --dev-fraction 0.1, or "
            f"-o iskd.generations.patience=none to train all {max_generations}"
        )
    result = best = yield Phase("generation-1", start=start, teacher=None)
    without_gain = 0
    for number in range(2, max_generations + 1):
        taught_by = of(result, checkpoint)
        result = yield Phase(f"generation-{number}", start=start, teacher=taught_by, generation=number)
        gain = top1(result, checkpoint) - top1(best, checkpoint)
        best = result if gain > 0 or not context.has_dev else best
        without_gain = 0 if gain > min_delta else without_gain + 1
        if patience is not None and without_gain >= patience:
            break
    return best


def large_epoch(context: Context, *, generations: Annotated[int, Ge(1)] = 6) -> Schedule:
    """One phase as long as so many generations: what the epochs do by themselves (the paper's E8).

    generations: of ISKD, whose epochs it has.
    """
    return (yield Phase("main", epochs=generations * context.epochs))


def tfkd_self(
    context: Context,
    *,
    generations: Annotated[int, Ge(2)] = 6,
    start: Start = "pretrained",
    checkpoint: Checkpoint = "last",
) -> Schedule:
    """One generation of `--epochs` epochs, and one student that it teaches for the rest of the epochs of so many generations (the paper's E9).

    generations: of ISKD, whose epochs are shared out. start: the student's first weights, `pretrained` (those of the first generation) or `fresh`. checkpoint: the epoch that teaches.
    """
    _refuse_teacher(context, "iskd.tfkd-self")
    first = yield Phase("generation-1", start=start, teacher=None)
    rest = (generations - 1) * context.epochs
    return (yield Phase("student", epochs=rest, start=start, teacher=of(first, checkpoint), generation=2))


generations.provides = tfkd_self.provides = ("teacher",)  # type: ignore[attr-defined]  # terms that need a teacher may come without --teacher


def of(result: PhaseResult, checkpoint: Checkpoint) -> str:
    """The checkpoint that teaches. Without a dev split there is no best one but the last."""
    return (checkpoint == "best" and result.best_checkpoint) or result.checkpoint


def top1(result: PhaseResult, checkpoint: Checkpoint) -> float:
    """Dev top-1 of the deepest exit in percent, at that checkpoint; 0 without a dev split."""
    metrics = result.best_metrics if checkpoint == "best" else result.metrics
    return metrics.get("top1", 0.0)


def _refuse_teacher(context: Context, name: str) -> None:
    if context.teacher_shapes is not None:
        raise KdError(f"{name} makes its own teachers: leave out --teacher, or add --schedule single for one student of that teacher")

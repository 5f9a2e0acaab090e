"""The schedules, driven by hand."""

import pytest

from kdcore import Context, KdError, PhaseResult
from kdcore.context import Shapes
from kdcore_iskd import generations, large_epoch, tfkd_self


def walk(schedule, accuracies, best=None):
    """The phases, and the result that is delivered, when the generations come to these dev top-1 (at the last epoch, and at the best)."""
    phases, result = [], None
    best = best or accuracies
    try:
        while True:
            phases.append(schedule.send(result))
            k = len(phases) - 1
            last = {} if accuracies is None else {"top1": accuracies[k]}
            highest = {} if accuracies is None else {"top1": best[k]}
            result = PhaseResult(phases[-1], last, f"{k + 1}/last", highest, f"{k + 1}/best" if highest else "")
    except StopIteration as stop:
        return phases, stop.value


def test_it_stops_after_three_where_the_third_gains_nothing():
    phases, chosen = walk(generations(Context(3)), [0.70, 0.72, 0.72, 0.9])
    assert [phase.name for phase in phases] == ["generation-1", "generation-2", "generation-3"]
    assert [phase.generation for phase in phases] == [1, 2, 3] and chosen.phase is phases[1]
    assert [phase.teacher for phase in phases] == [None, "1/last", "2/last"]
    assert {phase.start for phase in phases} == {"pretrained"} and {phase.epochs for phase in phases} == {None}


@pytest.mark.parametrize(
    ("options", "accuracies", "count", "best"),
    [
        ({}, [70, 71, 72, 73, 74, 75, 99], 6, 6),
        ({"max_generations": 2}, [70, 71, 72], 2, 2),
        ({"max_generations": 1}, [70], 1, 1),
        ({}, [70, 69, 80], 2, 1),
        ({"min_delta": 0.5}, [70, 70.4, 80], 2, 2),  # no obvious gain, and yet the best
        ({"patience": 2}, [70, 69, 71, 70, 71, 80], 5, 3),  # of equals the first
        ({"patience": None}, [70, 60, 50, 71, 50, 40], 6, 4),
    ],
)
def test_when_it_stops_and_what_it_delivers(options, accuracies, count, best):
    phases, chosen = walk(generations(Context(3), **options), accuracies)
    assert len(phases) == count and chosen.phase is phases[best - 1]


def test_the_best_epoch_teaches_and_compares_where_asked():
    phases, chosen = walk(generations(Context(3), checkpoint="best", start="fresh"), [70, 80, 90], best=[75, 74, 99])
    assert [phase.teacher for phase in phases] == [None, "1/best"] and chosen.phase is phases[0]
    assert {phase.start for phase in phases} == {"fresh"}


def test_without_a_dev_split_it_has_to_be_told_how_many():
    with pytest.raises(KdError, match="--dev-fraction"):
        next(generations(Context(3, has_dev=False)))
    phases, chosen = walk(generations(Context(3, has_dev=False), patience=None, max_generations=3, checkpoint="best"), None)
    assert chosen.phase is phases[2] and [phase.teacher for phase in phases] == [None, "1/last", "2/last"]


def test_the_baselines_have_as_many_epochs():
    (phase,), _ = walk(large_epoch(Context(3, epochs=5), generations=4), [70])
    assert phase.epochs == 20 and phase.teacher == "auto"
    (first, student), chosen = walk(tfkd_self(Context(3, epochs=5), generations=4), [70, 60])
    assert (first.epochs or 5) + student.epochs == 20 and chosen.phase is student
    assert (first.teacher, student.teacher, student.start, student.generation) == (None, "1/last", "pretrained", 2)


def test_a_given_teacher_has_no_place():
    context = Context(3, teacher_shapes=Shapes([(3,)]))
    for schedule in (generations, tfkd_self):
        with pytest.raises(KdError, match="makes its own teachers"):
            next(schedule(context))

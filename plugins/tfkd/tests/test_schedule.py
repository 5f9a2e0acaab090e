"""Self-training as a run: the teacher's phase, the student that starts afresh, and a teacher that is given."""

import pytest
import torch

import kdcore
from kdcore import Context, PhaseResult
from kdcore.context import Shapes
from kdcore_tfkd import itself


def walk(context, metrics=True, **options):
    """The phases, when every result has a best epoch (or no dev split)."""
    schedule, phases, result = itself(context, **options), [], None
    try:
        while True:
            phases.append(schedule.send(result))
            best = f"{len(phases)}/best" if metrics else ""
            result = PhaseResult(phases[-1], {}, f"{len(phases)}/last", {}, best)
    except StopIteration as stop:
        return phases, stop.value


def test_the_teacher_comes_first():
    (first, second), chosen = walk(Context(3), teacher_epochs=2)
    assert (first.name, first.teacher, first.start, first.epochs) == ("teacher", None, "stands", 2)
    assert (second.name, second.teacher, second.start, second.epochs) == ("student", "1/best", "fresh", None)
    assert chosen.phase is second and (first.generation, second.generation) == (1, 2)


@pytest.mark.parametrize(("options", "metrics"), [({"checkpoint": "last"}, True), ({}, False)])
def test_the_last_epoch_teaches_where_asked_or_without_a_dev_split(options, metrics):
    assert walk(Context(3), metrics, **options)[0][1].teacher == "1/last"


def test_a_given_teacher_takes_the_first_phase_s_place():
    (phase,), _ = walk(Context(3, teacher_shapes=Shapes([(3,)])), start="pretrained")
    assert (phase.name, phase.teacher, phase.start) == ("student", "given", "pretrained")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "self"
    settings = {"data": "digits", "train_limit": 128, "epochs": 1, "batch_size": 64, "device": "cpu"}
    return settings, kdcore.train("test_resnet_32px", method="tfkd.self", run=str(folder), **settings), folder


def test_a_run_trains_the_teacher_and_then_its_student(run):
    import json

    _, _, folder = run
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [record["phase"] for record in records] == ["teacher", "student"]
    assert [set(record["train"]) >= {"kd"} for record in records] == [False, True]
    phases = json.loads((folder / "phases.json").read_text())
    assert phases[1]["phase"]["teacher"] in (phases[0]["checkpoint"], phases[0]["best_checkpoint"])


def test_a_run_can_teach(run, tmp_path):
    import json

    settings, _, folder = run
    kdcore.train("test_resnet_32px", method="tfkd.self", teacher=str(folder), run=str(tmp_path / "taught"), **settings)
    (record,) = [json.loads(line) for line in (tmp_path / "taught" / "metrics.jsonl").read_text().splitlines()]
    assert record["phase"] == "student" and record["train"]["kd"] > 0


def test_the_student_starts_from_other_weights_than_its_teacher():
    composed = kdcore.compose("test_resnet", "tfkd.self", num_classes=3, image_size=32)
    first = {name: tensor.clone() for name, tensor in composed.student.state_dict().items()}
    composed.start(composed.phases[1])
    weights = [name for name, tensor in composed.student.named_parameters() if tensor.ndim > 1]
    assert all(not torch.equal(first[name], composed.student.state_dict()[name]) for name in weights)

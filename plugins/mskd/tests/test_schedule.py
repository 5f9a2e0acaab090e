"""The schedules by hand and in runs: the teacher's exits, one exit more with every phase, and a teacher that knows nothing."""

from pathlib import Path

import pytest
import torch

import kdcore
from kdcore import Context, KdError, Phase, PhaseResult, compose
from kdcore.backbones import create_backbone
from kdcore.context import Shapes
from kdcore.runs import Run
from kdcore.training import Watch
from kdcore_mskd import joint, phased

TIMES = ("minutes", "seconds_this_time", "estimated_minutes")


def phases_of(schedule):
    """All that it yields, and what it delivers, where no result matters."""
    found, result = [], None
    try:
        while True:
            found.append(schedule.send(result))
            result = PhaseResult(found[-1], {}, f"{len(found)}/last")
    except StopIteration as stop:
        return found, stop.value


def context(exits=3, new=False):
    return Context(3, student_shapes=Shapes([(3,)] * exits), teacher_exits_new=new)


def test_the_phases():
    (main,), chosen = phases_of(joint(context()))
    assert main == Phase("main") and chosen.phase is main
    found, chosen = phases_of(phased(context(new=True), early_epochs=2, teacher_epochs=5, teacher_exits="joint"))
    assert [(p.name, p.model, p.epochs, p.up_to) for p in found] == [
        ("teacher-exits", "teacher", 5, None),
        ("to-exit-1", "student", 2, 1),
        ("to-exit-2", "student", 2, 2),
        ("main", "student", None, None),
    ]
    assert found[0].trains == ("teacher", "teacher_exits") and chosen.phase is found[-1]


def test_phased_equals_joint_with_one_exit():
    assert phases_of(phased(context(exits=1), early_epochs=2)) == phases_of(joint(context(exits=1)))


def test_each_phase_trains_its_exits_and_the_stages_before_them():
    teacher = create_backbone("test_resnet_32px", num_classes=3)
    composition = compose("test_resnet_32px", "mskd", num_classes=3, image_size=16, teacher=teacher, schedule="mskd.phased")
    images, labels, seen = torch.randn(4, 3, 16, 16), torch.tensor([0, 1, 2, 0]), []
    for number, phase in enumerate(composition.phases, start=1):
        task = composition.task(phase)
        free = {name.split(".", 1)[1] for name, parameter in task.objective.named_parameters() if parameter.requires_grad}
        stages = {name.split(".")[2] for name in free if name.startswith("backbone.net.layer")}
        exits = {name.split(".")[1] for name in free if name.startswith("branches.")}
        assert stages == {f"layer{k}" for k in range(1, number + 1)}
        assert exits == {str(k) for k in range(min(number, 3))}
        assert any(name.startswith("backbone.net.fc") for name in free) == (number == 4)
        seen.append(task.eval()(images, labels)["ce"].item())
    logits = composition.student.eval()(images).logits
    own = [torch.nn.functional.cross_entropy(entry, labels).item() for entry in logits]
    assert seen == pytest.approx([sum(own[:number]) for number in (1, 2, 3, 4)], abs=1e-5)


def test_a_phase_that_no_term_reaches_is_refused():
    method = kdcore.Method({"ce": kdcore.Term(kdcore.CE(), exits="deepest")}, exits=kdcore.linear)
    for phase, says in ((Phase(up_to=2), "no term sees an exit as shallow"), (Phase(up_to=0), "goes up to exit 0")):
        method.schedule = lambda context, phase=phase: (yield phase)
        with pytest.raises(KdError, match=says):
            compose("test_resnet_32px", method, num_classes=3, image_size=16)


# -- runs -------------------------------------------------------------------------------------------------------------------------


class Stop(KeyboardInterrupt):
    pass


class Stopping(Watch):
    def __init__(self, phase):
        self.phase_name = phase

    def epoch(self, record):
        if record["phase"] == self.phase_name:
            raise Stop


def test_a_run_of_oto_and_the_same_in_parts(few, taught, tmp_path):
    settings = {**few, "epochs": 1, "method": "mskd.oto", "teacher": taught, "schedule": "mskd.phased"}
    whole = kdcore.train(**settings, run=tmp_path / "whole")
    records = whole.run.metrics()
    assert [record["phase"] for record in records] == ["teacher-exits", "to-exit-1", "to-exit-2", "to-exit-3", "main"]
    assert [set(record["train"]) for record in records] == [{"loss", "ce"}] + [{"loss", "ce", "kd"}] * 4
    assert {f"exit{k}/top1" for k in (1, 2, 3, 4)} | {"ensemble/top1"} <= set(records[0]["dev"])
    assert (
        records[0]["dev"]["exit4/top1"] == Run(Path(taught)).results()["best"]["dev"]["exits"][0]["top1"]
    )  # the frozen teacher's own head
    assert len(whole.results["best"]["test"]["exits"]) == 4 and "mean_logits" in whole.results["best"]["test"]["ensembles"]
    with pytest.raises(Stop):
        kdcore.train(**settings, run=tmp_path / "parts", watch=Stopping("to-exit-2"))
    again = kdcore.train(run=tmp_path / "parts", resume=True)
    ours, theirs = ([{k: v for k, v in r.items() if k not in TIMES} for r in run.metrics()] for run in (again.run, whole.run))
    assert ours == theirs
    assert all(torch.equal(a, b) for a, b in zip(again.student.state_dict().values(), whole.student.state_dict().values(), strict=True))


def test_a_run_of_mskd_can_teach_one_of_oto(few, taught, tmp_path):
    """Its exits are as many and are trained: there is no phase for them."""
    first = kdcore.train(**{**few, "epochs": 1}, method="mskd", teacher=taught, run=tmp_path / "first")
    assert [record["phase"] for record in first.run.metrics()] == ["main"]
    settings = {**few, "epochs": 1, "teacher": str(first.run.path), "method": "mskd.oto"}
    second = kdcore.train(**settings, schedule="single", run=tmp_path / "second")  # after one epoch the first knows hardly anything
    assert [record["phase"] for record in second.run.metrics()] == ["main"]


def test_a_teacher_that_guesses_is_refused_and_elsewhere_noted(few, taught, tmp_path):
    guesses = kdcore.train(**{**few, "epochs": 1, "lr": 1e-6}, method="plain", run=tmp_path / "guesses").run.path
    with pytest.raises(KdError, match=r"knows nothing that schedule 'mskd\.joint'.*add --schedule single, which takes any"):
        kdcore.train(**few, method="mskd", teacher=str(guesses), run=tmp_path / "mskd")
    assert not (tmp_path / "mskd").exists()
    notes = []

    class Noting(Watch):
        def note(self, text):
            notes.append(text)

    kdcore.train(**{**few, "epochs": 1}, method="kd", teacher=str(guesses), run=tmp_path / "kd", watch=Noting())
    assert sum(note.endswith("it has little to teach") for note in notes) == 1
    assert Run(tmp_path / "kd").results() is not None

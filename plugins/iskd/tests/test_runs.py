"""Whole runs: the same weights at every start, a teacher that stands still, a lineage that survives being killed, and the studies."""

import json
from pathlib import Path

import pytest
import torch

import kdcore
from kdcore import KdError
from kdcore.checkpoints import load_tensors
from kdcore.errors import DataError
from kdcore.lineage import lineage
from kdcore.runs import Run
from kdcore.training import Watch
from kdcore_iskd.studies import regression

GENERATIONS = {"iskd.generations.max_generations": 4, "iskd.generations.patience": "none"}
TIMES = ("minutes", "seconds_this_time", "estimated_minutes")


class Stop(KeyboardInterrupt):
    pass


class Looking(Watch):
    """Looks at the student's weights when a phase begins, and at its teacher; may end the run after a phase's first epoch."""

    def __init__(self, stop_in: int = 0) -> None:
        self.starts, self.tasks, self.forwards, self.number, self.stop_in = {}, {}, {}, 0, stop_in

    def started(self, run, prepared) -> None:
        self.composition, made = prepared.composition, prepared.composition.task

        def task(phase, **more):
            self.task = made(phase, **more)
            return self.task

        self.composition.task = task

    def phase(self, phase, number, epochs) -> None:
        self.number = number
        self.starts[number] = {name: tensor.clone() for name, tensor in self.composition.student.state_dict().items()}
        self.tasks[number], self.forwards[number] = self.task, 0
        if self.task.teacher is not None:
            self.task.teacher.register_forward_hook(lambda *_: self.count())

    def count(self) -> None:
        self.forwards[self.number] += 1

    def epoch(self, record) -> None:
        if record["phase_number"] == self.stop_in:
            raise Stop


@pytest.fixture(scope="module")
def whole(few, weights, tmp_path_factory):
    watch, options = Looking(), GENERATIONS
    folder = tmp_path_factory.mktemp("whole") / "run"
    settings = {**few, "method": "iskd", "options": options, "init": weights, "keep_all": True, "test_every_epoch": True}
    return settings, kdcore.train(**settings, run=folder, watch=watch), watch


def test_every_generation_begins_with_the_same_weights_to_the_bit(whole, weights):
    _, _, watch = whole
    assert list(watch.starts) == [1, 2, 3, 4]
    for start in watch.starts.values():
        assert all(torch.equal(start[name], watch.starts[1][name]) for name in start)
    given, _ = load_tensors(Run(Path(weights)).absolute(Run(Path(weights)).results()["checkpoints"]["delivered"]))
    assert all(torch.equal(watch.starts[1][name], given[f"student.{name}"]) for name in watch.starts[1])  # the head too


def test_the_teacher_is_the_last_generation_and_stands_still(whole):
    """Its parameters and the statistics of its BatchNorm, after two epochs of teaching."""
    _, trained, watch = whole
    recorded = json.loads((trained.run.path / "phases.json").read_text())
    for number in (2, 3, 4):
        saved, _ = load_tensors(trained.run.absolute(recorded[number - 2]["checkpoint"]))
        state = watch.tasks[number].teacher.state_dict()
        for name, tensor in watch.tasks[number].teacher.model.state_dict().items():
            assert torch.equal(tensor, saved[f"student.{name}"]), name
        assert any("running_mean" in name for name in state) and not any(p.requires_grad for p in watch.tasks[number].teacher.parameters())


def test_nobody_teaches_the_first_generation(whole):
    _, trained, watch = whole
    assert watch.tasks[1].teacher is None and watch.forwards[1] == 0
    assert watch.forwards[2] == watch.forwards[3] == 6  # 2 epochs of 3 steps: none for evaluation
    terms = [set(record["train"]) for record in trained.run.metrics()]
    assert terms[:2] == [{"loss", "ce"}] * 2 and terms[2:] == [{"loss", "ce", "kd"}] * 6
    first = trained.run.metrics()[0]["train"]
    assert first["loss"] == pytest.approx(first["ce"])


def test_interrupted_in_generation_3_it_comes_to_the_same(whole, tmp_path):
    settings, trained, _ = whole
    with pytest.raises(Stop):
        kdcore.train(**settings, run=tmp_path / "parts", watch=Looking(stop_in=3))
    assert [entry["epochs"] for entry in lineage(Run(tmp_path / "parts"))] == ["2/2", "2/2", "1/2"]
    torch.rand(5)
    again = kdcore.train(run=tmp_path / "parts", resume=True)
    assert lineage(again.run) == lineage(trained.run)
    assert (again.run.path / "phases.json").read_text() == (trained.run.path / "phases.json").read_text()
    ours, theirs = ([{k: v for k, v in r.items() if k not in TIMES} for r in run.metrics()] for run in (again.run, trained.run))
    assert ours == theirs
    assert all(torch.equal(a, b) for a, b in zip(again.student.state_dict().values(), trained.student.state_dict().values(), strict=True))


def test_the_lineage_is_in_the_run(whole):
    _, trained, _ = whole
    found = lineage(trained.run)
    assert [entry["phase"] for entry in found] == [f"generation-{k}" for k in (1, 2, 3, 4)]
    assert [entry["teacher"] for entry in found] == [None, *(f"generation-{k}, epoch 2" for k in (1, 2, 3))]
    assert {entry["start"] for entry in found} == {"pretrained"} and sum(entry["delivered"] for entry in found) == 1
    best = max(entry["dev"] for entry in found)
    assert next(entry for entry in found if entry["delivered"])["dev"] == best


def test_without_weights_there_is_one_line_with_what_to_type(few, tmp_path):
    with pytest.raises(KdError, match=r"add --init RUN, or -o iskd\.generations\.start=fresh"):
        kdcore.train(**few, method="iskd", run=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_teacher_of_other_classes(few, tmp_path, weights):
    (tmp_path / "other").mkdir()
    for name in ("student.safetensors", "model.json"):
        (tmp_path / "other" / name).write_bytes((Path(weights) / name).read_bytes())
    about = json.loads((tmp_path / "other" / "model.json").read_text())
    about["class_names"] = about["class_names"][::-1]
    (tmp_path / "other" / "model.json").write_text(json.dumps(about))
    with pytest.raises(DataError, match="trained on other classes"):
        kdcore.train(**few, method="iskd", schedule="single", teacher=str(tmp_path / "other" / "student.safetensors"), run=tmp_path / "run")


def test_the_baselines_of_as_many_epochs_stand_in_one_table(few, tmp_path, monkeypatch):
    """The README's comparison, its cells in this process: every row, and a note of what each was trained for."""
    from kdcore.comparison import run, worker

    def inline(cells, *, threads, by, **_):
        for cell in cells:
            yield cell, worker.run_cell(cell.path, cell.settings, threads=threads, by=by)

    monkeypatch.setattr(run, "run_local", inline)
    fresh = {"iskd.generations.start": "fresh", "iskd.tfkd-self.start": "fresh", "iskd.generations.max_generations": 2}
    rows = ["iskd", "iskd.large-epoch:iskd.large-epoch.generations=2", "iskd.tfkd-self:iskd.tfkd-self.generations=3"]
    settings = {**few, "epochs": 1, "options": fresh, "baselines": False, "seeds": 1, "threads": 1}
    del settings["model"]
    done = kdcore.compare("test_resnet_32px", method=",".join(rows), folder=tmp_path / "compare", **settings)
    assert done.failed == {} and [row.name for row in done.comparison.rows] == rows
    assert f"epochs trained in all phases: {rows[0]} 2, {rows[1]} 2, {rows[2]} 3" in done.comparison.notes


# -- studies ----------------------------------------------------------------------------------------------------------------------


def test_every_epoch_of_the_first_generation_teaches(whole):
    _, trained, _ = whole
    notes = []
    done = kdcore.analyze("iskd.teacher-student", trained.run.path, {"epochs": 1}, note=notes.append)
    rows = done.analysis.tables["teacher-student"]
    assert [row["epoch"] for row in rows] == [1, 2] and len(notes) == 2
    records = trained.run.metrics()
    assert [row["teacher"] for row in rows] == [record["dev"]["top1"] for record in records[:2]]
    students = [Run(done.folder / "students" / f"epoch-{epoch:04d}") for epoch in (1, 2)]
    assert [
        student.config()["teacher"].endswith(f"01-generation-1/epoch-{epoch:04d}.safetensors") for epoch, student in enumerate(students, 1)
    ]
    assert all(student.config()["schedule"] == "single" and student.metrics()[0]["train"]["kd"] > 0 for student in students)
    (summary,) = done.analysis.tables["summary"]
    assert summary["baseline"] == records[1]["dev"]["top1"]
    assert summary["worse teacher, better student"] == sum(row["teacher"] < summary["baseline"] < row["student"] for row in rows)
    again = kdcore.analyze("iskd.teacher-student", trained.run.path, {"epochs": 1}, note=notes.append)
    assert again.folder == done.folder and len(notes) == 2 and again.analysis.tables == done.analysis.tables  # nothing is trained twice


def test_the_regression():
    found = regression([60.0, 70.0, 80.0], [71.0, 76.0, 81.0])
    assert (found["slope"], found["intercept"], found["R"]) == pytest.approx((0.5, 41.0, 1.0))
    assert regression([70.0, 70.0], [1.0, 2.0]) is None


def test_alpha_with_the_teacher_fixed(whole):
    _, trained, _ = whole
    done = kdcore.analyze("iskd.alpha-sweep", trained.run.path, {"epochs": 1, "alphas": [0.0, 1.0], "generation": 3})
    rows = done.analysis.tables["alpha-sweep"]
    assert [row["alpha"] for row in rows] == [0.0, 1.0] and {row["teacher"] for row in rows} == {trained.run.metrics()[3]["dev"]["top1"]}
    configs = [Run(path).config() for path in sorted((done.folder / "students").glob("*[0-9]"))]
    assert [config["options"]["alpha"] for config in configs] == [0.0, 1.0]
    assert len({config["teacher"] for config in configs}) == 1 and "02-generation-2" in configs[0]["teacher"]
    with pytest.raises(KdError, match=r"alphas=1\.5 is refused"):
        kdcore.analyze("iskd.alpha-sweep", trained.run.path, {"alphas": [1.5]})
    with pytest.raises(DataError, match="generation 9 needs 8"):
        kdcore.analyze("iskd.alpha-sweep", trained.run.path, {"generation": 9})


def test_size_and_accuracy(whole, weights):
    _, trained, _ = whole
    done = kdcore.analyze("iskd.size-accuracy", [trained.run.path, weights])
    rows = {row["method"]: row for row in done.analysis.tables["size-accuracy"]}
    assert rows["iskd"]["generations"] == 4 and rows["iskd"]["first generation"] == trained.run.metrics()[1]["test"]["top1"]
    assert rows["plain"]["parameters"] == rows["iskd"]["parameters"] and rows["plain"]["first generation"] is None
    with pytest.raises(DataError, match="--keep-all"):
        kdcore.analyze("iskd.teacher-student", weights)

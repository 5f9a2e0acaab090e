"""Bad input of the self-distillation plugins, and mixes in which a part would do nothing: the whole line that a user reads."""

import json
import re
import shutil

import numpy as np
import pytest
import timm
import torch

import kdcore
from kdcore import CE, KL, KdError, Linear, Phase, deepest, linear, teacher
from kdcore.checkpoints import load_tensors
from kdcore.composition import Composition
from kdcore.errors import DataError
from kdcore.methods import Method, Taught, Term, Where
from kdcore.plugins import Plugins

SMALL = {"model": "test_resnet_32px", "img_size": 16, "epochs": 1, "batch_size": 16, "amp": "none", "device": "cpu", "workers": 0}


def label(family: str, name: str) -> str:
    return Plugins().part(family, name).label


def line(kind: type[KdError], function, *args, **options) -> str:
    """The one line with which a call is refused."""
    with pytest.raises(kind) as refused:
        function(*args, **options)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    """42 grey images of seven classes."""
    generator = np.random.default_rng(0)
    images, labels = generator.integers(0, 255, (42, 8, 8)).astype(np.uint8), np.arange(42) % 7
    path = tmp_path_factory.mktemp("data") / "seven.npz"
    np.savez(path, train_images=images, train_labels=labels, val_images=images[:14], val_labels=labels[:14])
    return str(path)


@pytest.fixture(scope="module")
def taught(data, tmp_path_factory):
    return kdcore.train(data=data, method="plain", run=tmp_path_factory.mktemp("runs") / "teacher", **SMALL).run.path


@pytest.fixture
def with_classes(taught, data, tmp_path):
    """The line that refuses the teacher, had it been trained on these classes. Seven are the data's: 0 to 6."""

    def refused(names: list[str]) -> str:
        other = tmp_path / "other"
        shutil.copytree(taught, other)
        about = json.loads((other / "model.json").read_text())
        (other / "model.json").write_text(json.dumps({**about, "class_names": names}))
        found = line(
            DataError, kdcore.train, data=data, method="osakd", loss=["kl@teacher"], teacher=str(other), run=tmp_path / "run", **SMALL
        )
        assert not (tmp_path / "run").exists()
        return found.replace(str(other), "TEACHER")

    return refused


# -- a teacher's classes ----------------------------------------------------------------------------------------------------------


def test_a_teacher_of_another_number_of_classes(with_classes):
    assert with_classes(list("012345")) == (
        "the teacher TEACHER was trained on other classes (0, 1, 2, 3, 4 and 1 more) than the data's (0, 1, 2, 3, 4 and 2 more)"
    )


def test_a_teacher_of_the_same_classes_in_another_order(with_classes):
    """They differ beyond the names that are shown."""
    assert with_classes(list("0123465")) == (
        "the teacher TEACHER was trained on other classes (0, 1, 2, 3, 4 and 2 more) than the data's (0, 1, 2, 3, 4 and 2 more), "
        "the same in another order: class 5 is '6' there and '5' here"
    )


def test_a_teacher_of_as_many_other_classes(with_classes):
    assert with_classes(list("012345x")) == (
        "the teacher TEACHER was trained on other classes (0, 1, 2, 3, 4 and 2 more) than the data's (0, 1, 2, 3, 4 and 2 more): "
        "class 6 is 'x' there and '6' here"
    )


def test_a_teacher_module_of_another_number_of_classes():
    teacher = timm.create_model("test_resnet", num_classes=4)
    found = line(KdError, kdcore.compose, "test_resnet", "kd", num_classes=3, image_size=32, teacher=teacher)
    assert found == f"{label('losses', 'kl')}: soft targets 'teacher' have 4 classes and an exit that imitates them has 3"


# -- classes and their order ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["mango", "osakd", "tfkd.reg", "byot"])
def test_a_batch_of_one_class_trains(method):
    composition = kdcore.compose("test_resnet_32px", method, num_classes=4, image_size=16, batch_size=16)
    task = composition.task().train()
    answer = task(torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.full((16,), 2), torch.arange(16))
    answer["loss"].backward()
    assert answer["loss"].isfinite() and all(p.grad.isfinite().all() for p in task.parameters() if p.grad is not None)
    triplets = {name: answer[name].item() for name in answer if name.startswith(("triplet", "ordinal"))}
    assert triplets == (dict.fromkeys(("triplet", "ordinal"), 0.0) if method == "mango" else {})


@pytest.mark.parametrize("more", [{"method": "mango", "options": {"order": [0, 2, 3]}}, {"method": "iskd", "losses": ["mango.ordinal"]}])
def test_an_order_that_does_not_match_the_classes(more):
    options = more.get("options", {"mango.ordinal.order": [0, 2, 3]})
    found = line(KdError, kdcore.compose, "test_resnet", num_classes=3, image_size=32, **{**more, "options": options})
    assert found == (
        "mango.ordinal: order=[0, 2, 3] is no order of the 3 classes: name each of 0 to 2 once, from the lowest grade to the highest"
    )


# -- options and weights ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "option", "default"),
    [
        ("kd", "alpha", "default 0.9"),
        ("byot", "alpha", "or none, default None"),
        ("iskd", "alpha", "default 0.5"),
        ("iskd.tfkd-self", "alpha", "default 0.5"),
        ("tfkd.reg", "alpha", "or none, default None"),
        ("tfkd.self", "alpha", "or none, default None"),
        ("osakd", "lam", "default 0.9"),
        ("mango", "alpha", "default 0.005"),
    ],
)
@pytest.mark.parametrize(
    ("value", "refusal"), [(1.5, "it should be less than or equal to 1"), (-0.1, "it should be greater than or equal to 0")]
)
def test_alpha_outside_0_to_1(method, option, default, value, refusal):
    found = line(KdError, kdcore.compose, "test_resnet", method, num_classes=3, options={option: value}, image_size=32)
    described = f"{option}: float >= 0 <= 1{' ' if default.startswith('or') else ', '}{default}"
    assert found == f"{label('methods', method)}: {option}={value} is refused: {refusal} ({described})"


@pytest.mark.parametrize("more", [{"method": "iskd"}, {"method": "byot", "schedule": "iskd.generations", "loss": ["kl@teacher"]}])
def test_generations_that_start_pretrained_without_weights(more, data, tmp_path):
    found = line(KdError, kdcore.train, data=data, run=tmp_path / "run", **SMALL, **more)
    assert found == (
        f"{label('schedules', 'iskd.generations')} starts from pretrained weights and this run has none: "
        "add --init RUN, or -o iskd.generations.start=fresh"
    )
    assert not (tmp_path / "run").exists()


def test_generations_from_timm_s_weights_where_there_are_some(data, tmp_path):
    """Small images train from scratch unless --pretrained is typed."""
    found = line(KdError, kdcore.train, data=data, method="iskd", run=tmp_path / "run", **{**SMALL, "model": "test_resnet"})
    assert found.endswith("add --pretrained, or --init RUN, or -o iskd.generations.start=fresh")


def test_pretrained_where_timm_has_no_weights(data, tmp_path):
    found = line(KdError, kdcore.train, data=data, method="iskd", pretrained=True, run=tmp_path / "run", **SMALL)
    assert found == "timm has no pretrained weights for 'test_resnet_32px': train it with --scratch, or give weights with --init FILE"


# -- parts that do not meet -------------------------------------------------------------------------------------------------------


def test_a_teacher_that_nobody_reads(taught, data, tmp_path):
    found = line(KdError, kdcore.train, data=data, method="byot", teacher=str(taught), run=tmp_path / "run", **SMALL)
    assert found.startswith(
        f"--teacher {taught} is used by no part of method 'byot': add --method kd or --loss kl@teacher, or leave it out"
    )


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (
            {"method": "byot", "soft_targets": "osakd.knn"},
            r"byot\.hint.* reads embeddings, which the soft targets 'osakd\.knn' do not give",
        ),
        ({"method": "osakd", "soft_targets": "deepest"}, r"soft targets 'deepest' .* needs at least 2 exits, .*add --exits linear"),
        ({"method": "osakd", "losses": ["mango.triplet:shallow"]}, r"mango\.triplet.* is for shallow exits .*add --exits linear"),
        (
            {"method": "plain", "soft_targets": "osakd.knn"},
            r"no term of method 'plain' has soft targets; add one with --loss kl@osakd\.knn",
        ),
        (
            {"method": "tfkd.reg", "losses": ["mse@tfkd.virtual"], "options": {"mse.space": "logits"}},
            r"mse.* reads logits, which .*virtual",
        ),
    ],
)
def test_soft_targets_that_a_loss_cannot_read(more, says):
    assert re.search(says, line(KdError, kdcore.compose, "test_resnet_32px", num_classes=4, image_size=16, **more))


# -- parts that would do nothing --------------------------------------------------------------------------------------------------

TINY = {"num_classes": 4, "image_size": 16, "batch_size": 16}


def composed(method="plain", **more) -> Composition:
    return kdcore.compose("test_resnet_32px", method, **TINY, **more)


@pytest.mark.parametrize(
    ("schedule", "phase"), [("iskd.generations", "generation-2"), ("iskd.tfkd-self", "student"), ("tfkd.self", "student")]
)
@pytest.mark.parametrize("method", ["plain", "byot"])
def test_a_teacher_that_the_schedule_makes_and_no_term_reads(method, schedule, phase):
    assert line(KdError, composed, method, schedule=schedule) == (
        f"{label('schedules', schedule)} gives phase '{phase}' a teacher, and no term of {label('methods', method)} reads it: "
        f'add --loss kl@teacher=0.5, or leave out --schedule {schedule} (a part of your own that reads step.teacher says needs = ("teacher",))'
    )
    assert composed(method, schedule=schedule, losses=["kl@teacher=0.5"]).notes == []  # what the line says to type


def test_a_teacher_that_a_part_of_one_s_own_asks_for():
    """The schedule is the method's: there is no flag to leave out."""

    def schedule(context):
        yield Phase("only", teacher="given")

    found = line(KdError, composed, Method({"ce": Term(CE())}, schedule=schedule), teacher=timm.create_model("test_resnet", num_classes=4))
    assert found.startswith(
        "schedule of method (custom) gives phase 'only' a teacher, and no term of method (custom) reads it: add --loss kl"
    )


@pytest.mark.parametrize(
    ("method", "more", "note"),
    [
        ("iskd", {}, "phases 'generation-2', 'generation-3': no term that has a weight reads the teacher, which teaches nothing"),
        ("kd", {"teacher": "test_resnet"}, "no term that has a weight reads the teacher, which teaches nothing"),
    ],
)
def test_a_share_of_0_of_the_teacher_is_a_baseline_and_a_note(method, more, note):
    more = {name: timm.create_model(model, num_classes=4) for name, model in more.items()}
    options = {"iskd.generations.max_generations": 3} if method == "iskd" else {}
    assert composed(method, options={**options, "alpha": 0}, **more).notes == [note]
    assert composed(method, options={**options, "alpha": 1}, **more).notes == []  # the labels have no weight where there is a teacher


def test_a_weight_that_moves_may_ask_for_the_teacher():
    terms = {"ce": Term(CE(), weight=lambda where: 0.5 if where.has_teacher else 1.0)}
    assert composed(Method(terms), schedule="iskd.tfkd-self").notes == [
        "phase 'student': no term that has a weight reads the teacher, which teaches nothing"
    ]


def test_a_weight_that_moves_without_a_look_at_the_teacher_does_not_use_one():
    """Else `--teacher` would be taken, and teach nothing."""

    def uses(weight):
        terms = {"ce": Term(CE()), "kd": Term(KL(), source="deepest", weight=weight)}
        method = Method(terms, {"deepest": deepest}, exits=linear)
        return composed(method, teacher=timm.create_model("test_resnet", num_classes=4)).uses_teacher

    assert not uses(Linear(0, 1)) and not uses(lambda where: where.progress)
    assert uses(lambda where: float(where.has_teacher) if where.epoch else 0.5)
    assert uses(lambda where: {"main": 1.0}[where.phase] if where.generation == 1 else {}["nobody knows"])


@pytest.mark.parametrize("method", ["iskd", "kd"])
def test_a_term_whose_teacher_never_comes_is_noted(method):
    composition = composed(method, schedule="iskd.generations", options={"iskd.generations.max_generations": 1})
    assert composition.notes == [
        f"term 'kd' ({label('losses', 'kl')}) never trains: no phase of {label('schedules', 'iskd.generations')} has a teacher"
    ]


@pytest.fixture
def two_stages():
    """A method whose schedule names the terms of its phases, and leaves one out."""

    def schedule(context):
        yield Phase("first", terms=("ce",))
        yield Phase("second", terms={"ce": 1.0, "never": 0.0})

    return Method({"ce": Term(CE()), "never": Term(CE(label_smoothing=0.1)), "nothing": Term(CE(), weight=0)}, schedule=schedule)


def test_a_term_that_no_phase_has(two_stages):
    left = "never trains: no phase of schedule of method (custom) has it"
    assert composed(two_stages).notes == [f"term 'never' ({label('losses', 'ce')}) {left}"]
    assert line(KdError, composed, two_stages, losses=["mango.triplet:deepest=0.3"]) == (
        f"{label('losses', 'mango.triplet')} never trains: schedule of method (custom) says which terms its phases have, and none has it: "
        "leave out --loss mango.triplet:deepest=0.3"
    )


@pytest.mark.parametrize(
    ("text", "instead", "imitates"),
    [
        ("ce@deepest", "ce", "kl@deepest"),
        ("ce@osakd.knn:shallow=0.3", "ce:shallow=0.3", "kl@osakd.knn:shallow=0.3"),
        ("mango.triplet@deepest=2", "mango.triplet=2", "kl@deepest=2"),
    ],
)
def test_soft_targets_for_a_loss_that_reads_none(text, instead, imitates):
    name = text.partition("@")[0]
    assert line(KdError, composed, losses=[text]) == (
        f"--loss {text}: {label('losses', name)} reads no soft targets: write --loss {instead}, or a loss that imitates them, e.g. {imitates}"
    )
    composed("deep-supervision", losses=[instead])


OWN_LOSSES = """
import torch
from kdcore import hookimpl

def blind(step, targets):
    return step.outputs.logits[0].square().mean() + torch.rand(())

def sees(step, targets):
    return (step.outputs.logits[0] - targets.logits[0]).square().mean()

def may_see(step, targets=None):
    value = step.outputs.logits[0].square().mean()
    return value if targets is None else value + targets.logits[0].square().mean()

class Later:
    reads = ("logits",)

    def __call__(self, step, targets=None):
        return step.outputs.logits[0].square().mean()

@hookimpl
def losses():
    return {"blind": blind, "sees": sees, "may-see": may_see, "later": Later}
"""


@pytest.fixture
def own(tmp_path):
    (tmp_path / "mine.py").write_text(OWN_LOSSES)
    return Plugins([str(tmp_path / "mine.py")])


def test_a_loss_of_one_s_own_that_does_not_look_at_its_soft_targets(own):
    for name in ("sees", "may-see", "later"):
        assert composed("deep-supervision", plugins=own, losses=[f"mine.{name}@deepest=0.1"]).notes == []
    found = line(KdError, composed, "deep-supervision", plugins=own, losses=["mine.blind@deepest=0.1"])
    assert found.startswith("--loss mine.blind@deepest=0.1: loss 'mine.blind' (")
    assert found.endswith(
        ") reads no soft targets: write --loss mine.blind=0.1, or a loss that imitates them, e.g. kl@deepest=0.1 "
        '(one of your own that looks at them later says reads = ("logits",))'
    )


def test_a_method_s_own_term_that_does_not_look_is_noted():
    method = Method({"ce": Term(CE(), source="deepest"), "kd": Term(KL(), source="deepest")}, {"deepest": deepest}, exits=linear)
    assert composed(method).notes == [f"{label('losses', 'ce')} is given the soft targets 'deepest' and does not look at them"]


@pytest.mark.parametrize(
    ("more", "ending"),
    [
        ({"losses": ["kl@deepest:1=0.5"]}, "this run has one: add --exits linear, or leave out --loss kl@deepest:1=0.5"),
        ({"method": "osakd", "soft_targets": "deepest"}, "this run has one: add --exits linear, or leave out --soft-targets deepest"),
        (
            {"method": Method({"kd": Term(KL(), source="deepest")}, {"deepest": deepest})},
            "this run has one: add --exits linear (for term 'kd' of method (custom))",
        ),
    ],
)
def test_a_refusal_says_who_brought_the_part(more, ending):
    assert line(KdError, composed, **more) == f"{label('soft_targets', 'deepest')} needs at least 2 exits, and {ending}"


def test_a_refusal_says_which_term_has_no_exit_to_teach():
    found = line(KdError, composed, "osakd", losses=["mango.triplet:shallow"])
    assert found.endswith("only its own head: add --exits linear, or other --taps, or leave out --loss mango.triplet:shallow")
    found = line(KdError, composed, losses=["kl@teacher"])
    assert found.endswith("--teacher RUN or --teacher FILE, or in Python teacher=..., or leave out --loss kl@teacher")


# -- generations of kd ------------------------------------------------------------------------------------------------------------


def test_the_first_generation_of_kd_is_plain_training_to_the_bit(data, tmp_path):
    """Where there is no teacher, the labels have all of the weight: each epoch's loss, and the weights at the end."""
    settings = {**SMALL, "epochs": 2, "data": data}
    options = {"iskd.generations.start": "fresh", "iskd.generations.max_generations": 2}
    plain = kdcore.train(
        method="plain",
        schedule="iskd.generations",
        options={**options, "iskd.generations.max_generations": 1},
        run=tmp_path / "p",
        **settings,
    )
    kd = kdcore.train(method="kd", schedule="iskd.generations", options=options, run=tmp_path / "kd", **settings)
    assert [r["train"] for r in kd.run.metrics()[:2]] == [r["train"] for r in plain.run.metrics()]
    assert set(kd.run.metrics()[2]["train"]) == {"loss", "ce", "kd"}
    first, alone = (json.loads((run.run.path / "phases.json").read_text())[0] for run in (kd, plain))
    ours, theirs = (load_tensors(one.run.absolute(phase["checkpoint"]))[0] for one, phase in ((kd, first), (plain, alone)))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_settled_weight_is_a_number_in_every_phase():
    composition = composed("kd", schedule="iskd.generations", options={"alpha": 0.75, "iskd.generations.max_generations": 2})
    weights = [{term.name: term.weight for term in composition.task(phase, rehearsal=True).objective.terms} for phase in composition.phases]
    assert weights == [{"ce": 1.0}, {"ce": 0.25, "kd": 0.75}]
    assert [Taught(0.3)(Where(has_teacher=taught)) for taught in (False, True)] == [1.0, 0.3]
    terms = {"ce": Term(CE(), weight=Linear(0, 1)), "kd": Term(KL(), source="teacher", weight=Taught(0.5, alone=0))}
    task = composed(Method(terms, {"teacher": teacher}), teacher=timm.create_model("test_resnet", num_classes=4)).task()
    assert callable(task.objective.terms[0].weight) and task.objective.terms[1].weight == 0.5

"""What the probes asked of the core, each by itself."""

import re
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdcore import CE, KL, KdError, Method, MultiExit, Outputs, Phase, SoftTargets, Step, Term, attach_exits, compose, needs, teacher
from kdcore.backbones import create_backbone
from kdcore.config import Config
from kdcore.evaluation import Predictions, quick
from kdcore.exits import Branch, Pooled, linear
from kdcore.methods import exit_indices, parse_exits
from kdcore.optimisation import create_optimizer

compose_tiny = partial(compose, "test_resnet_32px", num_classes=3, image_size=16)
IMAGES, LABELS = torch.randn(8, 3, 16, 16), torch.arange(8) % 3


def network(taps: object = None) -> nn.Module:
    return attach_exits(create_backbone("test_resnet_32px", num_classes=3), taps=taps, image_size=16)


def lazy_exits(backbone, context) -> nn.Module:
    return MultiExit(backbone, [Branch(Pooled(), nn.LazyLinear(context.num_classes)) for _ in backbone.taps[:-1]])


class Remembers(nn.Module):
    """A constant that the first batch settles, as CRD's Z is, and a layer that the first batch shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("settled", torch.zeros(()))
        self.layers = nn.ModuleList([nn.LazyLinear(4)])

    def forward(self, step: Step, targets: SoftTargets | None) -> Tensor:
        features = step.outputs.embeddings[-1]
        if len(self.layers) == 1:
            self.layers.append(nn.Linear(4, 1))
        self.settled.copy_(torch.where(self.settled == 0, features.detach().abs().mean(), self.settled))
        return self.layers[1](self.layers[0](features)).square().mean()


class Quiet(nn.Module):
    """An exit's body with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.drop = Pooled(), nn.Dropout(0.5)

    def forward(self, features: Tensor) -> Tensor:
        return self.drop(self.pool(features))


def test_the_first_run_settles_nothing() -> None:
    composition = compose_tiny(Method({"remembers": Term(Remembers)}))
    loss = composition.modules()["term:remembers"]
    assert float(loss.settled) == 0
    composition.task()(IMAGES, LABELS)
    assert float(loss.settled) > 0


def test_layers_made_in_the_first_run_obey_the_phase() -> None:
    composition = compose_tiny(Method({"remembers": Term(Remembers)}))
    for trains, wanted in ((("student",), False), (("student", "losses"), True), (("losses",), True)):
        objective = composition.task(Phase(trains=trains)).objective
        assert {parameter.requires_grad for parameter in objective.parts.parameters()} == {wanted}
        assert objective.model.net.conv1.weight.requires_grad == ("student" in trains)


def test_lazy_exits_are_drawn_under_their_own_seed() -> None:
    """Whatever the global generator stands at: in a run, in a fresh start and in attach_exits."""

    def weights(draw) -> Tensor:
        drawn = []
        for _ in range(2):
            torch.rand(1)
            drawn.append(draw().branches["0"].classifier.weight)
        assert torch.equal(*drawn)
        return drawn[0]

    def fresh() -> nn.Module:
        composition = compose_tiny(Method({"ce": Term(CE())}, exits=lazy_exits))
        composition.start(Phase("again", start="fresh"))
        return composition.student

    first = weights(lambda: compose_tiny(Method({"ce": Term(CE())}, exits=lazy_exits)).student)
    assert not torch.equal(first, weights(fresh))


def test_a_teacher_that_trains_sees_images_as_it_wants_them() -> None:
    """In the phase that trains its exits as in the one that it teaches in."""

    def two_phases(context):
        yield Phase("exits", model="teacher", trains=("teacher_exits",), terms=("ce",))
        yield Phase("student")

    seen = []
    method = Method({"ce": Term(CE()), "kd": Term(KL(), source="teacher")}, {"teacher": teacher}, linear, linear, two_phases)
    given = create_backbone("test_resnet_32px", num_classes=3)
    norms = {"student_norm": ((0.0,) * 3, (1.0,) * 3), "teacher_norm": ((1.0,) * 3, (2.0,) * 3)}
    composition = compose_tiny(method, teacher=given, teacher_size=(24, 24), **norms)
    given.conv1.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    for phase in composition.phases:
        composition.task(phase)(torch.zeros(4, 3, 16, 16), LABELS[:4])
        torch.testing.assert_close(seen[-1], torch.full((4, 3, 24, 24), -0.5))


def test_what_is_frozen_draws_no_dropout() -> None:
    """Dropout has no parameters of its own: it goes with the module that it is in."""
    exits = lambda backbone, context: MultiExit(backbone, [Branch(Quiet(), nn.Linear(t.channels, 3)) for t in backbone.taps[:-1]])  # noqa: E731
    composition = compose_tiny(Method({"ce": Term(CE())}, exits=exits), backbone_options={"drop_rate": 0.5})
    task = composition.task(Phase(trains=("exits",)))
    task.train()
    deepest = [task(IMAGES, LABELS)["output"] for _ in range(2)]
    assert torch.equal(*deepest)
    branch = composition.student.branches["0"]
    assert branch.body.drop.training and not composition.student.backbone.training


def test_an_average_of_the_weights_freezes_its_own_modules() -> None:
    task = compose_tiny(Method({"ce": Term(CE(), exits=1)}, exits=linear)).task()
    task.setup_ema()
    averaged = task.trainable_module_ema.module
    assert averaged._frozen and set(averaged._frozen) <= set(averaged.modules())
    assert set(averaged._frozen).isdisjoint(task.objective.modules())


@pytest.mark.parametrize("exits", ["all", "shallow"])
def test_entries_for_another_number_of_exits_are_refused(exits: str) -> None:
    """Also where they happen to be as many as the exits that the term sees."""
    method = Method({"kd": Term(KL(), source="teacher", exits=exits)}, {"teacher": partial(teacher, exits="match")}, exits=linear)
    with pytest.raises(KdError, match="gives 3 logits for 4 exits"):
        compose_tiny(method, teacher=network(taps=[1, 2, 4]))
    compose_tiny(method, teacher=network())


def test_entries_of_embeddings_are_counted_too() -> None:
    def two(step: Step) -> SoftTargets:
        return SoftTargets(embeddings=step.outputs.embeddings[:2])

    def hint(step: Step, targets: SoftTargets) -> Tensor:
        return step.outputs.embeddings[0].mean()

    with pytest.raises(KdError, match="gives 2 embeddings for 4 exits"):
        compose_tiny(Method({"hint": Term(hint, source="two")}, {"two": two}, exits=linear))


def twice(images: Tensor) -> Tensor:
    return images.repeat_interleave(2, dim=0)


def test_sources_that_take_no_views_cannot_serve_terms_that_do() -> None:
    def last(step: Step) -> SoftTargets:
        return SoftTargets(logits=step.outputs.logits[-1:])

    terms = {"kd": Term(KL(all_views=True), source="last")}
    with pytest.raises(KdError, match=r"answer for view 0 alone.*needs"):
        compose_tiny(Method(terms, {"last": last}, exits=linear, views=twice))
    compose_tiny(Method(terms, {"last": needs("views")(last)}, exits=linear, views=twice))


def test_terms_of_view_0_see_view_0_of_a_source_of_all_views() -> None:
    """Plain KD on views is KD on the images as they came."""
    terms = {"kd": Term(KL(), source="teacher")}
    given = create_backbone("test_resnet_32px", num_classes=3)
    other = lambda images: torch.stack([images, images.flip(3)], dim=1).flatten(0, 1)  # noqa: E731
    plain, viewed = (compose_tiny(Method(terms, {"teacher": teacher}, views=views), teacher=given).task() for views in (None, other))
    plain.eval(), viewed.eval()
    torch.testing.assert_close(plain(IMAGES, LABELS)["loss"], viewed(IMAGES, LABELS)["loss"])


def test_components_inside_others_have_parameter_groups_too() -> None:
    class Wishing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4)
            self.optim = {"inner": {"weight_decay": 0.25}}

    class Loss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wishing, self.out = Wishing(), nn.LazyLinear(4)

        def forward(self, step: Step, targets: SoftTargets | None) -> Tensor:
            return F.relu(self.wishing.inner(self.out(step.outputs.embeddings[-1]))).mean()

    objective = compose_tiny(Method({"loss_of_mine": Term(Loss)})).task().objective
    groups = create_optimizer(objective, Config(model="test_resnet_32px", data="digits")).param_groups
    assert [len(group["params"]) for group in groups if group["weight_decay"] == 0.25] == [2]


def test_exits_counted_from_the_end() -> None:
    assert exit_indices(-1, 4) == [3] and exit_indices([-3, -2], 4) == [1, 2] and exit_indices([1, -1], 4) == [0, 3]
    assert exit_indices([4, 1, -2], 4) == [0, 2, 3]
    assert parse_exits("-2, -1") == [-2, -1] and parse_exits("shallow") == "shallow"
    for number in (0, 5, -5):
        with pytest.raises(ValueError, match=f"there is no exit {number}"):
            exit_indices(number, 4)


def test_exits_that_are_no_module_are_refused() -> None:
    with pytest.raises(KdError, match="must return a module, not Outputs"):
        compose_tiny(Method({"ce": Term(CE())}, exits=lambda backbone, context: Outputs([])))


# -- schedules --------------------------------------------------------------------------------------------------------------------


def scheduled(schedule, terms=(), sources=(), **more):
    return compose_tiny(Method({"ce": Term(CE()), **dict(terms)}, sources=dict(sources), exits=linear, schedule=schedule), **more)


@pytest.mark.parametrize(
    ("phase", "says"),
    [
        ("main", "must yield kdcore.Phase, not str"),
        (Phase(name="../x"), "a phase is called '../x'"),
        (Phase(name=".."), "a phase is called '..'"),
        (Phase(name=""), "a phase is called ''"),
        (Phase(name="a\n"), "a phase is called"),
        (Phase(model="students"), "has the model 'students'; it can be student or teacher"),
        (Phase(start="frsh"), "has the start 'frsh'; it can be stands, pretrained, fresh, or the checkpoint"),
        (Phase(start="auto"), "has the start 'auto'"),
        (Phase(teacher="gven"), "has the teacher 'gven'; it can be None, auto, given, or the checkpoint"),
        (Phase(epochs=0), "has 0 epochs; a whole number from 1"),
        (Phase(epochs=1.5), "has 1.5 epochs"),
        (Phase(trains=("students",)), "trains students; it can train a tuple of student"),
        (Phase(trains="student"), "trains student; it can train a tuple of student"),
        (Phase(optim={"lr": torch.tensor(1.0)}), "holds what is no JSON value"),
        (Phase(terms={"ce": lambda where: 1.0}), "holds what is no JSON value"),
    ],
)
def test_phases_that_cannot_be_run_are_refused(phase, says) -> None:
    with pytest.raises(KdError) as error:
        scheduled(lambda context: (yield phase))
    assert says in str(error.value) and "schedule of method (custom)" in str(error.value) and "\n" not in str(error.value)


def test_a_phase_names_checkpoints_of_results_that_were_sent() -> None:
    def right(context):
        first = yield Phase("first")
        second = yield Phase("second", start=first.checkpoint, teacher=first.best_checkpoint)
        assert len({first.checkpoint, first.best_checkpoint, second.checkpoint, second.best_checkpoint}) == 4
        return first

    right.provides = ("teacher",)
    taught = {"terms": {"kd": Term(KL(), source="teacher")}, "sources": {"teacher": teacher}}
    assert [phase.name for phase in scheduled(right, **taught).phases] == ["first", "second"]


def test_phases_are_the_same_after_json() -> None:
    phase = Phase(optim={"decay_milestones": (1, 2)}, terms=("ce",))
    assert phase.to_json()["optim"] == {"decay_milestones": [1, 2]} and phase.to_json()["terms"] == ["ce"]


def test_what_a_schedule_raises_is_one_line_with_its_name() -> None:
    def at_once(context):
        raise ValueError("no\nidea")
        yield

    def later(context):
        yield Phase("first")
        raise ZeroDivisionError("by zero")

    for schedule, says in [(at_once, "ValueError: no"), (later, "ZeroDivisionError: by zero")]:
        with pytest.raises(KdError) as error:
            scheduled(schedule)
        assert re.fullmatch(rf"schedule of method \(custom\) failed: {re.escape(says)} \(test_contract.py:\d+\)", str(error.value))


def test_a_schedule_is_rehearsed_with_the_metrics_of_a_run() -> None:
    sent = []

    def until_no_gain(context):
        while len(sent) < 3:
            sent.append((yield Phase(f"generation-{len(sent) + 1}")))

    composition = scheduled(until_no_gain)
    with torch.no_grad():
        logits = torch.stack(composition.student.eval()(IMAGES).logits)
    wanted = quick(Predictions(logits, LABELS, [1, 2, 3, 4]))
    assert all(set(result.metrics) == set(result.best_metrics) == set(wanted) for result in sent)
    for name in wanted:
        values = [result.metrics[name] for result in sent]
        assert values == sorted(values, reverse="nll" in name) and (len(set(values)) == 3 or "ece" in name)


def test_a_schedule_that_reads_metrics_needs_a_dev_split() -> None:
    def reads(context):
        result = yield Phase("first")
        if result.metrics["top1"] > 0:
            yield Phase("second")

    def asks(context):
        result = yield Phase("first")
        if context.has_dev and result.metrics["top1"] > 0:
            yield Phase("second")

    with pytest.raises(
        KdError,
        match=r"schedule of .* failed: KeyError: 'top1' \(test_contract.py:\d+\); without a dev split a result has no metrics: add --dev",
    ):
        scheduled(reads, has_dev=False)
    assert len(scheduled(reads).phases) == 2 and len(scheduled(asks, has_dev=False).phases) == 1


# -- exits of teachers --------------------------------------------------------------------------------------------------------------


def teacher_first(exits, student_exits="deepest"):
    def schedule(context):
        yield Phase("exits", model="teacher", teacher=None, trains=("teacher_exits",), terms=("its",))
        yield Phase("student", terms=("ce",))

    terms = {"its": Term(CE(), exits=exits), "ce": Term(CE(), exits=student_exits)}
    return Method(terms, teacher_exits=linear, schedule=schedule)


def test_terms_of_a_phase_that_trains_the_teacher_name_the_teachers_exits() -> None:
    composition = compose_tiny(teacher_first([2, 3]), teacher=create_backbone("test_resnet_32px", num_classes=3))
    assert composition.context.student_shapes.exits == 1
    task = composition.task(composition.phases[0]).eval()
    logits = task.network()(IMAGES).logits
    torch.testing.assert_close(task(IMAGES, LABELS)["its"], sum(F.cross_entropy(logits[k], LABELS) for k in (1, 2)))


def test_exits_that_the_phases_network_lacks_are_refused() -> None:
    for exits, student_exits, says in [
        ([5], "deepest", "in phase 'exits', of the teacher: there is no exit 5: exits are numbered 1 (shallowest) to 4"),
        ("gate", "deepest", "in phase 'exits', of the teacher: there is no exit 'gate'"),
        ("shallow", [2], "there is no exit 2: exits are numbered 1 (shallowest) to 1"),
    ]:
        with pytest.raises(KdError) as error:
            compose_tiny(teacher_first(exits, student_exits), teacher=create_backbone("test_resnet_32px", num_classes=3))
        assert says in str(error.value) and "loss 'ce'" in str(error.value)


# -- peers --------------------------------------------------------------------------------------------------------------------------


def test_peers_and_fresh_starts_are_drawn_anew_at_any_image_size() -> None:
    """test_vit was made for 160 pixels and has to be built for 32."""
    peers = []

    def cohort(backbone, context):
        peers.extend(context.backbone() for _ in range(2))
        return linear(backbone, context)

    composition = compose("test_vit", Method({"ce": Term(CE())}, exits=cohort), num_classes=3, image_size=32)
    weights = [net.state_dict()["patch_embed.proj.weight"].clone() for net in (composition.student.backbone.net, *(p.net for p in peers))]
    composition.start(Phase("again", start="fresh"))
    weights.append(composition.student.backbone.net.state_dict()["patch_embed.proj.weight"])
    assert len({tuple(weight.flatten().tolist()) for weight in weights}) == 4

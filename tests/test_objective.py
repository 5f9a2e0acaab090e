"""The step: what is detached, cut, weighed and summed in the one place where that happens, and timm's protocol around it."""

import contextlib
import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kdcore import (
    CE,
    KL,
    MSE,
    KdError,
    Linear,
    Method,
    MultiExit,
    Outputs,
    SoftTargets,
    Term,
    compose,
    deepest,
    linear,
    mean_of_exits,
    needs,
    teacher,
)
from kdcore.exits import Branch, Pooled
from kdcore.methods import Cosine, Sigmoid, seen_by
from kdcore.phases import Where
from kdcore.vocabulary import pick


def batch(count: int = 6, seed: int = 0, size: int = 32):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 3, size, size, generator=generator)
    return images, torch.randint(3, (count,), generator=generator), torch.arange(count)


def composed(method, **more):
    return compose("test_resnet", method, num_classes=3, image_size=32, **more)


def trained(composition, steps: int = 5) -> dict[str, torch.Tensor]:
    """The student's weights after some steps of momentum SGD in train mode, as `kd` takes them."""
    task = composition.task()
    task.train()
    optimizer = torch.optim.SGD([p for p in task.parameters() if p.requires_grad], lr=0.05, momentum=0.9, weight_decay=1e-3)
    torch.manual_seed(0)
    for step in range(steps):
        task.at(epoch=step / steps, progress=step / steps)
        task(*batch(seed=step))["loss"].backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        task.after_step()
    return {name: value.clone() for name, value in composition.student.state_dict().items()}


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def self_distillation(weight=1.0, **terms) -> Method:
    kd = Term(KL(temperature=3), source="deepest", weight=weight, exits="shallow")
    return Method(exits=linear, sources={"deepest": deepest}, terms={"ce": Term(CE()), "kd": kd, **terms})


@pytest.fixture
def wide_resnet():
    torch.manual_seed(5)
    import timm

    return timm.create_model("test_resnet", num_classes=3)


# -- the sum ----------------------------------------------------------------------------------------------------------------------


def test_every_term_is_logged_by_name_before_its_weight_and_the_loss_is_their_weighted_sum():
    task = composed(self_distillation(weight=0.3, mse=Term(MSE(), source="deepest", weight=2.0))).task()
    answer = task.eval()(*batch())
    assert list(answer) == ["loss", "output", "ce", "kd", "mse"]
    torch.testing.assert_close(answer["loss"], answer["ce"] + 0.3 * answer["kd"] + 2 * answer["mse"])
    assert not any(answer[name].requires_grad for name in ("ce", "kd", "mse")) and answer["loss"].requires_grad
    outputs = task.network()(batch()[0])
    assert torch.equal(answer["output"], outputs.logits[-1])
    torch.testing.assert_close(answer["ce"], sum(F.cross_entropy(logits, batch()[1]) for logits in outputs.logits))


@pytest.mark.parametrize(
    ("exits", "numbers"),
    [
        ("all", [1, 2, 3, 4]),
        ("shallow", [1, 2, 3]),
        ("deepest", [4]),
        (2, [2]),
        ([1, 4], [1, 4]),
        ((3, 1), [3, 1]),
        ([4, 1, 3, 2], [1, 2, 3, 4]),
    ],
)
def test_a_term_sees_the_exits_it_names(exits, numbers):
    task = composed(Method(exits=linear, terms={"ce": Term(CE()), "some": Term(CE(), exits=exits)})).task().eval()
    images, labels, _ = batch()
    logits = task.network()(images).logits
    torch.testing.assert_close(task(images, labels)["some"], sum(F.cross_entropy(logits[n - 1], labels) for n in numbers))


def test_targets_are_cut_to_the_same_exits():
    """With one entry for each exit, exit k imitates entry k, however few exits the term sees."""
    seen = []

    def shifted(step):
        return SoftTargets(logits=[logits + k for k, logits in enumerate(step.outputs.logits)], embeddings=step.outputs.embeddings)

    def spy(step, targets):
        seen.append(([t.shape for t in step.outputs.embeddings], targets))
        differences = [(t - s).mean() for s, t in zip(step.outputs.logits, targets.logits, strict=True)]
        return torch.stack(differences).sum() + 0 * step.outputs.logits[0].sum()

    terms = {"ce": Term(CE()), "spy": Term(spy, source="shifted", exits=[2, 4])}
    answer = composed(Method(exits=linear, sources={"shifted": shifted}, terms=terms)).task().eval()(*batch())
    assert answer["spy"].item() == pytest.approx(1 + 3, abs=1e-5)
    shapes, targets = seen[-1]
    assert shapes == [t.shape for t in targets.embeddings] and len(shapes) == 2


def test_pick():
    entries = [torch.tensor(k) for k in range(3)]
    assert pick(None, [0], 3) is None and pick(entries, [2, 0], 3) == [entries[2], entries[0]] and pick(entries[:1], [2], 3) == entries[:1]


def test_an_entry_of_extras_is_an_exit_to_a_term():
    class Gated(MultiExit):
        def forward(self, images):
            outputs = super().forward(images)
            gate = torch.stack(outputs.logits).mean(dim=0)
            return Outputs(outputs.logits, outputs.embeddings, outputs.maps, {"gate": gate})

    def gated(backbone, context):
        return Gated(backbone, [Branch(Pooled(), nn.Linear(tap.channels, context.num_classes)) for tap in backbone.taps[:-1]])

    def ensemble(step):
        return SoftTargets(logits=[step.outputs.extras["gate"]])

    terms = {"gate": Term(CE(), exits="gate"), "kd": Term(KL(), source="ensemble")}
    task = composed(Method(exits=gated, sources={"ensemble": ensemble}, terms=terms)).task().eval()
    images, labels, _ = batch()
    gate = task.network()(images).extras["gate"]
    torch.testing.assert_close(task(images, labels)["gate"], F.cross_entropy(gate, labels))
    with pytest.raises(KdError, match="there is no exit 'gaet'; write all, shallow, deepest, numbers, or one of gate"):
        composed(Method(exits=gated, terms={"ce": Term(CE(), exits="gaet")}))


@pytest.mark.parametrize(
    ("method", "says"),
    [
        (Method(exits=linear, terms={"ce": Term(CE(), exits=[5])}), "loss 'ce' (kdcore 0.1.0): there is no exit 5"),
        (Method(exits=linear, terms={"ce": Term(CE(), exits=[1, 1])}), "loss 'ce' (kdcore 0.1.0): exit 1 is named twice (of 4)"),
        (Method(exits=linear, terms={"ce": Term(CE(), exits=[4, -1])}), "exit 4 is named twice (of 4)"),
        (
            Method(terms={"ce": Term(CE(), exits="shallow")}),
            "is for shallow exits and this model has only its own head: add --exits linear",
        ),
        (Method(terms={"ce": Term(CE(), exits="gate")}), "there is no exit 'gate'"),
        (Method(terms={"bad": Term(lambda step, targets: step.outputs.logits[0])}), "must return a scalar tensor, not (16, 3)"),
        (Method(terms={"bad": Term(lambda step, targets: 0.0)}), "must return a scalar tensor, not float"),
        (Method(terms={"bad": Term(lambda step, targets: step.outputs.logits[0].sum() / 0)}), "a loss must stay finite"),
        (Method(terms={"bad": Term(lambda step, targets: 1 / 0)}), "term bad of method (custom) failed: ZeroDivisionError"),
        (Method(terms={"bad": Term(lambda step, targets: torch.zeros(()))}), "trains nothing"),
        (Method(terms={"ce": Term(CE(), weight=0)}), "has no active term"),
        (
            Method(exits=linear, sources={"s": lambda step: 3}, terms={"kd": Term(KL(), source="s")}),
            "source s of method (custom) must return kdcore.SoftTargets, not int",
        ),
        (
            Method(
                exits=linear, sources={"s": lambda step: SoftTargets(logits=step.outputs.logits[:2])}, terms={"kd": Term(KL(), source="s")}
            ),
            "2 logits for 4 exits; one, or one for each, is needed",
        ),
        (
            Method(
                exits=linear, sources={"s": lambda step: SoftTargets(logits=[torch.zeros(16, 12)])}, terms={"kd": Term(KL(), source="s")}
            ),
            "have 12 classes and an exit that imitates them has 3",
        ),
        (
            Method(exits=linear, sources={"s": lambda step: SoftTargets(maps=step.outputs.maps)}, terms={"kd": Term(KL(), source="s")}),
            "reads logits or probs, which the soft targets 's' do not give",
        ),
    ],
)
def test_what_does_not_fit_is_refused_when_the_run_is_composed(method, says):
    with pytest.raises(KdError) as error:
        composed(method)
    assert says in str(error.value) and "\n" not in str(error.value)


# -- detaching --------------------------------------------------------------------------------------------------------------------


def gradients(task, name: str) -> dict[str, torch.Tensor | None]:
    """What one term alone gives every parameter of the network."""
    task.zero_grad(set_to_none=True)
    others = [term for term in task.objective.terms if term.name != name]
    for term in others:
        term.weight = 0.0
    task.eval()(*batch())["loss"].backward()
    return {key: None if p.grad is None or not p.grad.any() else p.grad for key, p in task.network().named_parameters()}


@pytest.mark.parametrize("source", [deepest, partial(mean_of_exits, space="probabilities"), mean_of_exits])
def test_what_teaches_gets_no_gradient(source):
    method = self_distillation()
    method.sources["deepest"] = source
    found = gradients(composed(method).task(), "kd")
    assert all(found[f"branches.{k}.classifier.weight"] is not None for k in range(3))
    silent = [name for name in found if name.startswith(("backbone.net.fc", "backbone.net.layer4"))]
    assert silent and all(found[name] is None for name in silent)


def test_a_source_with_a_graph_of_its_own_is_detached_too():
    def learnt(step):
        return SoftTargets(logits=[step.outputs.logits[-1] * 2], extras={"more": step.outputs.embeddings[-1]})

    def loss(step, targets):
        assert not targets.logits[0].requires_grad and not targets.extras["more"].requires_grad
        return (step.outputs.logits[0] - targets.logits[0]).square().mean()

    composed(Method(exits=linear, sources={"a": learnt}, terms={"ce": Term(CE()), "x": Term(loss, source="a", exits="shallow")}))


# -- weights ----------------------------------------------------------------------------------------------------------------------


def test_a_constant_zero_is_training_without_the_term_bit_for_bit():
    plain = trained(composed("deep-supervision"))
    task = composed(self_distillation(weight=0)).task()
    assert [term.name for term in task.objective.terms] == ["ce"] and not task.objective.sources
    assert same(trained(composed(self_distillation(weight=0))), plain)
    assert not same(trained(composed(self_distillation(weight=1.0))), plain)


def test_a_moving_weight_that_is_zero_is_training_without_the_term_bit_for_bit():
    assert same(trained(composed(self_distillation(weight=lambda where: 0.0))), trained(composed("deep-supervision")))


def test_byot_without_its_terms_is_deep_supervision_bit_for_bit():
    options = {"alpha": 0, "hint_weight": 0}
    plain = composed(Method(exits=linear, terms={"ce": Term(CE())}), exits="byot.bottleneck")
    assert same(trained(composed("byot", options=options, exits="byot.bottleneck")), trained(plain))


def test_moving_weights_follow_the_epoch():
    seen = []

    def weight(where: Where) -> float:
        seen.append(where)
        return 0.5 if where.epoch < 2 else 4.0

    method = self_distillation(weight=weight)
    method.sources["deepest"] = lambda step: deepest(step)  # which says nothing of what it reads, so that it may read the clock
    task = composed(method).task().eval()
    for epoch, expected in [(0, 0.5), (2.5, 4.0)]:
        task.at(epoch=epoch, progress=epoch / 5)
        answer = task(*batch())
        torch.testing.assert_close(answer["loss"], answer["ce"] + expected * answer["kd"])
        assert task.objective.epoch.item() == epoch and task.objective.progress.item() == pytest.approx(epoch / 5)
    assert seen[-1] == Where(2.5, 0.5, 1, "main", False)


@pytest.mark.parametrize(
    ("weight", "values"),
    [
        (Linear(0, 1), [0, 0.5, 1]),
        (Linear(2, 1, epochs=4), [2, 1.0, 1.0]),
        (Cosine(1, 0), [1, 0.5, 0]),
        (Sigmoid(3.0, epochs=8), [3 * 0.006738, 3.0, 3.0]),
    ],
)
def test_ramps(weight, values):
    for where, expected in zip([Where(0, 0), Where(8, 0.5), Where(16, 1.0)], values, strict=True):
        assert weight(where) == pytest.approx(expected, abs=1e-4)


# -- views ------------------------------------------------------------------------------------------------------------------------


def test_a_term_sees_view_0_unless_it_declares_views():
    seen = {}

    def flips(images):
        return torch.stack([images, images.flip(3)], dim=1).flatten(0, 1)

    def plain_spy(step, targets):
        seen["plain"] = (step, targets)
        return step.outputs.logits[-1].square().mean()

    @needs("views")
    def views_spy(step, targets):
        seen["views"] = (step, targets)
        return step.outputs.logits[-1].square().mean()

    def own(step):
        seen["source"] = step
        return SoftTargets(logits=[step.outputs.logits[-1]])

    terms = {"plain": Term(plain_spy, source="deepest"), "views": Term(views_spy, source="deepest"), "own": Term(KL(), source="own")}
    method = Method(exits=linear, sources={"deepest": deepest, "own": own}, terms=terms, views=flips)
    task = composed(method).task().eval()
    images, labels, index = batch()
    answer = task(images, labels, index)
    step, targets = seen["plain"]
    assert step.batch.images.shape[0] == len(step.outputs.logits[0]) == len(targets.logits[0]) == 6 and step.batch.views == 1
    assert torch.equal(step.batch.images, images) and torch.equal(step.batch.index, index) and torch.equal(step.batch.labels, labels)
    step, targets = seen["views"]
    assert step.batch.images.shape[0] == len(step.outputs.logits[0]) == len(targets.logits[0]) == 12 and step.batch.views == 2
    assert torch.equal(step.batch.images[1::2], images.flip(3)) and torch.equal(step.batch.labels, labels.repeat_interleave(2))
    assert seen["source"].batch.images.shape[0] == 6
    assert answer["output"].shape[0] in (6, 12)


# -- the host is not waited for ---------------------------------------------------------------------------------------------------

SYNCHRONISES = ("item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__", "__index__", "nonzero")


@contextlib.contextmanager
def no_synchronisation(monkeypatch):
    with monkeypatch.context() as patched:
        for name in SYNCHRONISES:

            def refuse(self, *args, _name=name, **kwargs):
                raise AssertionError(f"Tensor.{_name} waits for the device")

            patched.setattr(torch.Tensor, name, refuse)
        yield


@pytest.mark.parametrize("method", ["plain", "deep-supervision", "byot", "kd", "moving"])
def test_a_step_never_waits_for_the_device(method, monkeypatch, wide_resnet):
    if method == "moving":
        method = self_distillation(weight=Linear(0, 1))
    task = composed(method, teacher=wide_resnet if method == "kd" else None).task()
    task.train()
    optimizer = torch.optim.SGD([p for p in task.parameters() if p.requires_grad], lr=0.01)
    with no_synchronisation(monkeypatch):
        for step in range(2):
            task.at(epoch=step, progress=0.1)
            answer = task(*batch())
            answer["loss"].backward()
            optimizer.step()
            task.after_step()
    assert answer["loss"].isfinite()


# -- frozen ------------------------------------------------------------------------------------------------------------------------


def test_a_teacher_is_frozen_outside_the_trainable_module(wide_resnet):
    before = copy.deepcopy(wide_resnet.state_dict())
    composition = composed("kd", teacher=wide_resnet)
    task = composition.task()
    task.train()
    assert not any(module.training for module in task.teacher.modules())
    held = {id(p) for p in task.trainable_module.parameters()}
    assert not held & {id(p) for p in wide_resnet.parameters()} and not any(p.requires_grad for p in wide_resnet.parameters())
    trained(composition)
    assert same(before, wide_resnet.state_dict())


def test_what_the_terms_do_not_reach_stays_as_it_is_and_in_eval_mode():
    composition = composed(Method(exits=linear, terms={"ce": Term(CE(), exits=[1])}))
    task = composition.task()
    task.train()
    net = composition.student.backbone.net
    assert not net.layer2.training and not net.fc.training and net.layer1.training and net.conv1.training
    before = copy.deepcopy(net.layer3.state_dict())
    moved = copy.deepcopy(net.layer1.state_dict())
    trained(composition)
    assert same(before, net.layer3.state_dict()) and not same(moved, net.layer1.state_dict())


def test_composing_leaves_a_given_model_untouched(wide_resnet):
    before, modes = copy.deepcopy(wide_resnet.state_dict()), [m.training for m in wide_resnet.modules()]
    composition = compose(wide_resnet, "byot", image_size=32)
    assert same(before, composition.student.backbone.net.state_dict())
    assert [m.training for m in wide_resnet.modules()] == modes and all(p.grad is None for p in composition.student.parameters())


# -- timm's protocol ----------------------------------------------------------------------------------------------------------------


def test_a_bare_timm_loop(wide_resnet):
    """What timm's train.py does with a task, in short."""
    from timm.optim import create_optimizer_v2

    task = composed("kd", teacher=wide_resnet, exits="linear").task()
    optimizer = create_optimizer_v2(task.trainable_module, opt="adamw", lr=1e-3, weight_decay=0.05)
    ema = task.setup_ema(decay=0.5)
    start = {name: value.clone() for name, value in ema.module.state_dict().items()}
    assert task.has_ema()
    first = None
    for step in range(8):
        task.train()
        images, labels, _ = batch()
        answer = task(images, labels)
        answer["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        task.update_ema(step=step)
        first = answer["loss"].item() if first is None else first
    assert answer["loss"].item() < first and answer["output"].shape == (6, 3)
    assert not same(start, ema.module.state_dict())
    for model in (task.get_eval_model(), task.get_eval_model(ema=True)):
        with torch.no_grad():
            assert model.eval()(images).shape == (6, 3)
    with torch.no_grad():
        plain, averaged = task.get_eval_model().eval()(images), task.get_eval_model(ema=True).eval()(images)
    assert torch.equal(plain, task.network().eval()(images).logits[-1]) and not torch.equal(plain, averaged)
    assert len(task.get_clip_parameters(exclude_head=True)) < len(task.get_clip_parameters())
    matcher = task.trainable_module.group_matcher()
    assert matcher and task.trainable_module.no_weight_decay() == set()


def test_soft_labels_and_missing_numbers():
    task = composed("deep-supervision").task().eval()
    images, labels, _ = batch()
    hard, soft = task(images, labels), task(images, F.one_hot(labels, 3).float())
    torch.testing.assert_close(hard["loss"], soft["loss"])

    @needs("index")
    def numbered(step, targets=None):
        return step.outputs.logits[-1].mean() * step.batch.index.float().mean()

    task = composed(Method(terms={"numbered": Term(numbered)})).task()
    with pytest.raises(KdError, match=r"term numbered of method .* needs the samples' numbers: call task\(images, labels, index\)"):
        task(images, labels)


def test_it_compiles_to_one_graph_with_the_same_numbers(wide_resnet):
    task = composed("kd", teacher=wide_resnet, exits="linear").task()
    task.eval()
    wanted = task(*batch())
    task.compile(backend="aot_eager")
    found = task(*batch())
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-5, atol=1e-5)
    task.train()(*batch())["loss"].backward()


def test_layer_decay_knows_the_backbones_layers():
    import timm
    from timm.optim import param_groups_layer_decay

    for name in ("test_resnet", "test_vit"):
        task = compose(timm.create_model(name, num_classes=3), "deep-supervision").task()
        groups = param_groups_layer_decay(task.objective, 0.05, layer_decay=0.5)
        scale = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
        own = dict(task.network().named_parameters())
        head, stem = ("fc.weight", "conv1.0.weight") if name == "test_resnet" else ("head.weight", "patch_embed.proj.weight")
        assert scale[id(own[f"backbone.net.{head}"])] == scale[id(own["branches.0.classifier.weight"])] == 1
        stem = stem if f"backbone.net.{stem}" in own else "conv1.weight"
        assert scale[id(own[f"backbone.net.{stem}"])] == min(scale.values()) < 0.2


def test_a_teacher_that_matches_exit_by_exit():
    big = composed("deep-supervision", seed=3).student
    method = Method(
        exits=linear,
        sources={"t": partial(teacher, exits="match")},
        terms={"ce": Term(CE()), "kd": Term(KL(temperature=1), source="t", exits=[1, 3])},
    )
    task = composed(method, teacher=big).task().eval()
    images, labels, _ = batch()
    own, its = task.network()(images).logits, big.eval()(images).logits
    expected = sum((its[k].softmax(1) * (its[k].log_softmax(1) - own[k].log_softmax(1))).sum() / 6 for k in (0, 2))
    torch.testing.assert_close(task(images, labels)["kd"], expected.detach())


def test_exits_in_another_order_imitate_their_own_entries():
    """A permutation of all exits is the same selection, for the student's outputs as for the targets."""
    big = composed("deep-supervision", seed=3).student
    images, labels, _ = batch()
    losses = []
    for exits in ([1, 2, 3, 4], [4, 1, 3, 2]):
        kd = Term(KL(temperature=1), source="t", exits=exits)
        method = Method(exits=linear, sources={"t": partial(teacher, exits="match")}, terms={"ce": Term(CE()), "kd": kd})
        losses.append(composed(method, teacher=big).task().eval()(images, labels)["kd"])
    assert torch.equal(*losses)


@pytest.mark.parametrize(("facts", "size", "rows"), [({}, 32, 16), ({"batch_size": 6}, 32, 6), ({"batch_size": 1}, 32, 2), ({}, 80, 4)])
def test_a_run_is_rehearsed_on_a_batch_such_as_it_will_have(facts, size, rows):
    seen = set()

    def spy(step, targets):
        seen.add((len(step.batch.images), tuple(step.batch.labels.tolist()), tuple(step.batch.index.tolist())))
        return step.outputs.logits[-1].square().mean()

    method = Method(terms={"spy": Term(spy)})
    compose("test_resnet", method, num_classes=3, image_size=size, num_samples=5, **facts)
    assert seen == {(rows, tuple(k // 2 % 3 for k in range(rows)), tuple(k % 5 for k in range(rows)))}


def test_components_of_one_name_draw_their_own_numbers():
    drawn = {}

    def source(step):
        drawn["source"] = torch.rand(4)
        return SoftTargets(logits=[step.outputs.logits[-1]])

    def loss(step, targets):
        drawn["term"] = torch.rand(4)
        return step.outputs.logits[-1].square().mean()

    composed(Method(sources={"same": source}, terms={"same": Term(loss, source="same")}))
    assert not torch.equal(drawn["source"], drawn["term"])


def test_needs_that_an_option_decides_are_checked_once_it_is_built():
    class Wants:
        def __init__(self, *, what: str = "index") -> None:
            self.what = what

        @property
        def needs(self):
            return (self.what,)

        def __call__(self, step, targets=None):
            return step.outputs.logits[-1].square().mean()

    def wanting(what):
        return Method(exits=linear, terms={"wants": Term(partial(Wants, what=what))})

    assert composed(wanting("exits>=4")).task().needs_index is None and "term wants" in composed(wanting("index")).task().needs_index
    for what, says in [
        ("teacher", "term wants of method (custom) needs a teacher: add --teacher BACKBONE, --teacher RUN or --teacher FILE"),
        ("exits>=5", "term wants of method (custom) needs at least 5 exits and this model has 4: add --exits linear"),
        ("crystal ball", "term wants of method (custom) declares a need that kdcore does not know: crystal ball"),
    ]:
        with pytest.raises(KdError) as error:
            composed(wanting(what))
        assert says in str(error.value)


@pytest.mark.parametrize(("taps", "spec"), [(None, None), ("stages", None), ("quarters", "quarters"), ([1, 2, 4], None), ("layer2", None)])
def test_a_bare_teacher_is_tapped_as_the_student_where_a_word_says_how(taps, spec, wide_resnet):
    from kdcore import Tapped

    wanted = [tap.module for tap in Tapped(copy.deepcopy(wide_resnet), spec, (32, 32)).taps]
    composition = composed("kd", teacher=wide_resnet, taps=taps)
    assert [tap.module for tap in composition.given_teacher.model.taps] == wanted


@pytest.mark.parametrize(("declaration", "seen"), [("maps", {"maps"}), (("logits",), {"logits"}), ((), set()), (None, None)])
def test_what_a_component_declares_that_it_sees_may_be_one_name(declaration, seen):
    class Third:
        def __call__(self, step, targets=None):
            return step.outputs.logits[-1].mean() if seen is not None and "maps" not in seen else step.outputs.maps[0].mean()

    if declaration is not None:
        Third.sees = declaration
    for component in (Third(), partial(Third)):
        assert seen_by([component]) == (seen if seen is not None else {"logits", "embeddings", "maps", "extras", "clock"})
    task = composed(Method(terms={"third": Term(Third)})).task()
    assert task.objective.only_logits == (seen is not None and "maps" not in seen)
    assert torch.isfinite(task(*batch())["loss"])


def test_logits_are_float32_whichever_exit_autocast_made_shorter():
    class Exact(nn.Linear):
        def forward(self, features):
            with torch.autocast("cpu", enabled=False):
                return super().forward(features.float())

    def exits(backbone, context):
        return MultiExit(backbone, [Branch(Pooled(), Exact(tap.channels, context.num_classes)) for tap in backbone.taps[:-1]])

    def look(step, targets=None):
        seen.append({logits.dtype for logits in step.outputs.logits})
        return sum(logits.mean() for logits in step.outputs.logits)

    seen = []
    task = composed(Method(terms={"look": Term(look)}, exits=exits)).task()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert task.objective.model(batch()[0]).logits[-1].dtype == torch.bfloat16
        task(*batch())
    assert seen[-1] == {torch.float32}

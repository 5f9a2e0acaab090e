"""The method's presets evaluated term by term as the core would, its exits, and what is refused."""

from dataclasses import replace
from functools import partial

import pytest
import timm
import torch
import torch.nn.functional as F

from kdcore import KdError, Outputs, SoftTargets, attach_exits, compose, deepest
from kdcore.methods import exit_indices
from kdcore.options import validate
from kdcore.vocabulary import map_tensors
from kdcore_mango import FeatureLoss, mango, ordinal_loss, triplet_loss


def total(method, step):
    """The weighted sum of a method's terms: targets detached, exits cut."""
    outputs, values = step.outputs, []
    targets = map_tensors(deepest(step), torch.Tensor.detach)
    for term in method.terms.values():
        chosen = exit_indices(term.exits, len(outputs.logits))
        seen = replace(step, outputs=Outputs([outputs.logits[k] for k in chosen], [outputs.embeddings[k] for k in chosen]))
        loss = term.loss() if isinstance(term.loss, partial) else term.loss
        values.append(term.weight * loss(seen, targets if term.source else None))
    return torch.stack(values).sum()


@pytest.fixture
def three_exits(step_of):
    torch.manual_seed(0)
    logits, embeddings = [torch.randn(12, 3).double() for _ in range(3)], [torch.randn(12, 4).double() for _ in range(3)]
    return step_of(logits, embeddings, torch.arange(12) % 3)


@pytest.mark.parametrize(("options", "deepest_weight"), [({"preset": "author_code"}, 0.25), ({}, 0.5), ({"preset": "mended"}, 0.5)])
def test_the_author_s_code_and_the_default_without_its_slip(three_exits, options, deepest_weight):
    logits, features, labels = three_exits.outputs.logits, three_exits.outputs.embeddings, three_exits.batch.labels
    expected = F.cross_entropy(logits[2], labels)
    for exit in (0, 1):
        expected = expected + 0.995 * F.cross_entropy(logits[exit], labels)
        soft = F.kl_div((logits[exit] / 3).log_softmax(1), (logits[2] / 3).softmax(1), reduction="batchmean")
        expected = expected + 0.005 * 9 * soft + 0.01 * torch.dist(features[exit], features[2], p=2)
    for exit, weight in ((0, 0.5), (1, 0.5), (2, deepest_weight)):
        expected = expected + weight * (triplet_loss(features[exit], labels) + ordinal_loss(features[exit], labels, 3))
    torch.testing.assert_close(total(mango(**options), three_exits), expected)


def test_the_paper(three_exits):
    logits, features, labels = three_exits.outputs.logits, three_exits.outputs.embeddings, three_exits.batch.labels
    expected = torch.zeros((), dtype=torch.float64)
    for exit in range(3):
        expected = expected + 0.995 * F.cross_entropy(logits[exit], labels)
        expected = expected + 0.5 * triplet_loss(features[exit], labels, squared=True)
        expected = expected + 0.5 * ordinal_loss(features[exit], labels, 3, squared=True, anchors="lower")
        if exit < 2:
            soft = F.kl_div((logits[exit] / 3).log_softmax(1), (logits[2] / 3).softmax(1), reduction="batchmean")
            expected = expected + 0.005 * 9 * soft + 0.01 * (features[exit] - features[2]).square().sum() / 12
    torch.testing.assert_close(total(mango(preset="paper"), three_exits), expected)


def test_options_replace_the_preset_s(three_exits):
    plain = mango(preset="author_code", deepest_coef_quirk=False)
    assert set(plain.terms) == {"ce_deepest", "ce_shallow", "kd", "feature", "triplet", "ordinal"}
    assert total(mango(preset="author_code", use_ce=False), three_exits) < total(mango(preset="author_code"), three_exits)
    assert mango(preset="author_code", use_ce=False).terms["ce_deepest"].weight == 0


def test_the_deepest_exit_is_no_pupil_of_its_own(three_exits):
    step = replace(three_exits, outputs=map_tensors(three_exits.outputs, lambda tensor: tensor.clone().requires_grad_()))
    total(mango(alpha=1, use_ce=False, triplet_weight=0, ordinal_weight=0), step).backward()
    assert step.outputs.logits[-1].grad is None or step.outputs.logits[-1].grad.eq(0).all()
    assert step.outputs.embeddings[-1].grad is None or step.outputs.embeddings[-1].grad.eq(0).all()
    assert step.outputs.embeddings[0].grad.abs().sum() > 0


def test_the_feature_loss(step_of):
    loss = partial(FeatureLoss(), step_of([], [torch.tensor([[1.0, 0, 2]])]))
    assert loss(SoftTargets(embeddings=[torch.tensor([[1.0, 2, 0]])])).item() == pytest.approx(8**0.5)
    student = torch.ones(2, 3, requires_grad=True)
    for reduction in ("frobenius", "batchmean"):
        value = FeatureLoss(reduction=reduction)(step_of([], [student]), SoftTargets(embeddings=[torch.ones(2, 3)]))
        value.backward()
        assert value.item() == 0 and student.grad.eq(0).all()
    with pytest.raises(KdError, match=r"3 wide .* 4 wide.*--exits mango\.shallownet"):
        FeatureLoss()(step_of([], [student]), SoftTargets(embeddings=[torch.ones(2, 4)]))


@pytest.mark.parametrize("options", [{"alpha": 1.5}, {"margin": 0}, {"triplet_weight": -1}, {"preset": "luan"}, {"order": "A,B,C"}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(KdError, match=next(iter(options))):
        validate(mango, options, "method 'mango'")


def test_an_order_of_other_classes_is_refused_when_the_run_is_composed():
    with pytest.raises(KdError, match=r"mango\.ordinal: order=\[0, 1\] is no order of the 3 classes"):
        compose("test_resnet", "mango", num_classes=3, options={"order": [0, 1]}, image_size=32)


def test_mixed_labels_are_refused():
    with pytest.raises(KdError, match=r"mango\.triplet.* needs hard labels"):
        compose("test_resnet", "mango", num_classes=3, image_size=32, soft_labels=True)


@pytest.mark.parametrize(("name", "preset"), [("test_resnet", "mended"), ("test_resnet", "author_code"), ("test_vit", "paper")])
def test_composes_and_learns_on_any_backbone(name, preset):
    task = compose(name, "mango", num_classes=3, options={"preset": preset}, image_size=32).task()
    answer = task(torch.randn(6, 3, 32, 32), torch.arange(6) % 3)
    answer["loss"].backward()
    assert answer["loss"].isfinite() and {"triplet", "ordinal", "feature"} <= set(answer)


def test_weights_of_0_are_deep_supervision():
    zero = {"alpha": 0.0, "feature_weight": 0.0, "triplet_weight": 0.0, "ordinal_weight": 0.0}
    images, labels = torch.randn(6, 3, 32, 32), torch.arange(6) % 3

    def loss(method, exits, **options):
        return compose("test_resnet", method, num_classes=3, exits=exits, options=options, image_size=32).task()(images, labels)["loss"]

    torch.testing.assert_close(loss("mango", None, **zero), loss("deep-supervision", "mango.shallownet"), rtol=1e-6, atol=0)


# -- exits ------------------------------------------------------------------------------------------------------------------------


def test_exits_are_the_code_s_on_a_resnet():
    model = attach_exits(timm.create_model("resnet18", num_classes=3), "mango.shallownet", image_size=224)
    widths = [
        [(block[0].in_channels, block[6].out_channels, block[3].stride) for block in list(b.body)[:-1]] for b in model.branches.values()
    ]
    two = (2, 2)
    assert widths == [[(64, 128, two), (128, 256, two), (256, 512, two)], [(128, 256, two), (256, 512, two)], [(256, 512, two)]]
    assert model.branches["2"].classifier.in_features == 512


@pytest.mark.parametrize(
    ("name", "pooling"),
    [("test_resnet", "adaptive"), ("test_resnet", "top_left"), ("test_vit", "adaptive"), ("test_efficientnet", "adaptive")],
)
def test_stripped_exits_equal_the_whole(name, pooling):
    options = {"img_size": 48} if name == "test_vit" else {}
    model = attach_exits(timm.create_model(name, num_classes=3, **options), "mango.shallownet", image_size=48, pooling=pooling)
    images = torch.randn(2, 3, *model.backbone.image_size)
    model(images)
    model.eval()
    with torch.no_grad():
        outputs = model(images)
        assert {embedding.shape for embedding in outputs.embeddings} == {(2, model.backbone.embedding_dim)}
        for number, logits in enumerate(outputs.logits, start=1):
            torch.testing.assert_close(model.strip(number).eval()(images), logits, rtol=0, atol=1e-6)


def test_top_left_keeps_the_code_s_corner():
    from kdcore_mango.shallownet import TopLeft

    features = torch.arange(49.0).view(1, 1, 7, 7)
    torch.testing.assert_close(TopLeft(4)(features).mean(dim=(2, 3)), F.avg_pool2d(features, 4, 4).flatten(1))

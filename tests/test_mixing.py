"""Mixup and cutmix, class weights and smoothing: soft labels through every method, the same numbers whatever was interrupted."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.utils.class_weight import compute_class_weight
from timm.data import Mixup
from timm.loss import SoftTargetCrossEntropy

import kdcore
from kdcore import CE, KdError, Method, Term, compose
from kdcore.config import read_config
from kdcore.data import Batches, Preprocessing, Split
from kdcore.data.mixing import Mixing
from kdcore.losses import balanced_weights, cross_entropy
from kdcore.options import configured
from kdcore.pixels import mixes, resolve_mixing
from kdcore.plugins import Plugins
from kdcore.preparing import prepare, resolve_recipe
from kdcore.training import Watch

SMALL = {
    "model": "test_resnet_32px",
    "img_size": 16,
    "epochs": 2,
    "batch_size": 16,
    "amp": "none",
    "channels_last": False,
    "device": "cpu",
    "workers": 0,
}
BOTH = {"mixup": 0.4, "cutmix": 1.0}

HARD = """
from dataclasses import dataclass
from kdcore import hookimpl

class Hard:
    needs = ("hard_labels",)

    def __call__(self, step, targets=None):
        return step.outputs.logits[0].sum() * 0

@dataclass(frozen=True, kw_only=True)
class Sometimes:
    hard: bool = True

    @property
    def needs(self):
        return ("hard_labels",) if self.hard else ()

    def __call__(self, step, targets=None):
        return step.outputs.logits[0].sum() * 0

@hookimpl
def losses():
    return {"margin": Hard, "sometimes": Sometimes}
"""


@pytest.fixture(scope="module")
def few(tmp_path_factory) -> str:
    """60 grey images of three classes, 40 : 15 : 5."""
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [40, 15, 5])
    pixels = generator.integers(0, 200, (60, 12, 12)).astype(np.uint8) + 25 * labels[:, None, None].astype(np.uint8)
    path = tmp_path_factory.mktemp("data") / "few.npz"
    np.savez(path, train_images=pixels, train_labels=labels, val_images=pixels[::3], val_labels=labels[::3])
    return str(path)


@pytest.fixture
def train(few, tmp_path):
    def run(name: str, **settings):
        return kdcore.train(data=few, run=tmp_path / name, **{**SMALL, **settings})

    return run


def config(few, **settings):
    return read_config({**SMALL, "data": few, **settings})


def batch(rows: int = 8, classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(rows, 3, 10, 10, generator=generator), torch.randint(classes, (rows,), generator=generator)


# -- mixing -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
def test_mixing_is_timms_with_the_draws_of_seed_epoch_and_step(mode):
    images, labels = batch()

    def mixed(epoch=1, step=2, seed=3):
        return Mixing(3, mixup=0.4, cutmix=1.0, mode=mode, seed=seed)(images.clone(), labels, epoch, step)

    before = np.random.get_state()[1].copy()
    one, other = mixed(), mixed()
    assert (np.random.get_state()[1] == before).all()
    np.random.seed(kdcore.seeds.seed_of(3, "mixing", 1, 2) % 2**32)
    theirs = Mixup(0.4, 1.0, mode=mode, num_classes=3, label_smoothing=0.0)(images.clone(), labels)
    np.random.set_state(("MT19937", before, 624, 0, 0.0))
    for ours in (one, other):
        assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1]) and ours[1].dtype == torch.float32
    assert torch.allclose(one[1].sum(1), torch.ones(8))
    assert all(not torch.equal(one[0], mixed(**change)[0]) for change in ({"epoch": 2}, {"step": 3}, {"seed": 4}))


def test_from_the_off_epoch_on_labels_are_hard_and_images_untouched():
    images, labels = batch()
    mixing = Mixing(3, mixup=1.0, off_epoch=2)
    assert mixing(images.clone(), labels, 1, 0)[1].shape == (8, 3)
    same_images, same_labels = mixing(images, labels, 2, 0)
    assert same_images is images and same_labels is labels
    assert Mixing(3, mixup=1.0)(images.clone(), labels, 10**6, 0)[1].ndim == 2


def test_only_the_images_of_one_batch_are_mixed_and_numbers_stay():
    split = Split(torch.arange(20) % 3, images=torch.randint(0, 256, (20, 1, 6, 6), dtype=torch.uint8))
    pre = Preprocessing((6, 6), (0.5,), (0.5,), in_chans=1)
    plain, mixed = (Batches(split, pre, batch_size=4, shuffle=True, mixing=m) for m in (None, Mixing(3, mixup=1.0)))
    for (images, labels, index), (others, soft, numbers) in zip(plain.epoch(3), mixed.epoch(3), strict=True):
        assert torch.equal(index, numbers) and soft.shape == (4, 3)
        hard = F.one_hot(labels, 3).float()
        share = (soft - hard.flip(0)).abs().sum() / (hard - hard.flip(0)).abs().sum().clamp(min=1e-9)
        if not torch.equal(labels, labels.flip(0)):
            assert torch.allclose(others, share * images + (1 - share) * images.flip(0), atol=1e-5)
    assert torch.equal(next(plain.epoch(3))[0], next(plain.epoch(3))[0])  # the split itself was not mixed in place


def test_mixing_a_batch_waits_for_no_device():
    images, labels = (tensor.to("meta") for tensor in batch())  # has no values to wait for
    mixing = Mixing(3, mixup=0.4, cutmix=1.0)
    for step in range(4):
        assert mixing(images, labels, 0, step)[1].shape == (8, 3)


def test_batches_of_an_odd_size_are_refused(few):
    with pytest.raises(KdError, match=r"^--mixup and --cutmix pair the images of a batch, and a batch has 15: add -b 14$"):
        prepare(config(few, mixup=0.2, batch_size=15))
    with pytest.raises(KdError, match="a batch has 59: add -b 58"):  # it shrinks to the images
        prepare(config(few, cutmix=1.0, train_limit=59, batch_size=64))
    prepare(config(few, mixup=0.2, mixup_prob=0.0, batch_size=15))


def test_a_chance_of_0_is_no_mixing_bit_for_bit(train):
    plain, never = train("plain", method="plain", epochs=1), train("never", method="plain", epochs=1, mixup=0.8, cutmix=1.0, mixup_prob=0.0)
    assert not mixes(read_config(never.run.config())) and resolve_mixing(read_config(never.run.config()), 3) is None
    assert (plain.run.path / "student.safetensors").read_bytes() == (never.run.path / "student.safetensors").read_bytes()


# -- through methods --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "mode"), [("deep-supervision", "pair"), ("byot", "batch"), ("byot", "elem"), ("plain", "batch")])
def test_methods_train_on_mixed_batches(train, method, mode):
    trained = train(method, method=method, **BOTH, mixup_mode=mode, epochs=1)
    record = trained.run.metrics()[0]
    assert np.isfinite(list(record["train"].values())).all() and {"top1", "nll"} <= record["dev"].keys()


def test_kd_trains_on_mixed_batches_and_its_teacher_sees_them(train, few):
    teacher = train("teacher", method="plain", epochs=1)
    trained = train("kd", method="kd", teacher=str(teacher.run.path), **BOTH, epochs=1)
    assert trained.run.metrics()[0]["train"].keys() == {"loss", "ce", "kd"}
    prepared = prepare(config(few, method="kd", teacher=str(teacher.run.path), **BOTH))
    images, soft, index = next(prepared.batches("train", train=True).epoch(0))
    task = prepared.composition.task().train()
    answer = task(images, soft, index)
    logits, frozen = task.objective.model(images).logits, task.teacher(images).logits[-1]
    expected = sum(
        F.kl_div(F.log_softmax(exit / 4, 1), F.log_softmax(frozen / 4, 1), log_target=True, reduction="batchmean") for exit in logits
    )
    assert answer["kd"].item() == pytest.approx(16 * expected.item(), rel=1e-3)
    assert answer["ce"].item() == pytest.approx(sum(SoftTargetCrossEntropy()(exit, soft).item() for exit in logits), rel=1e-4)


class Killed(Watch):
    def epoch(self, record) -> None:
        raise KeyboardInterrupt


def test_a_mixed_run_resumes_to_the_same_numbers(train, tmp_path):
    settings = {**BOTH, "method": "byot", "mixup_off_epoch": 2, "epochs": 3, "smoothing": 0.1, "class_weights": "balanced", "aa": "rand-m5"}
    whole = train("whole", **settings)
    with pytest.raises(KeyboardInterrupt):
        train("parts", watch=Killed(), **settings)
    torch.rand(3), np.random.rand(3)
    parts = kdcore.train(run=tmp_path / "parts", resume=True)
    for one, other in zip(whole.run.metrics(), parts.run.metrics(), strict=True):
        assert (one["train"], one["dev"]) == (other["train"], other["dev"])
    assert (whole.run.path / "student.safetensors").read_bytes() == (parts.run.path / "student.safetensors").read_bytes()


@pytest.mark.parametrize("settings", [{"mixup": 0.2}, {"cutmix": 1.0}, {"mixup": 0.2, "mixup_off_epoch": 1}])
def test_a_loss_that_needs_hard_labels_is_refused_by_name_and_distribution(few, tmp_path, settings):
    (tmp_path / "strict.py").write_text(HARD)
    says = r"^loss 'strict.margin' \(.+\) needs hard labels, and mixup or cutmix makes soft ones: add --mixup 0 --cutmix 0, or leave this part out$"
    file = {"plugin": [str(tmp_path / "strict.py")]}
    with pytest.raises(KdError, match=says):
        resolve_recipe(config(few, loss=["strict.margin"], **file, **settings), Plugins(file["plugin"]))
    with pytest.raises(KdError, match=says.replace("margin", "sometimes")):  # an option decides: known once it is built
        prepare(config(few, loss=["strict.sometimes"], **file, **settings))
    prepare(config(few, loss=["strict.sometimes"], options={"strict.sometimes.hard": False}, **file, **settings))
    prepare(config(few, loss=["strict.margin"], **file))


def test_compose_rehearses_soft_labels_where_a_run_has_them():
    seen = []

    def look(step, targets=None):
        seen.append(step.batch.soft_labels)
        return step.outputs.logits[-1].mean()

    for soft in (False, True):
        seen.clear()
        compose("test_resnet_32px", Method(terms={"look": Term(look)}), num_classes=3, image_size=16, soft_labels=soft)
        assert all((labels is not None) == soft for labels in seen) and seen
    assert torch.allclose(seen[0].sum(1), torch.ones(len(seen[0])))


# -- smoothing and class weights --------------------------------------------------------------------------------------------------


def test_smoothing_of_mixed_labels_is_timms_and_happens_once(few):
    images, labels = batch()
    logits = torch.randn(8, 3, dtype=torch.float64)
    np.random.seed(0)
    _, smoothed = Mixup(1.0, num_classes=3, label_smoothing=0.2)(images.clone(), labels)
    np.random.seed(0)
    _, soft = Mixup(1.0, num_classes=3, label_smoothing=0.0)(images.clone(), labels)
    theirs = SoftTargetCrossEntropy()(logits, smoothed.double())
    assert cross_entropy(logits, labels, soft.double(), 0.2).item() == pytest.approx(theirs.item(), rel=1e-6)
    for settings in ({}, BOTH):  # as without mixing, smoothing is the cross entropy's
        recipe = resolve_recipe(config(few, smoothing=0.2, method="byot", **settings), Plugins())
        options = [configured(part) for place, part in recipe.components().items() if place.startswith("term ce")]
        assert options and all(each["label_smoothing"] == 0.2 for each in options)
    prepared = prepare(config(few, smoothing=0.2, **BOTH))
    _, soft, _ = next(prepared.batches("train", train=True).epoch(0))
    assert (soft == 0).any()


def test_balanced_weights_are_scikit_learns():
    labels = torch.tensor([0] * 40 + [1] * 15 + [2] * 5)
    theirs = compute_class_weight("balanced", classes=np.arange(3), y=labels.numpy())
    assert balanced_weights(labels, 3).tolist() == pytest.approx(theirs.tolist())
    assert balanced_weights(labels[:55], 3)[2] == 1  # no image to weigh
    assert balanced_weights(torch.tensor([1, 0, 1, 0]), 2).tolist() == [1, 1]


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_weighted_cross_entropy_is_torchs_and_one_hot_soft_labels_are_hard_ones(smoothing):
    _, labels = batch()
    logits, weights = torch.randn(8, 3, dtype=torch.float64, requires_grad=True), torch.tensor([0.5, 1.0, 4.0])
    torchs = F.cross_entropy(logits, labels, weights.double(), label_smoothing=smoothing)
    hard = cross_entropy(logits, labels, None, smoothing, weights)
    soft = cross_entropy(logits, labels, F.one_hot(labels, 3).double(), smoothing, weights)
    assert hard.item() == pytest.approx(torchs.item(), rel=1e-12) and soft.item() == pytest.approx(torchs.item(), rel=1e-12)
    equal = cross_entropy(logits, labels, F.one_hot(labels, 3).double(), smoothing, torch.full((3,), 7.0))
    assert equal.item() == pytest.approx(cross_entropy(logits, labels, None, smoothing).item(), rel=1e-12)
    one, other = (torch.autograd.grad(loss, logits)[0] for loss in (hard, soft))
    assert torch.allclose(one, other, atol=1e-12)


def test_weighted_cross_entropy_is_computed_in_float32_under_autocast():
    _, labels = batch()
    logits = (60 * torch.randn(8, 3)).bfloat16()
    soft, weights = F.one_hot(labels, 3).float() * 0.7 + 0.1, torch.tensor([0.333, 1.1, 4.7])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = [cross_entropy(logits, labels, given, 0.1, weights) for given in (None, soft)]
    expected = [cross_entropy(logits.float(), labels, given, 0.1, weights) for given in (None, soft)]
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in found)
    assert [loss.item() for loss in found] == pytest.approx([loss.item() for loss in expected], rel=1e-6)


def test_every_cross_entropy_without_weights_of_its_own_takes_the_runs(few):
    recipe = resolve_recipe(config(few, class_weights="balanced", method="byot", loss=["ce:deepest=0.5"]), Plugins())
    made = {place: configured(part) for place, part in recipe.components().items() if place.startswith("term ce")}
    assert len(made) >= 2 and all(options["class_weights"] == "balanced" for options in made.values())
    assert configured(resolve_recipe(config(few), Plugins()).components()["term ce"])["class_weights"] == "none"
    prepared = prepare(config(few, class_weights="balanced", method="plain"))
    (term,) = prepared.composition.task().objective.terms
    assert torch.allclose(term.run._weights, torch.tensor([0.5, 60 / 45, 4.0]))
    images, labels, index = next(prepared.batches("train", train=True).epoch(0))
    answer = prepared.composition.task().eval()(images, labels, index)
    assert answer["ce"].item() == pytest.approx(F.cross_entropy(answer["output"], labels, term.run._weights).item(), rel=1e-6)


def test_two_runs_of_one_method_keep_their_own_weights():
    method = Method(terms={"ce": Term(CE(class_weights="balanced"))})
    made = [
        compose("test_resnet_32px", method, num_classes=2, image_size=16, labels=torch.tensor(labels)) for labels in ([0, 0, 0, 1], [0, 1])
    ]
    assert [composition.terms[0].run._weights.tolist() for composition in made] == [pytest.approx([2 / 3, 2.0]), [1.0, 1.0]]
    assert method.terms["ce"].loss._weights is None
    with pytest.raises(
        KdError, match=r"class_weights=balanced counts the training labels, and there are none here: compose\(..., labels=...\)"
    ):
        compose("test_resnet_32px", method, num_classes=2, image_size=16)


def test_what_two_terms_share_they_share_in_a_run():
    shared, composition = CE(class_weights="balanced"), {"num_classes": 2, "image_size": 16, "labels": torch.tensor([0, 1])}
    method = Method(terms={"one": Term(shared), "other": Term(shared, weight=0.5)})
    one, other = compose("test_resnet_32px", method, **composition).terms
    assert one.run is other.run and one.run is not shared
    twice = Method(terms={"one": Term(CE), "other": Term(CE)})
    one, other = compose("test_resnet_32px", twice, **composition).terms
    assert one.run is not other.run


def test_weights_are_a_constant_of_the_compiled_graph():
    method = Method(terms={"ce": Term(CE(class_weights="balanced", label_smoothing=0.1))})
    composition = compose("test_resnet_32px", method, num_classes=2, image_size=16, labels=torch.tensor([0, 0, 0, 1]))
    plain, task = composition.task().eval(), composition.task().eval()
    images, soft = torch.randn(4, 3, 16, 16), torch.tensor([[0.5, 0.5], [1.0, 0.0], [0.2, 0.8], [0.0, 1.0]])
    task.compile(backend="eager")
    for labels in (soft, soft.argmax(1)):
        assert task(images, labels)["loss"].item() == pytest.approx(plain(images, labels)["loss"].item(), rel=1e-5)

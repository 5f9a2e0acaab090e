"""Augmentation and preprocessing by settings: what they resolve to, on arrays and photos alike, and that the resolved ones repeat a run."""

import numpy as np
import pytest
import torch
from PIL import Image

import kdcore
from kdcore import KdError
from kdcore.config import laid_over, read_config
from kdcore.data import Augmentation, Batches, Data, Preprocessing, Split
from kdcore.data.sampling import balanced_order
from kdcore.named_recipes import with_recipe
from kdcore.pixels import check_pixels, described, resolve_augmentation, resolve_preprocessing, unused, written_down
from kdcore.preparing import prepare

EVERYTHING = Augmentation(
    crop_pad=2,
    hflip=0.5,
    vflip=0.5,
    scale=(0.3, 1),
    rotation=30,
    color_jitter=0.4,
    auto_augment="rand-m9-mstd0.5",
    cutout=3,
    reprob=0.5,
)
SMALL = {
    "model": "test_resnet_32px",
    "data": "digits",
    "img_size": 16,
    "labels_per_class": 10,
    "epochs": 1,
    "batch_size": 32,
    "amp": "none",
    "channels_last": False,
    "device": "cpu",
    "workers": 0,
}


class Store:
    """Pictures in a store of their own, as `Split.items` has them."""

    def __init__(self, images: torch.Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: int) -> Image.Image:
        return Image.fromarray(self.images[number].permute(1, 2, 0).numpy())


def arrays(count: int = 20, channels: int = 3, side: int = 12) -> Split:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, channels, side, side), dtype=torch.uint8, generator=generator)
    return Split(torch.arange(count) % 2, images=images)


def plain(side: int = 12, channels: int = 3) -> Preprocessing:
    return Preprocessing((side, side), (0.4,) * channels, (0.3,) * channels, in_chans=channels)


def data_of(split: Split, channels: int = 3) -> Data:
    return Data("x", ["a", "b"], channels, None, split)


def by_number(batches: Batches, epoch: int = 0) -> dict[int, torch.Tensor]:
    return {int(n): image for images, _, index in batches.epoch(epoch) for n, image in zip(index, images, strict=True)}


def same(one: dict[int, torch.Tensor], other: dict[int, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def config(**settings):
    return read_config({**SMALL, **settings})


# -- what becomes of pixels -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nothing", [Augmentation(), Augmentation(auto_augment="rand-m9-p0")])
@pytest.mark.parametrize(("channels", "given", "size"), [(3, 3, 12), (1, 1, 12), (1, 3, 12), (3, 1, 12), (3, 3, 16)])
def test_a_step_of_probability_0_is_none_bit_for_bit_on_arrays_one_by_one(nothing, channels, given, size):
    split = arrays(channels=channels)
    pre = Preprocessing((size, size), (0.4,) * given, (0.3,) * given, in_chans=given, crop_pct=0.8)
    seen, evaluated = (by_number(Batches(split, pre, batch_size=8, augmentation=each)) for each in (nothing, None))
    assert same(seen, evaluated)


def test_pixels_of_arrays_depend_on_seed_epoch_and_number_alone():
    def make(batch_size=7, **options):
        return Batches(split, plain(), batch_size=batch_size, augmentation=EVERYTHING, **options)

    split = arrays()
    base = by_number(make(), 1)
    assert len(base) == 20 and same(base, by_number(make(3, shuffle=True), 1)) and same(base, by_number(make(channels_last=True), 1))
    assert same(base, by_number(make(rank=0, world=2), 1) | by_number(make(rank=1, world=2), 1))
    assert not same(base, by_number(make(), 2)) and not same(base, by_number(make(seed=1), 1))
    assert not same(base, by_number(Batches(split, plain(), batch_size=7), 1))


def test_arrays_and_stores_are_augmented_alike():
    split = arrays()
    stored = Split(split.labels, items=Store(split.images))
    ours, theirs = (Batches(each, plain(), batch_size=5, augmentation=EVERYTHING) for each in (split, stored))
    assert same(by_number(ours, 3), by_number(theirs, 3))


def test_workers_that_are_spawned_see_the_same_pixels():
    split = arrays(8)
    batches = Batches(split, plain(), batch_size=3, augmentation=EVERYTHING, workers=1)
    batches._source._loader.multiprocessing_context = "spawn"  # what macOS and Windows do
    assert same(by_number(batches, 2), by_number(Batches(split, plain(), batch_size=8, augmentation=EVERYTHING), 2))


def test_workers_that_are_forked_see_the_same_pixels():
    batches = Batches(arrays(), plain(), batch_size=3, augmentation=EVERYTHING, workers=2)
    assert same(by_number(batches, 2), by_number(Batches(arrays(), plain(), batch_size=8, augmentation=EVERYTHING), 2))


POLICIES = ["rand-m9-mstd0.5-inc1", "augmix-m3-w3", "original", "v0", "3a", "imagenet", "cifar10", "cifar", "svhn"]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(("side", "channels"), [(32, 1), (32, 3), (224, 1), (224, 3)])
@pytest.mark.parametrize("interpolation", ["bilinear", "lanczos"])
def test_automatic_augmentation(policy, side, channels, interpolation):
    split = arrays(6, channels, side)
    pre = Preprocessing((side, side), (0.4,) * channels, (0.3,) * channels, interpolation, in_chans=channels)
    seen, untouched = (by_number(Batches(split, pre, batch_size=6, augmentation=a)) for a in (Augmentation(auto_augment=policy), None))
    assert all(image.shape == (channels, side, side) for image in seen.values()) and not same(seen, untouched)
    assert same(seen, by_number(Batches(split, pre, batch_size=2, augmentation=Augmentation(auto_augment=policy))))


def test_a_rotation_turns_about_the_middle_and_fills_with_the_mean():
    image = torch.zeros(40, 3, 33, 33, dtype=torch.uint8)
    image[:, :, 16, 16] = 255
    pre = Preprocessing((33, 33), (0.2, 0.4, 0.6), (1.0,) * 3)
    batches = Batches(Split(torch.zeros(40, dtype=torch.int64), images=image), pre, batch_size=40, augmentation=Augmentation(rotation=180))
    ((turned, _, _),) = batches.epoch(0)
    corners = (turned[:, :, 0, 0] * 255).round().abs()
    assert (corners.amax(1) == 0).sum() > 20  # the mean, or within rounding black where little was turned
    middle = turned[:, 0, 16, 16] + 0.2
    assert (middle > 0.5).all()
    small = Batches(Split(torch.zeros(40, dtype=torch.int64), images=image), pre, batch_size=40, augmentation=Augmentation(rotation=1e-3))
    ((still, _, _),) = small.epoch(0)
    assert (still[:, 0, 16, 16] + 0.2 > 0.95).all()


@pytest.mark.parametrize(
    "augmentation",
    [
        Augmentation(rotation=20),
        Augmentation(color_jitter=0.5),
        Augmentation(scale=(0.2, 0.5)),
        Augmentation(reprob=1.0),
        Augmentation(cutout=6),
        Augmentation(vflip=1.0),
    ],
)
def test_each_step_changes_arrays_and_keeps_their_form(augmentation):
    seen, untouched = (by_number(Batches(arrays(), plain(), batch_size=5, augmentation=a)) for a in (augmentation, None))
    assert all(seen[n].shape == (3, 12, 12) and not torch.equal(seen[n], untouched[n]) for n in seen)


def test_what_an_augmentation_says_of_itself():
    assert Augmentation().described() == "no augmentation"
    assert Augmentation(scale=(0.35, 1.0), hflip=0.5).described() == "random resized crop 0.35-1, flip 0.5"
    assert Augmentation(crop_pad=4, rotation=15, auto_augment="svhn", color_jitter=0.4).described() == (
        "svhn, crop after padding by 4, rotation 15 degrees"
    )
    assert Augmentation(scale=(0.1, 1), ratio=(1, 1), vflip=1, color_jitter=0.4, cutout=8, reprob=0.25).described() == (
        "random resized crop 0.1-1 (ratio 1-1), colour jitter 0.4, vertical flip 1, cutout 8, random erasing 0.25"
    )
    for wrong, part in {
        "rotation": "an angle in degrees",
        "color_jitter": "at least 0",
        "cutout": "at least 0",
        "reprob": "a probability",
    }.items():
        with pytest.raises(KdError, match=f"{wrong} is -1; it is {part}"):
            Augmentation(**{wrong: -1})


# -- from settings ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"scale": [0.5]}, "--scale 0.5: write a smallest and a largest share of the area, above 0 and at most 1, e.g. --scale 0.35,1"),
        ({"scale": [1, 0.5]}, "--scale 1,0.5: write a smallest and a largest share"),
        ({"scale": [0.1, 1.5]}, "--scale 0.1,1.5: write"),
        ({"scale": [float("nan"), 1]}, "--scale nan,1: write"),
        ({"scale": []}, "--scale : write"),
        ({"ratio": [0, 1]}, "--ratio 0,1: write a smallest and a largest width over height, above 0, e.g. --ratio 0.75,1.33"),
        ({"mean": [123.7]}, "--mean 123.7: write one number, or one for each of three channels, from 0 to 1, e.g. --mean 0.5,0.5,0.5"),
        ({"std": [0.2, 0.2]}, "--std 0.2,0.2: write one number"),
        ({"std": [0]}, "--std 0: write one number, or one for each of three channels, above 0 to 1"),
        ({"interpolation": "bicubi"}, "--interpolation bicubi: there is none of that name; did you mean 'bicubic'?"),
        ({"aa": "randaug"}, "--aa randaug: there is no such automatic augmentation; timm has rand-m9-mstd0.5, augmix"),
        ({"aa": "rand-q9"}, "torchvision imagenet, cifar10, cifar, svhn"),
        ({"aug": False, "hflip": 0.5}, "--no-aug leaves images as they are, and --hflip would change them: leave out one or the other"),
        ({"aug": False, "color_jitter": 0.4, "mixup": 0.2, "vflip": 0.0}, "and --color-jitter, --mixup would change them"),
        ({"aug": False, "aa": "svhn"}, "and --aa would"),
        ({"aug": False, "cutout": 8}, "and --cutout would"),
    ],
)
def test_a_setting_that_no_image_could_have_is_refused_by_its_flag(settings, says):
    with pytest.raises(KdError) as raised:
        check_pixels(config(**settings))
    assert says in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "settings", [{"hflip": 1.5}, {"vflip": -1}, {"rotation": 181}, {"reprob": 2}, {"color_jitter": -1}, {"cutout": -1}, {"crop_pct": 0}]
)
def test_a_number_out_of_range_is_refused_by_its_flag(settings):
    with pytest.raises(KdError, match=f"--{next(iter(settings)).replace('_', '-')} .* is refused"):
        config(**settings)


@pytest.mark.parametrize(
    ("settings", "photos", "resolved"),
    [
        ({}, False, Augmentation(crop_pad=2, hflip=0.5)),
        ({}, True, Augmentation(scale=(0.35, 1.0), hflip=0.5)),
        ({"scale": [1, 1]}, True, Augmentation(scale=(1, 1), hflip=0.5)),
        ({"scale": [0]}, True, Augmentation(hflip=0.5)),
        ({"crop_pad": 4}, True, Augmentation(crop_pad=4, hflip=0.5)),
        ({"crop_pad": 4, "scale": [0.5, 1]}, True, Augmentation(crop_pad=4, scale=(0.5, 1), hflip=0.5)),
        ({"scale": [0.5, 1], "ratio": [1, 1]}, False, Augmentation(scale=(0.5, 1), ratio=(1, 1), hflip=0.5)),
        (
            {"crop_pad": 0, "hflip": 0, "vflip": 0, "rotation": 0, "color_jitter": 0, "aa": "none", "cutout": 0, "reprob": 0},
            False,
            Augmentation(),
        ),
        ({"aug": False}, True, Augmentation()),
        ({"aug": False, "hflip": 0.0, "scale": [0]}, False, Augmentation()),
        (
            {"vflip": 0.1, "rotation": 9, "color_jitter": 0.2, "aa": "v0", "cutout": 6, "reprob": 0.3, "hflip": 0.2},
            False,
            Augmentation(crop_pad=2, hflip=0.2, vflip=0.1, rotation=9, color_jitter=0.2, auto_augment="v0", cutout=6, reprob=0.3),
        ),
    ],
)
def test_settings_stand_over_the_defaults_and_the_resolved_ones_resolve_to_themselves(settings, photos, resolved):
    split = arrays()
    data = data_of(Split(split.labels, items=Store(split.images)) if photos else split)
    asked = config(**settings)
    check_pixels(asked)
    pre = plain()
    made = resolve_augmentation(asked, data, pre)
    assert made == resolved
    written = read_config(asked.model_copy(update=written_down(asked, pre, made)).model_dump(exclude_none=True))
    check_pixels(written)
    other = data_of(split if photos else Split(split.labels, items=Store(split.images)))
    assert resolve_augmentation(written, data, pre) == made
    assert resolve_augmentation(written, other, pre) == made  # whatever the defaults are


def test_preprocessing_is_what_was_asked_for_then_the_weights_then_the_defaults():
    photos, resident = data_of(Split(torch.zeros(2), items=Store(torch.zeros(2)))), data_of(arrays())
    weights = {"mean": (0.1, 0.2, 0.3), "std": (0.4,) * 3, "interpolation": "bicubic", "crop_pct": 0.9}
    trained = Preprocessing((64, 64), (0.1, 0.2, 0.3), (0.4,) * 3, "bicubic", 0.9)
    assert resolve_preprocessing(config(), photos, (64, 64), weights) == trained
    asked = config(mean=[0.5], interpolation="lanczos", crop_pct=1.0)
    assert resolve_preprocessing(asked, photos, (64, 64), weights) == Preprocessing((64, 64), (0.5,) * 3, (0.4,) * 3, "lanczos", 1.0)
    assert resolve_preprocessing(config(), resident, None, weights) == Preprocessing((12, 12), (0.1, 0.2, 0.3), (0.4,) * 3)
    written = read_config({**SMALL, **written_down(config(), trained, Augmentation())})
    assert resolve_preprocessing(written, photos, (64, 64), {}) == trained
    with pytest.raises(KdError, match=r"--crop-pct 0[.]9: the data are arrays, which are resized as a whole; leave it out"):
        resolve_preprocessing(config(crop_pct=0.9), resident, None, {})


def test_a_run_says_what_becomes_of_its_training_images():
    asked = config(hflip=0.0, mixup=0.2, cutmix=1, mixup_prob=0.5, mixup_off_epoch=7, sampler="balanced")
    expected = "training images: crop after padding by 2; mixup 0.2 or cutmix 1 in 50% until epoch 7; classes equally often"
    assert expected in prepare(asked).notes
    assert described(config(cutmix=0.5), Augmentation()) == "training images: no augmentation; cutmix 0.5"
    assert described(config(cutmix=0.5, mixup_prob=0), Augmentation(hflip=1)) == "training images: flip 1"


def test_settings_that_do_nothing_are_said_aloud():
    def notes(**settings):
        asked = config(**settings)
        return unused(asked, resolve_augmentation(asked, data_of(arrays()), plain()))

    assert notes() == notes(mixup=0.2, mixup_prob=0.5) == notes(aa="3a", color_jitter=0.3) == notes(scale=[0.1, 1], ratio=[1, 1]) == []
    assert notes(aa="svhn", color_jitter=0.3) == ["--color-jitter does nothing beside --aa svhn, as in timm"]
    assert notes(ratio=[1, 1]) == ["--ratio does nothing without --scale"]
    assert notes(mixup_off_epoch=3) == ["--mixup-off-epoch does nothing without --mixup or --cutmix"]
    assert notes(sampler="balanced", class_weights="balanced")[0].endswith("make up for rare classes twice: one of them is enough")


def test_no_aug_puts_out_what_a_recipe_or_a_file_switches_on():
    base = {"aa": "svhn", "mixup": 0.1, "hflip": 0.5, "aug": True, "lr": 0.2, "options": {"a": 1}}
    assert laid_over(base, {"aug": False, "options": {"b": 2}}) == {"aug": False, "lr": 0.2, "options": {"a": 1, "b": 2}}
    assert laid_over(base, {"hflip": 0.0}) == {**base, "hflip": 0.0}
    assert with_recipe("scratch", {"aug": False}).keys().isdisjoint({"aa", "mixup", "cutmix", "scale", "hflip"})


# -- whole runs -------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def few(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("data") / "few.npz"
    pixels = arrays(60, 1).images[:, 0].numpy()
    np.savez(
        path,
        **{f"{name}_{kind}": value for name in ("train", "val") for kind, value in (("images", pixels), ("labels", np.arange(60) % 3))},
    )
    return str(path)


def test_the_written_settings_repeat_a_run_whatever_the_defaults_become(tmp_path, few, monkeypatch):
    settings = {
        **SMALL,
        "data": few,
        "labels_per_class": None,
        "method": "plain",
        "aa": "rand-m5",
        "mixup": 0.2,
        "sampler": "balanced",
        "class_weights": "balanced",
        "epochs": 2,
    }
    first = kdcore.train(**settings, run=tmp_path / "first")
    written = first.run.config()
    assert {"crop_pad": 2, "hflip": 0.0, "scale": [0.0], "aa": "rand-m5", "interpolation": "bilinear"}.items() <= written.items()
    assert len(written["mean"]) == len(written["std"]) == 1
    monkeypatch.setattr("kdcore.pixels.default_augmentation", lambda *_: EVERYTHING)
    monkeypatch.setattr("kdcore.data.transforms._measured", lambda images: ((0.9,), (0.9,)))
    again = kdcore.train(**written, run=tmp_path / "again")
    assert again.run.config() == written
    for one, other in zip(first.run.metrics(), again.run.metrics(), strict=True):
        assert (one["train"], one["dev"]) == (other["train"], other["dev"])
    assert (first.run.path / "student.safetensors").read_bytes() == (again.run.path / "student.safetensors").read_bytes()


def test_augmentation_leaves_evaluation_alone():
    asked = [
        prepare(config(**settings)) for settings in ({"aug": False}, {"aa": "cifar10", "mixup": 0.3, "scale": [0.1, 0.2], "rotation": 90})
    ]
    none, much = ([batch for batch in prepared.batches("dev").epoch(0)] for prepared in asked)
    for (images, labels, index), (others, other_labels, other_index) in zip(none, much, strict=True):
        assert torch.equal(images, others) and torch.equal(labels, other_labels) and torch.equal(index, other_index)
    assert asked[0].augmentation == Augmentation() and "hflip" not in asked[0].config.model_dump(exclude_none=True)
    prepared = asked[0]
    untouched = by_number(Batches(prepared.data.train, prepared.preprocessing, batch_size=100))
    seen = by_number(prepared.batches("train", train=True))
    assert len(seen) == 96 and all(torch.equal(image, untouched[n]) for n, image in seen.items())


# -- sampling ---------------------------------------------------------------------------------------------------------------------


def test_a_balanced_epoch_shows_every_class_equally_often():
    labels = torch.tensor([0] * 70 + [1] * 25 + [2] * 5)
    order = balanced_order(labels, 0, 0)
    assert len(order) == 100 and sorted(torch.bincount(labels[order]).tolist()) == [33, 33, 34]
    times = torch.bincount(order, minlength=100)
    assert times[:70].max() == 1  # none twice of a class that has enough
    assert set(times[70:95].tolist()) == {1, 2} and set(times[95:].tolist()) <= {6, 7}
    assert (order[:50] < 70).any() and (order[50:] < 70).any()  # classes are mixed


def test_a_balanced_order_is_a_function_of_seed_and_epoch():
    split = Split(torch.tensor([0] * 15 + [1] * 5), images=arrays().images)

    def order(epoch=0, **options):
        return Batches(split, plain(), batch_size=4, shuffle=True, balanced=True, drop_last=True, **options).order(epoch).tolist()

    assert order() == order() == order(workers=2) != order(1) and order(seed=1) != order()
    assert len(order()) == 20 and order(rank=1, world=2) == order()[1::2][:8]
    first = [set(balanced_order(split.labels, 0, epoch).tolist()) & set(range(15)) for epoch in range(8)]
    assert set().union(*first) == set(range(15))  # every image of the frequent class has its turn


def test_the_sampler_is_for_training_alone():
    prepared = prepare(config(sampler="balanced"))
    assert prepared.batches("dev").order(0).tolist() == list(range(len(prepared.data.dev)))
    train = prepared.batches("train", train=True)
    counts = np.bincount(prepared.data.train.labels[train.order(0)], minlength=10)
    assert counts.sum() == 96 and counts.min() >= 6

"""What becomes of a batch on its device: each step against a slow reference, and that it is a function of (seed, epoch, sample number) alone."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as vision

from kdcore.data import Augmentation, Batches, Preprocessing, Split
from kdcore.data.augmenting import Augmenter
from kdcore.seeds import draws, seed_of

ALL = Augmentation(crop_pad=2, hflip=0.5, vflip=0.5, rotation=40, cutout=5, reprob=0.5)
CPU = torch.device("cpu")


def split_of(count: int = 60, channels: int = 3, size: tuple[int, int] = (12, 9)) -> Split:
    generator = torch.Generator().manual_seed(1)
    return Split(torch.arange(count) % 2, images=torch.randint(0, 256, (count, channels, *size), dtype=torch.uint8, generator=generator))


def pre(size: tuple[int, int] = (12, 9), channels: int = 3) -> Preprocessing:
    return Preprocessing(size, (0.2, 0.4, 0.6)[:channels], (0.3,) * channels, in_chans=channels)


def by_number(batches: Batches, epoch: int = 0) -> dict[int, torch.Tensor]:
    return {int(n): image for images, _, index in batches.epoch(epoch) for n, image in zip(index, images, strict=True)}


def same(one: dict[int, torch.Tensor], other: dict[int, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def augmented(images: torch.Tensor, augmentation: Augmentation, *, seed: int = 3, epoch: int = 2) -> tuple[torch.Tensor, dict]:
    """All images as one batch, uint8, and the numbers that were drawn for it."""
    size = (images.shape[2], images.shape[3])
    augmenter = Augmenter(augmentation, pre(size), seed=seed, device=CPU)
    (numbers,) = augmenter.plan(torch.arange(len(images)), len(images), epoch)
    return augmenter(images, numbers), numbers


def drawn(count: int, seed: int = 3, epoch: int = 2) -> np.ndarray:
    return draws(seed_of(seed, epoch), torch.arange(count), 12).double().numpy()


# -- one step -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [1, 4, 5, 9])
def test_cutout_is_a_square_about_any_pixel_that_is_clipped_at_the_edge(side):
    images = split_of(200).images
    seen, _ = augmented(images, Augmentation(cutout=side))
    expected, cut = images.clone(), set()
    for image, draw in zip(expected, drawn(200), strict=True):
        y, x = int(draw[5] * 12), int(draw[6] * 9)
        cut.add((y, x))
        top, left = y - side // 2, x - side // 2
        image[:, max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)] = torch.tensor([51, 102, 153])[:, None, None]
    assert torch.equal(seen, expected) and len(cut) > 80 and {(0, 0), (11, 8)} & cut


def test_erasing_takes_a_share_of_the_area_of_some_images():
    images = torch.zeros(4000, 1, 40, 40, dtype=torch.uint8).expand(-1, 3, -1, -1)
    seen, _ = augmented(images, Augmentation(reprob=0.25))
    erased = seen[:, 1] == 102
    assert torch.equal(seen[:, 0] == 51, erased) and set(seen[:, 0].unique().tolist()) == {0, 51}
    areas = erased.sum((1, 2))
    assert 0.22 < (areas > 0).float().mean() < 0.28
    rows, columns = erased.any(2).sum(1), erased.any(1).sum(1)
    assert torch.equal(rows * columns, areas)  # a rectangle
    some = areas[areas > 0] / 1600
    assert (
        0.015 < some.min() < 0.04
        and 0.3 < some.max() < 0.36
        and (rows[areas > 0] > columns[areas > 0]).float().mean() == pytest.approx(0.5, abs=0.1)
    )


@pytest.mark.parametrize("size", [(32, 32), (33, 21), (48, 40), (7, 64)])
def test_a_rotation_is_pillows_within_a_rounding(size):
    """On a smooth image with an edge of the mean: Pillow and torchvision disagree on how what is outside blends with the edge."""
    y, x = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    value = 127 + 60 * torch.sin(x / 9.0) + 60 * torch.cos(y / 7.0 + x / 20)
    fill = torch.tensor([51, 102, 153], dtype=torch.uint8)[:, None, None]
    image = F.pad(torch.stack([value, 255 - value, 0.5 * value])[:, 2:-2, 2:-2].round().byte() ^ fill, [2] * 4) ^ fill
    seen, numbers = augmented(image.expand(60, -1, -1, -1), Augmentation(rotation=180))
    angles = [math.degrees(math.atan2(sin, cos)) for sin, cos in zip(numbers["sin"].tolist(), numbers["cos"].tolist(), strict=True)]
    assert angles == pytest.approx([180 * (2 * draw[4] - 1) for draw in drawn(60)], abs=1e-2)
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    edge = F.conv2d((image != fill).any(0).float()[None, None], torch.ones(1, 1, 3, 3), padding=1)[0, 0]
    sharp = (edge > 0) & (edge < 9)  # where the picture meets its edge, half a step of 1/256 pixel is more than a rounding
    for turned, angle in zip(seen, angles, strict=True):
        by_pillow = vision.pil_to_tensor(vision.rotate(picture, angle, InterpolationMode.BILINEAR, fill=fill.flatten().tolist()))
        apart = (turned.int() - by_pillow.int()).abs()
        near = vision.rotate(sharp[None].float(), angle, InterpolationMode.BILINEAR)[0] > 0
        assert apart[:, ~near].max() <= 1 and apart.max() <= 2


@pytest.mark.parametrize("size", [(32, 32), (33, 21), (224, 200)])
def test_a_rotation_is_exact_so_that_no_device_rounds_otherwise(size, monkeypatch):
    """In float64 the very same comes out: no order of sums, no fused multiplication can change a pixel."""
    images = split_of(8, 3, size).images
    here, _ = augmented(images, Augmentation(rotation=180))
    single = F.grid_sample
    monkeypatch.setattr(
        "kdcore.data.augmenting.F.grid_sample", lambda x, grid, **options: single(x.double(), grid.double(), **options).float()
    )
    assert torch.equal(augmented(images, Augmentation(rotation=180))[0], here)


def test_a_rotation_by_nothing_changes_nothing():
    images = split_of(6, 3, (31, 18)).images
    assert torch.equal(augmented(images, Augmentation(rotation=1e-4))[0], images)


# -- all of them ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_a_sample_is_the_same_in_any_company(channels, monkeypatch):
    def make(batch_size=16, **options):
        return Batches(split, pre(), batch_size=batch_size, augmentation=ALL, **options)

    split = split_of(60, channels)
    base = by_number(make(), 1)
    assert len(base) == 60 and base[0].shape == (3, 12, 9)
    assert same(base, by_number(make(7, shuffle=True), 1)) and same(base, by_number(make(1), 1)) and same(base, by_number(make(60), 1))
    assert same(base, by_number(make(rank=0, world=2), 1) | by_number(make(rank=1, world=2), 1))
    assert same(base, by_number(make(channels_last=True), 1))
    assert not same(base, by_number(make(), 2)) and not same(base, by_number(make(seed=1), 1))
    monkeypatch.setattr("kdcore.data.augmenting._AT_ONCE", 20)
    monkeypatch.setattr("kdcore.data.augmenting._ROTATED_AT_ONCE", 1000)
    assert same(base, by_number(make(), 1)) and same(base, by_number(make(50), 1))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("resident_gb", [2.0, 0.0])
def test_a_gpu_makes_the_same_pixels(resident_gb):
    there, here = (
        by_number(Batches(split_of(), pre(), batch_size=16, augmentation=ALL, device=device, resident_gb=resident_gb))
        for device in ("cuda", "cpu")
    )
    assert same({n: image.cpu() for n, image in there.items()}, here)


@pytest.mark.parametrize("alone", [Augmentation(crop_pad=2, hflip=0.5, vflip=0.5), Augmentation(cutout=5), Augmentation(reprob=0.5)])
def test_switching_a_step_on_moves_no_other(alone):
    images = split_of().images
    (_, together), (_, one) = augmented(images, ALL), augmented(images, alone)
    assert one and all(torch.equal(together[name], values) for name, values in one.items())


def test_the_steps_are_taken_in_their_order():
    """Turned by nothing, what is black beside the crop stays black, and the box of the mean lies on top of all."""
    images = torch.full((50, 3, 12, 9), 255, dtype=torch.uint8)
    seen, numbers = augmented(images, Augmentation(crop_pad=3, rotation=1e-5, cutout=4))
    assert set(seen[:, 0].unique().tolist()) == {0, 51, 255}
    alone, _ = augmented(images, Augmentation(crop_pad=3))
    boxed, _ = augmented(images, Augmentation(cutout=4))
    blank = boxed[:, 0] == 51
    assert torch.equal(seen[:, 0], torch.where(blank, 51, alone[:, 0]).byte()) and numbers["down"].unique().tolist() == list(range(7))


def test_without_steps_a_batch_stays_as_it_is():
    images = split_of().images
    seen, numbers = augmented(images, Augmentation())
    assert seen is images and numbers == {}

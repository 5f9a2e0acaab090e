"""`kdcore.data.survey`: what is found in a folder of photos that has everything wrong with it, and what is not found in one that has nothing."""

import io
import struct
import time
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from kdcore.data import Data, Split, load_data
from kdcore.data.duplicates import difference_hash, identical, near_pairs, pixel_digest, thumbnail
from kdcore.data.findings import as_json, problems, warnings
from kdcore.data.sheet import check_sheet, write_sheet
from kdcore.data.survey import shown_classes, survey
from kdcore.errors import FileError, KdError


def photo(seed, width=160, height=120):
    """Something with the structure of a photo: a few large shapes, and some grain."""
    rng = np.random.default_rng(seed)
    shapes = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    grain = rng.integers(0, 9, (height, width, 3))
    return Image.fromarray((np.asarray(shapes) * (247 / 255) + grain).astype(np.uint8))


def jpeg(image, quality):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def tree(root, *splits, classes=("cat", "dog"), count=6):
    for s, split in enumerate(splits):
        for k, name in enumerate(classes):
            (root / split / name).mkdir(parents=True)
            for n in range(count):
                photo(1000 * s + 100 * k + n).save(root / split / name / f"{n}.png")
    return root


def surveyed(root, **options):
    return survey(load_data(str(root), dev_fraction=0.0), **options)


def near(one, other):
    images = [one, other]
    pairs = near_pairs(np.stack([difference_hash(i) for i in images]), np.stack([thumbnail(i) for i in images]))
    return [(i, j) for i, j, _ in pairs] == [(0, 1)]


SAVED_AGAIN = {
    "quality 90": lambda image: jpeg(image, 90),
    "quality 50": lambda image: jpeg(image, 50),
    "half": lambda image: image.resize((image.width // 2, image.height // 2), Image.Resampling.BILINEAR),
    "double": lambda image: image.resize((image.width * 2, image.height * 2), Image.Resampling.BICUBIC),
    "80 %, then quality 70": lambda image: jpeg(image.resize((128, 96), Image.Resampling.BICUBIC), 70),
}


@pytest.mark.parametrize("how", SAVED_AGAIN)
def test_an_image_saved_again_is_near(how):
    assert all(near(photo(seed), SAVED_AGAIN[how](photo(seed))) for seed in range(12))


def test_other_photos_are_not_near():
    images = [photo(seed) for seed in range(60)] + [photo(seed).transpose(Image.Transpose.FLIP_LEFT_RIGHT) for seed in range(60)]
    assert not list(near_pairs(np.stack([difference_hash(i) for i in images]), np.stack([thumbnail(i) for i in images])))


def test_the_same_edges_in_other_colours_are_not_near():
    image = photo(3)
    assert not near(image, Image.fromarray(np.asarray(image)[:, :, ::-1] // 2))
    assert not near(Image.new("RGB", (64, 64), "white"), Image.new("RGB", (64, 64), "grey"))


def test_near_pairs_are_all_pairs_in_any_chunk():
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 256, (2500, 32), dtype=np.uint8)
    thumbnails = rng.integers(0, 256, (2500, 768), dtype=np.uint8)
    for copy, of in ((1024, 3), (2499, 3), (2400, 2399)):
        hashes[copy], thumbnails[copy] = hashes[of], thumbnails[of]
    hashes[2400, 0] ^= 0b00001011
    begin = time.perf_counter()
    assert list(near_pairs(hashes, thumbnails)) == [(3, 1024, 0), (3, 2499, 0), (1024, 2499, 0), (2399, 2400, 3)]
    assert time.perf_counter() - begin < 5


def test_a_digest_is_of_pixels_and_size():
    image = photo(1)
    assert pixel_digest(image) == pixel_digest(image.copy())
    other = np.asarray(image).copy()
    other[5, 5, 0] ^= 1
    assert pixel_digest(image) != pixel_digest(Image.fromarray(other))
    assert pixel_digest(Image.new("RGB", (2, 8))) != pixel_digest(Image.new("RGB", (8, 2)))
    assert identical(["a", "b", "a", "c", "b", "a"]) == [[0, 2, 5], [1, 4]]


def test_nothing_is_wrong_with_clean_data(tmp_path):
    found = surveyed(tree(tmp_path, "train", "val", "test"))
    assert (problems(found), warnings(found), found.twins, found.converted) == ([], [], [], {})
    assert found.counts == {"train": [6, 6], "dev": [6, 6], "test": [6, 6]}
    assert not found.held_out
    assert found.sizes["width"] == {"min": 160, "median": 160, "max": 160}


def test_the_hold_out_is_that_of_training(tmp_path):
    tree(tmp_path, "train", "test", count=20)
    found = surveyed(tmp_path, seed=3, dev_fraction=0.2)
    dev = load_data(str(tmp_path), seed=3, dev_fraction=0.2).dev
    assert sorted(found.data.train.paths[number] for number in found.held_out) == sorted(dev.paths)
    assert found.counts["dev"] == [4, 4]
    assert surveyed(tmp_path, dev_fraction=0.0).counts.keys() == {"train", "test"}


def bomb():
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 999)) + chunk(b"IEND", b"")


def test_unreadable_images_are_named_with_the_reason(tmp_path):
    tree(tmp_path, "train", "test")
    whole = (tmp_path / "train" / "cat" / "0.png").read_bytes()
    broken = {"empty.jpg": b"", "text.png": b"hello", "cut.png": whole[: len(whole) // 2], "bomb.png": bomb()}
    for name, content in broken.items():
        (tmp_path / "train" / "dog" / name).write_bytes(content)
    found = surveyed(tmp_path)
    why = {seen.name.rpartition("/")[2]: seen.bad for seen in found.bad}
    assert why.keys() == broken.keys()
    assert why["empty.jpg"] == "the file is empty"
    assert "truncated" in why["cut.png"] and "3600000000 pixels" in why["bomb.png"]
    assert not any("\n" in reason or str(tmp_path) in reason for reason in why.values())
    (problem,) = problems(found)
    assert "4 images of 28" in problem and "--skip-bad-images" in problem
    assert found.counts["train"] == [5, 9], "one of ten in each class is held out, bad or not, as in training"


def test_a_class_of_which_nothing_can_be_read(tmp_path):
    tree(tmp_path, "train")
    (tmp_path / "train" / "cow").mkdir()
    (tmp_path / "train" / "cow" / "a.jpg").write_bytes(b"")
    assert any("'cow'" in problem and "does not help" in problem for problem in problems(surveyed(tmp_path)))


def test_conversions_are_counted(tmp_path):
    tree(tmp_path, "train", count=3)
    cat = tmp_path / "train" / "cat"
    photo(50).convert("L").save(cat / "grey.png")
    photo(51).convert("P").save(cat / "palette.png")
    photo(52).convert("RGBA").save(cat / "alpha.png")
    photo(53).convert("CMYK").save(cat / "cmyk.jpg")
    Image.fromarray(np.asarray(photo(54).convert("L")).astype(np.uint16) * 256).save(cat / "sixteen.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    photo(55).save(cat / "turned.jpg", exif=turned)
    found = surveyed(tmp_path)
    assert found.converted == {"grey": 1, "palette": 1, "alpha": 1, "CMYK": 1, "16-bit": 1, "turned by EXIF": 1}
    assert (found.sizes["width"]["min"], found.sizes["height"]["max"]) == (120, 160), "sizes are those of the upright image"


def test_leaks_are_named(tmp_path):
    tree(tmp_path, "train", "val", "test")
    photo(2).save(tmp_path / "test" / "cat" / "copy.png")
    jpeg(photo(3), 60).save(tmp_path / "val" / "dog" / "again.png")
    found = surveyed(tmp_path)
    nearly, same = found.twins
    assert (same.bits, same.across, same.contradict) == (None, ("train", "test"), False)
    assert [seen.name for seen in same.images] == [str(tmp_path / "train" / "cat" / "2.png"), str(tmp_path / "test" / "cat" / "copy.png")]
    assert (nearly.across, nearly.contradict) == (("train", "dev"), True)
    text = warnings(found)
    assert any("1 image of test has a twin in train (the same pixels)" in line for line in text)
    assert any("1 image of dev has a twin in train (nearly the same)" in line and "--group-by" not in line for line in text)
    assert any("labels that contradict" in line for line in text)
    assert len(text) == 3, "no image of train has a twin in train"
    pair = as_json(found)["twins"]["found"][0]
    assert pair["labels_differ"] and {image["split"] for image in pair["images"]} == {"train", "dev"}


def test_twins_that_the_hold_out_would_tear_apart(tmp_path):
    tree(tmp_path, "train", count=10)
    for number in range(10):
        jpeg(photo(number), 80).save(tmp_path / "train" / "cat" / f"{number}-again.png")
    found = surveyed(tmp_path, dev_fraction=0.3)
    assert any("since dev is held out" in line and "--group-by" in line for line in warnings(found))
    grouped = survey(load_data(str(tmp_path), dev_fraction=0.0, group_by=r"(\d+)(-again)?\.png"), dev_fraction=0.3)
    assert grouped.held_out
    assert not any("since dev is held out" in line for line in warnings(grouped))


def test_a_burst_is_one_set(tmp_path):
    tree(tmp_path, "train", "test")
    for quality in (90, 80, 70, 60):
        jpeg(photo(1), quality).save(tmp_path / "train" / "cat" / f"burst-{quality}.png")
    found = surveyed(tmp_path, dev_fraction=0.0)
    assert len(found.twins) == 10
    (burst,) = found.sets
    assert len(burst.images) == 5 and burst.bits == max(pair.bits for pair in found.twins)
    assert any("5 images of train have a twin in train" in line for line in warnings(found))


def test_among_too_many_images_only_the_same_pixels_are_searched(tmp_path, monkeypatch):
    tree(tmp_path, "train", "test")
    jpeg(photo(1), 90).save(tmp_path / "train" / "cat" / "nearly.png")
    photo(2).save(tmp_path / "train" / "cat" / "same.png")
    assert [pair.bits is None for pair in surveyed(tmp_path).twins].count(False) == 1
    monkeypatch.setattr("kdcore.data.survey.NEAR_AMONG", 5)
    found = surveyed(tmp_path)
    assert not found.searched_near
    assert [twins.bits for twins in found.twins] == [None]


def test_classes_that_are_rare(tmp_path):
    tree(tmp_path, "train", "test", count=9)
    (tmp_path / "train" / "cow").mkdir()
    (tmp_path / "test" / "cow").mkdir()
    photo(7000).save(tmp_path / "train" / "cow" / "only.png")
    found = surveyed(tmp_path)
    assert found.imbalance == 9
    text = " ".join(warnings(found))
    assert "a single training image in class 'cow'" in text and "no test image of class 'cow'" in text
    assert "--sampler balanced" in text and "--class-weights balanced" in text


def test_arrays_have_twins_too(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (30, 16, 16), dtype=np.uint8)
    path = tmp_path / "arrays.npz"
    labels = np.arange(20) % 2
    np.savez(path, train_images=pixels[:20], train_labels=labels, test_images=pixels[[20, 4, 21, 22]], test_labels=[0, 1, 1, 0])
    (twins,) = surveyed(path).twins
    assert [seen.name for seen in twins.images] == ["train image 4", "test image 1"]
    assert twins.across[1] == "test" and twins.contradict


def test_pictures_in_a_store(tmp_path):
    pictures = [photo(number).convert("L" if number % 2 else "RGB") for number in range(8)]
    data = Data(
        "store",
        ["a", "b"],
        3,
        None,
        Split(torch.arange(8) % 2, items=[*pictures, None]),
        test=Split(torch.tensor([0, 1]), items=pictures[5:7]),
    )
    found = survey(data, dev_fraction=0.0)
    assert not found.bad and found.converted == {"grey": 5}
    assert [[seen.name for seen in twins.images] for twins in found.twins] == [
        ["train item 5", "test item 0"],
        ["train item 6", "test item 1"],
    ]


def test_the_estimate_comes_once_and_the_count_ends_at_the_end(tmp_path):
    said, seen = [], []
    path = tmp_path / "arrays.npz"
    np.savez(path, train_images=np.random.default_rng(0).integers(0, 256, (200, 8, 8), dtype=np.uint8), train_labels=np.arange(200) % 2)
    surveyed(path, began=lambda count, seconds: said.append((count, seconds)), advanced=seen.append)
    ((count, seconds),) = said
    assert count == 200 and 0 <= seconds < 60
    assert seen == sorted(seen) and seen[-1] == 200


def test_of_many_classes_the_most_frequent_and_the_rarest_are_shown():
    assert shown_classes([3, 1, 2]) == [0, 1, 2]
    assert shown_classes([5, 9, 1, 7, 3], most=4) == [1, 3, 4, 2]


def test_the_contact_sheet(tmp_path):
    root = tree(tmp_path / "photos", "train", count=12, classes=("a rather long name of a class, which is cut", "猫"))
    found = surveyed(root)
    sheet = tmp_path / "sheet.png"
    assert write_sheet(found, sheet) == 20
    with Image.open(sheet) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert (pixels[:, 220:] != 255).any(axis=2).mean() > 0.5, "thumbnails fill the right side"
    assert (pixels[:, :220] < 128).any(), "names stand at the left"
    assert write_sheet(found, sheet) == 20, "its own sheet is written anew"


def test_the_contact_sheet_overwrites_no_photo(tmp_path):
    photo(1).save(tmp_path / "mine.png")
    with pytest.raises(FileError, match="no contact sheet"):
        check_sheet(tmp_path / "mine.png")
    with pytest.raises(KdError, match=r"ends in \.png"):
        check_sheet(tmp_path / "sheet.jpg")
    with pytest.raises(FileError, match="there is no folder"):
        check_sheet(tmp_path / "nowhere" / "sheet.png")

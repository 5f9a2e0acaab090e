"""Opening images: every mode and every kind of damage; and what is done with images that cannot be read."""

import os
import pickle
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from kdcore.data import Batches, Preprocessing, Split, load_data, open_image
from kdcore.data import opening as opening_module
from kdcore.data.opening import as_rgb, image_endings, missing_endings
from kdcore.data.readable import unreadable
from kdcore.data.stores import Encoded, as_arrays
from kdcore.errors import DataError, FileError

RAMP = np.arange(0, 256, dtype=np.uint8).reshape(16, 16)


def pixels(image: Image.Image) -> list:
    return np.asarray(image).reshape(-1, 3).tolist()


def saved(tmp_path, image: Image.Image, name: str = "x.png", **options) -> str:
    image.save(tmp_path / name, **options)
    return str(tmp_path / name)


def tree(root, count: int = 4):
    for k, name in enumerate(("cat", "dog")):
        (root / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(np.full((12, 10, 3), 100 * k + 20 * i, np.uint8)).save(root / name / f"{i}.png")
    return root


# Modes


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation(orientation, tmp_path):
    upright = Image.fromarray(np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3))
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the transposition that a viewer undoes, by its number in Pillow
    stored = upright.transpose(Image.Transpose(undo[orientation])) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = open_image(saved(tmp_path, stored, exif=exif))
    assert found.size == (3, 2) and pixels(found) == pixels(upright)


def test_broken_exif_says_nothing(tmp_path):
    path = saved(tmp_path, Image.fromarray(np.zeros((4, 6, 3), np.uint8)), "x.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\xff\x01\x12")
    assert open_image(path).size == (6, 4)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "I", "I;16", "F"])
def test_every_mode_is_rgb(mode):
    assert as_rgb(Image.new(mode, (3, 2))).mode == "RGB" and as_rgb(Image.new(mode, (3, 2))).size == (3, 2)


def test_grey_and_one_bit_keep_their_values(tmp_path):
    grey = Image.fromarray(RAMP)
    assert pixels(open_image(saved(tmp_path, grey))) == [[v] * 3 for v in range(256)]
    assert pixels(open_image(saved(tmp_path, grey.convert("LA")))) == [[v] * 3 for v in range(256)]
    black_white = grey.convert("1", dither=Image.Dither.NONE)
    assert {tuple(p) for p in pixels(open_image(saved(tmp_path, black_white)))} == {(0, 0, 0), (255,) * 3}


@pytest.mark.parametrize("name", ["x.png", "x.tif"])
def test_sixteen_bits_are_scaled_not_clipped(name, tmp_path):
    deep = np.array([[0, 257 * 10, 257 * 128, 65535]], dtype=np.uint16)
    assert [p[0] for p in pixels(open_image(saved(tmp_path, Image.fromarray(deep), name)))] == [0, 10, 128, 255]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 128.0, 255.0], [0, 128, 255]),
        ([-1000.0, 0.0, 3000.0], [0, 64, 255]),
        ([7.0, 7.0, 7.0], [7, 7, 7]),
        ([-3.0, -3.0, -3.0], [0, 0, 0]),
    ],
)
def test_floating_point(values, expected, tmp_path):
    path = saved(tmp_path, Image.fromarray(np.array([values], dtype=np.float32)), "x.tif")
    assert [p[0] for p in pixels(open_image(path))] == expected


def test_palette_with_transparency_and_cmyk(tmp_path):
    colours = Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8))
    palette = colours.convert("P", palette=Image.Palette.ADAPTIVE)
    seen_through = open_image(saved(tmp_path, palette, transparency=bytes(range(16))))
    assert pixels(seen_through) == pixels(palette.convert("RGB"))
    assert open_image(saved(tmp_path, colours.convert("CMYK"), "x.jpg")).mode == "RGB"


def test_of_an_animation_the_first_frame(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    path = saved(tmp_path, frames[0], "x.gif", save_all=True, append_images=frames[1:])
    assert pixels(open_image(path))[0] == [255, 0, 0]
    assert ".gif" in image_endings()


@pytest.mark.parametrize("ending", ["heic", "avif"])
def test_phone_formats(ending, tmp_path):
    if ending == "heic":
        pytest.importorskip("pillow_heif")
    if f".{ending}" not in image_endings():
        pytest.skip(f"this Pillow has no decoder for {ending}")
    for k, name in enumerate(("cat", "dog")):
        (tmp_path / name).mkdir()
        for i in range(2):
            Image.new("RGB", (32, 24), (200 * k, 90, 10)).save(tmp_path / name / f"{i}.{ending}")
    data = load_data(str(tmp_path), dev_fraction=0)
    assert len(data.train) == 4 and data.image_size == (24, 32)
    assert np.abs(np.asarray(data.train.open(3)).astype(int) - [200, 90, 10]).max() < 12


def test_without_the_decoder_photos_are_counted(tmp_path, monkeypatch):
    tree(tmp_path)
    (tmp_path / "cat" / "IMG_1.HEIC").write_bytes(b"x")
    monkeypatch.setattr(opening_module, "_HEIF", (".heic-of-old",))
    monkeypatch.setattr("kdcore.data.folders.missing_endings", lambda: (".heic",))
    assert "passed over 1 photo (.heic): to read it, pip install 'kdcore[heic]'" in load_data(str(tmp_path)).notes
    for name in os.listdir(tmp_path / "dog"):
        os.remove(tmp_path / "dog" / name)
    (tmp_path / "dog" / "IMG_2.HEIC").write_bytes(b"x")
    with pytest.raises(DataError, match=r"class 'dog' has no training image .* pip install 'kdcore\[heic\]'"):
        load_data(str(tmp_path))


def test_endings_here_and_missing_ones_are_disjoint():
    assert not set(image_endings()) & set(missing_endings()) and {".jpg", ".png", ".webp"} <= set(image_endings())


# Damage


def one_line(kind: type, part: str, path: str) -> None:
    with pytest.raises(kind) as raised:
        open_image(path)
    assert type(raised.value) is kind and path in str(raised.value) and part in str(raised.value) and "\n" not in str(raised.value)


def test_a_photo_without_its_decoder_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("kdcore.data.opening.missing_endings", lambda: (".heic",))
    (tmp_path / "x.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    one_line(DataError, "it needs a decoder: pip install 'kdcore[heic]'", str(tmp_path / "x.HEIC"))


def test_damage_is_named(tmp_path):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))
    for name in ("cut.png", "cut.jpg", "cut.webp", "cut.tif"):
        path = saved(tmp_path, noise, name)
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        one_line(DataError, "add --skip-bad-images", path)
    (tmp_path / "empty.jpg").write_bytes(b"")
    one_line(DataError, "the file is empty", str(tmp_path / "empty.jpg"))
    (tmp_path / "text.jpg").write_text("<html>404</html>")
    one_line(DataError, "Pillow knows no such format", str(tmp_path / "text.jpg"))
    (tmp_path / "folder.jpg").mkdir()
    one_line(DataError, "it is a folder", str(tmp_path / "folder.jpg"))
    one_line(DataError, "the image is gone", str(tmp_path / "gone.jpg"))


def test_denied_access_is_another_error(tmp_path, monkeypatch):
    path = saved(tmp_path, Image.new("RGB", (2, 2)))

    def deny(*_, **__):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(Image, "open", deny)
    one_line(FileError, "Permission denied", path)


def test_a_bomb_is_refused_and_a_large_photo_is_not(tmp_path, monkeypatch, capfd):
    path = saved(tmp_path, Image.new("RGB", (30, 30)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400)
    one_line(DataError, "Image size (900 pixels) exceeds limit of 800 pixels", path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)  # Pillow warns from here, and refuses from twice as many
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert open_image(path).size == (30, 30)
    assert not caught and capfd.readouterr() == ("", "")


# Splits in three forms


def test_open_and_name_of():
    grey = Split(torch.tensor([0, 1]), images=torch.tensor([[[[7]]], [[[9]]]], dtype=torch.uint8))
    assert pixels(grey.open(1)) == [[9, 9, 9]] and grey.name_of(1) == "image 1"
    colour = Split(torch.tensor([0]), images=torch.tensor([[[[1]], [[2]], [[3]]]], dtype=torch.uint8))
    assert pixels(colour.open(0)) == [[1, 2, 3]]

    class Plain:
        def __len__(self):
            return 3

        def __getitem__(self, number):
            return Image.new("L", (1, 1), 10 * number)

    items = Split(torch.tensor([0, 1, 1]), items=Plain()).take(torch.tensor([2, 1])).take(torch.tensor([1, 0]))
    assert [pixels(items.open(i))[0][0] for i in range(2)] == [10, 20] and items.name_of(1) == "item 2"


def encoded(*colours: int, size: int = 5) -> Encoded:
    import io

    pictures = []
    for colour in colours:
        buffer = io.BytesIO()
        Image.new("L", (size, size + 1), colour).save(buffer, "png")
        pictures.append(buffer.getvalue())
    return Encoded(pictures, [f"shard/{i}" for i in range(len(colours))])


def test_encoded_pictures_travel_and_name_themselves():
    store = pickle.loads(pickle.dumps(encoded(10, 20, 30)))
    split = Split(torch.tensor([0, 0, 1]), items=store).take(torch.tensor([2, 0]))
    assert (pixels(split.open(0))[0], split.name_of(0), len(split)) == ([30] * 3, "shard/2", 2)
    broken = Split(torch.tensor([0]), items=Encoded([b"no image"], ["shard/7"]))
    with pytest.raises(DataError, match=r"^shard/7: not a readable image"):
        broken.open(0)


def test_small_pictures_of_one_size_become_arrays():
    (first, second) = as_arrays([encoded(1, 2), encoded(3)])
    assert first.shape == (2, 1, 6, 5) and second[0, 0, 0, 0] == 3 and first.dtype == torch.uint8
    assert as_arrays([encoded(1), encoded(2, size=6)]) is None and as_arrays([encoded(1, size=65)]) is None


# Leaving bad images out


def test_bad_images_are_left_out_and_named(tmp_path):
    root = tree(tmp_path / "train").parent
    tree(root / "test")
    for bad in ("train/cat/1.png", "test/dog/3.png"):
        (root / bad).write_bytes(b"no image")
    whole = load_data(str(root), dev_fraction=0)
    assert len(whole.train) == 8 and whole.bad == []
    assert list(unreadable(whole.train)) == [1]
    data = load_data(str(root), dev_fraction=0, skip_bad_images=True)
    assert data.train.paths == [path for path in whole.train.paths if not path.endswith(os.path.join("cat", "1.png"))]
    assert data.train.labels.tolist() == [0] * 3 + [1] * 4 and len(data.test) == 7
    assert [line.split(": ", 1)[0] for line in data.bad] == [str(root / "train/cat/1.png"), str(root / "test/dog/3.png")]
    assert all("skip-bad" not in line for line in data.bad) and any("2 of 16 images cannot be read" in note for note in data.notes)
    batches = Batches(data.train, Preprocessing((8, 8), (0.5,) * 3, (0.5,) * 3), batch_size=8)
    (images, labels, index) = next(batches.epoch(0))
    assert len(images) == 7 and labels.tolist() == data.train.labels.tolist() and index.tolist() == list(range(7))
    dev = load_data(str(root), dev_fraction=0.3, skip_bad_images=True)
    assert len(dev.train) + len(dev.dev) == 7


def test_a_class_of_bad_images_is_refused(tmp_path):
    tree(tmp_path)
    for name in os.listdir(tmp_path / "dog"):
        (tmp_path / "dog" / name).write_bytes(b"")
    with pytest.raises(
        DataError, match=r"class 'dog' has no training image.*4 images that cannot be read were left out.*the file is empty"
    ):
        load_data(str(tmp_path), skip_bad_images=True)


def test_good_data_is_untouched_and_arrays_are_never_opened(tmp_path):
    tree(tmp_path)
    data = load_data(str(tmp_path), skip_bad_images=True)
    assert data.bad == [] and data.notes == load_data(str(tmp_path)).notes
    assert len(load_data("digits", skip_bad_images=True).train) == 717

"""A contact sheet: a row of thumbnails for each class, its name and number of training images at the left."""

import os
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from kdcore.data.looking import Seen
from kdcore.data.survey import Survey, shown_classes
from kdcore.errors import FileError, KdError
from kdcore.files import file_errors, remove_quietly

_TITLE = "contact sheet by kd data check"
_CLASSES, _IMAGES = 20, 10
_SIDE, _GAP, _NAMES = 96, 6, 220


def check_sheet(path: str | Path) -> None:
    """Raises `KdError` for a name that is no .png, `FileError` where another file than an earlier contact sheet would be overwritten."""
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise KdError(f"--sheet {path}: the contact sheet is a PNG file; give it a name that ends in .png")
    if path.is_dir() or not path.resolve().parent.is_dir():
        raise FileError(f"--sheet {path}: {'it is a folder' if path.is_dir() else f'there is no folder {path.parent}'}; name a file")
    if path.exists():
        try:
            with Image.open(path) as image:
                ours = image.info.get("Title") == _TITLE
        except Exception:  # Pillow raises whatever a broken header makes of it
            ours = False
        if not ours:
            raise FileError(f"--sheet {path}: a file of that name is there, and is no contact sheet; choose another name")


def write_sheet(survey: Survey, path: str | Path) -> int:
    """Write the sheet as PNG: up to 20 classes, up to 10 training images of each, spread evenly. Returns the number of images on it.

    Raises as `check_sheet` does, and `FileError` where the disk refuses.
    """
    check_sheet(path)
    rows = [
        (k, _spread([seen for seen in survey.seen if seen.split == "train" and seen.label == k and not seen.bad])) for k in _shown(survey)
    ]
    columns = max((len(seen) for _, seen in rows), default=0)
    step = _SIDE + _GAP
    sheet = Image.new("RGB", (_NAMES + columns * step + _GAP, len(rows) * step + _GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for row, (k, chosen) in enumerate(rows):
        top = _GAP + row * step
        name = _shortened(survey.data.class_names[k], draw, font)
        draw.multiline_text((_GAP, top + 28), f"{name}\n{survey.per_class[k]:,} images", fill="black", font=font)
        for column, seen in enumerate(chosen):
            image = _thumbnail(survey.data.train.open(seen.number))
            left = _NAMES + column * step
            sheet.paste(image, (left + (_SIDE - image.width) // 2, top + (_SIDE - image.height) // 2))
    _write_png(sheet, Path(path))
    return sum(len(chosen) for _, chosen in rows)


def _shown(survey: Survey) -> list[int]:
    return shown_classes(survey.per_class, _CLASSES)


def _spread(seen: list[Seen]) -> list[Seen]:
    count = min(len(seen), _IMAGES)
    return [seen[place * len(seen) // count] for place in range(count)]


def _thumbnail(image: Image.Image) -> Image.Image:
    """The whole image within the square; small ones are enlarged by whole steps, so that their pixels show."""
    larger = _SIDE // max(image.size)
    if larger > 1:
        return image.resize((image.width * larger, image.height * larger), Image.Resampling.NEAREST)
    image.thumbnail((_SIDE, _SIDE), reducing_gap=2.0)
    return image


def _shortened(name: str, draw: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    name, room = " ".join(name.split()), _NAMES - 2 * _GAP
    if draw.textlength(name, font=font) <= room:
        return name
    while name and draw.textlength(name + "...", font=font) > room:
        name = name[:-1]
    return name + "..."


def _write_png(sheet: Image.Image, path: Path) -> None:
    """Whole or not at all."""
    about = PngImagePlugin.PngInfo()
    about.add_text("Title", _TITLE)
    written = BytesIO()
    sheet.save(written, "PNG", pnginfo=about)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with file_errors(path, "write"):
        try:
            temporary.write_bytes(written.getvalue())
            os.replace(temporary, path)
        finally:
            remove_quietly(temporary)

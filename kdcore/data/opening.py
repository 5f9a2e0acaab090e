"""Opening image files: whatever a camera, a scanner or a web page wrote becomes RGB, upright, or an error of one line."""

from PIL import Image, ImageOps, UnidentifiedImageError

from kdcore.errors import DataError, FileError


def open_image(path: str) -> Image.Image:
    """An image file as RGB, upright. Raises `DataError` that names the file if it is no readable image, `FileError` if access is denied."""
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            if "transparency" in image.info:
                image = image.convert("RGBA")
            return image.convert("RGB")
    except PermissionError as error:
        raise FileError(f"cannot read {path}: {error.strerror}") from error
    except FileNotFoundError as error:
        raise DataError(f"{path}: the image is gone; put it back or load the data again") from error
    except UnidentifiedImageError as error:
        raise DataError(f"{path}: not an image that Pillow can read; mend or remove it") from error
    except Exception as error:  # Pillow raises whatever a broken file makes of it
        why = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path}: not a readable image ({why}); mend or remove it") from error

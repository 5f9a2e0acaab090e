"""Small pictures of single images, opened again through the run's data."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

from kdcore.errors import KdError
from kdcore.predictions import relative
from kdcore.report.facts import Facts

SIDE = 160
TINY = 64  # pixels; images below are enlarged without smoothing


def thumbnails(facts: Facts, document: Mapping[str, Any]) -> tuple[dict[str, str], str | None]:
    """`SPLIT NUMBER` to a data URL, for every image that the galleries name; and a line where some or all cannot be shown."""
    wanted = {key(entry): entry for gallery in ("mistakes", "disagreements") for entry in document.get(gallery, {}).get("images", [])}
    if not wanted:
        return {}, None
    try:
        data = _data(facts)
        _same(data, facts, list(wanted.values()))
    except KdError as error:
        return {}, f"The images are not shown: {error}"
    found, problem = {}, None
    for name, entry in wanted.items():
        try:
            found[name] = data_url(getattr(data, entry["split"]).open(entry["number"]))
        except (KdError, OSError) as error:
            problem = f"Not every image could be opened: {error}"
    return found, problem


def key(entry: Mapping[str, Any]) -> str:
    return f"{entry['split']} {entry['number']}"


def _data(facts: Facts) -> Any:
    from kdcore.config import read_config
    from kdcore.run_data import load_config_data

    return load_config_data(read_config(facts.config))


def _same(data: Any, facts: Facts, wanted: Sequence[Mapping[str, Any]]) -> None:
    """Raises KdError where the data is no longer what the run saw: another image would stand in an image's place."""
    assert facts.stored is not None
    for name, predictions in facts.stored.delivered.items():
        split, numbers = getattr(data, name), predictions.numbers
        if split is None or len(split) != len(predictions.labels) or (split.labels[numbers] != predictions.labels).any():
            raise KdError(f"{facts.config['data']} has changed since: its {name} images are others now")
    for entry in wanted:
        split, number = getattr(data, entry["split"]), entry["number"]
        name = relative(split.name_of(number), facts.config["data"])
        if name != entry["name"] or int(split.labels[number]) != entry["label"]:
            raise KdError(f"{facts.config['data']} has changed since: {entry['name']} is {name} now")


def data_url(image: Any) -> str:
    """A JPEG of at most 160 pixels a side; a PNG for tiny images."""
    from PIL import Image

    if max(image.size) < TINY:
        factor = max(1, 96 // max(image.size))
        image, kind, options = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST), "png", {}
    else:
        image.thumbnail((SIDE, SIDE))
        kind, options = "jpeg", {"quality": 80}
    file = io.BytesIO()
    image.convert("RGB").save(file, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"

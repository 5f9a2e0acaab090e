"""The first look at an experiment's data, and what follows from it: how many images there are, what a smoke test trains on. torch comes when called."""

import dataclasses
from pathlib import Path
from typing import Any

from kdcore.comparison.run import CompareWatch
from kdcore.config import Config, read_config
from kdcore.errors import DataError, FileError, KdError
from kdcore.experiments.finding import FoundExperiment
from kdcore.experiments.planning import Choices, Facts, of_other_data, own_settings
from kdcore.experiments.reading import Experiment


def begin(experiment: Experiment, found: FoundExperiment, choices: Choices, place: Path, download: bool, watch: CompareWatch) -> Facts:
    """Reads the data, and finds out what follows from it; for a smoke test makes a small set in the folder."""
    from kdcore.experiments.composing import smoke_rows
    from kdcore.experiments.smoke import few_images, knowing_weights, random_images, random_weights, side_for

    own = own_settings(experiment)
    read = None
    try:
        read = _read_data(experiment, found, choices, own, download)
    except DataError:
        if not choices.smoke or choices.data is not None:
            raise
    weights: dict[str, str] = {}
    facts = Facts("", experiment.data.classes, experiment.data.image_size, 0, None)
    if read is not None:
        spec, images = read
        size = min(images.image_size) if images.image_size else None
        aside = held_out(len(images.train), own) if images.dev is None else 0
        test = len(images.test) if images.test is not None else None
        facts = Facts(spec, images.num_classes, size, len(images.train), test, aside)
        facts.limit = limit_of(facts, choices, own)
    if choices.smoke:
        with about(found):
            choices.rows = smoke_rows(experiment, choices.rows)
        rows = [row for row in experiment.runnable if row.name in choices.rows]
        teaching = {row.teacher: experiment.teachers[row.teacher].model for row in rows if row.teacher}
        side = side_for([*(row.model for row in rows if row.model), *teaching.values()], experiment.data.channels)
        path = place / "smoke.npz"
        few_images(read[1], path, side) if read is not None else random_images(experiment.data, path, side)
        folder = place / "weights"
        if own.get("pretrained") or any(row.arm.settings.get("pretrained") for row in rows):
            models = {row.model for row in rows if row.model}
            weights = {model: str(random_weights(model, experiment.data.channels, folder).resolve()) for model in sorted(models)}
        weights |= {f"teacher {name}": str(knowing_weights(model, path, folder).resolve()) for name, model in sorted(teaching.items())}
        facts = dataclasses.replace(facts, data=str(path.resolve()), generated=read is None, limit=None, weights=weights, side=side)
    if choices.baselines:
        facts.single = single(experiment, found, choices, watch)
    return facts


def single(experiment: Experiment, found: FoundExperiment, choices: Choices, watch: CompareWatch) -> list[str]:
    """The networks of the rows that are run which take one exit only: told, as they have no deep supervision beside them."""
    from kdcore.experiments.composing import single_exit_models

    with about(found):
        models = single_exit_models(experiment, trained_models(experiment, choices), own_settings(experiment).get("img_size"))
    for model in models:
        watch.note(f"no deep supervision on {model}: it takes one exit only")
    return models


def _read_data(experiment: Experiment, found: FoundExperiment, choices: Choices, own: dict[str, Any], download: bool) -> tuple[str, Any]:
    """What the cells will read as --data, and the data. Raises DataError that says what to get, and what to type."""
    from kdcore.run_data import load_config_data

    spec = choices.data or experiment.data.name
    get = f"{experiment.data.get}; then: kd reproduce {found.name} --data FILE|FOLDER"
    if spec is None:
        raise DataError(f"the data of {found.name} cannot be downloaded by kd. Get {get}")
    settings = {
        **of_other_data(own, choices.data),
        **choices.machine,
        "data": spec,
        "dev_fraction": 0.0,
        "train_limit": None,
        "labels_per_class": None,
        "download": download,
    }
    if "/" not in spec or Path(spec).expanduser().exists():
        settings.pop("download")
    config = read_config({**settings, "model": "any"})
    try:
        return config.data, load_config_data(config)
    except (DataError, FileError) as error:
        if choices.data is not None:
            raise
        raise DataError(f"the data of {found.name} is not here: {error}. Or get {get}") from error


def held_out(images: int, own: dict[str, Any]) -> int:
    """Training images that are put aside for dev, where the data has no val split."""
    fraction = own.get("dev_fraction", Config.model_fields["dev_fraction"].default)
    return max(1, round(fraction * images)) if fraction else 0


def trained_models(experiment: Experiment, choices: Choices) -> list[str]:
    """The networks of the rows that are run."""
    rows = [row for row in experiment.runnable if choices.rows is None or row.name in choices.rows]
    return list(dict.fromkeys(row.model for row in rows if row.model))


def limit_of(facts: Facts, choices: Choices, own: dict[str, Any]) -> int | None:
    """Training images that --subset leaves, of those that the file trains on: stratified, at least one of each class."""
    if choices.subset is None:
        return None
    whole = facts.train - facts.held_out
    if own.get("labels_per_class"):
        whole = min(whole, own["labels_per_class"] * facts.classes)
    whole = min(whole, own.get("train_limit") or whole)
    return max(round(choices.subset * whole), facts.classes, 2)


class about:
    """Errors within the block say which experiment they are about, and where it comes from."""

    def __init__(self, found: FoundExperiment) -> None:
        self.found = found

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, KdError):
            raise type(error)(f"experiment {self.found.about}, {self.found.path}: {error}") from error

"""The settings of a run, in one place: the command's flags, the keyword arguments of `kdcore.train` and `config.toml` all come from here.

Names are timm's wherever timm has one. Imports no torch.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from kdcore.errors import KdError, nearest


def setting(default: Any, group: str, text: str, **limits: Any) -> Any:
    """A field with the help text and the group under which the command lists it."""
    return Field(default, description=text, json_schema_extra={"group": group}, **limits)


Fraction = Annotated[float, Field(ge=0, lt=1)]


class Config(BaseModel):
    """Every setting of a training run, checked. `None` is decided when the run is composed, and the decision is written down."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, validate_default=True)

    model: str = Field(description="the backbone: a timm name, or a plugin's (cifar/resnet20)")
    data: str = Field(
        description="digits, an .npz with MedMNIST keys, a .csv or .parquet table, a folder of images, or a name (torch/cifar100)"
    )

    method: str = setting("deep-supervision", "Method", "the method (kd methods lists them)")
    options: dict[str, Any] = setting({}, "Method", "options of the method (alpha) or of a part (byot.hint.reduction)")
    exits: str | None = setting(None, "Method", "exits in place of the method's own")
    soft_targets: str | None = setting(None, "Method", "the source of every term that has soft targets")
    loss: list[str] = setting([], "Method", "another term: NAME[@SOURCE][:EXITS][=WEIGHT]; repeatable")
    schedule: str | None = setting(None, "Method", "a schedule in place of the method's own")
    teacher: str | None = setting(None, "Method", "a teacher: a timm name with weights for these classes, a run, or a student.safetensors")
    taps: str | None = setting(None, "Method", "where exits are taken: stages, quarters, numbers, or module names, separated by commas")
    plugin: list[str] = setting([], "Method", "brings a plugin by name, or a loose file ./my_idea.py; repeatable")

    data_dir: str | None = setting(
        None, "Data", "where a named data set (torch/cifar100, hfds/...) lies or is downloaded to; where a table's paths start"
    )
    download: bool = setting(False, "Data", "download a named data set that is not there yet")
    train_split: str | None = setting(None, "Data", "the split of a named data set or a table to train on (default: train)")
    val_split: str | None = setting(
        None, "Data", "its split to select on (default: its val split, else a share of the training images is held out)"
    )
    test_split: str | None = setting(None, "Data", "its split to report on (default: the set's own)")
    input_key: str | None = setting(None, "Data", "the column of images, in a CSV, a Parquet file or a hub's data set")
    target_key: str | None = setting(None, "Data", "the column of labels there")
    group_by: str | None = setting(
        None, "Data", "keep together what belongs together (a burst, a patient): a column of the CSV, or a regular expression on the path"
    )
    skip_bad_images: bool = setting(False, "Data", "open every image before training, and leave out those that cannot be read")
    img_size: int | None = setting(
        None, "Data", "pixels of the images' sides (default: the data's own, or the backbone's for photos)", ge=8
    )
    dev_fraction: Fraction = setting(0.1, "Data", "share of the training images held out to select on, where the data has no val split")
    labels_per_class: int | None = setting(None, "Data", "train on this many images of each class", ge=1)
    train_limit: int | None = setting(None, "Data", "train on this many images", ge=2)
    sampler: Literal["shuffle", "balanced"] = setting(
        "shuffle", "Data", "order of the training images; balanced draws every class equally often"
    )
    workers: int = setting(2, "Data", "processes that load photos", ge=0)
    resident_gb: float = setting(
        2.0,
        "Data",
        "images are kept decoded in memory where each split takes at most this many gigabytes; 0: photos are read anew every epoch",
        ge=0,
    )
    test_every_epoch: bool = setting(
        False, "Data", "evaluate the test split after every epoch too, for a paper's `best over epochs`; it selects nothing"
    )

    aug: bool = setting(True, "Augmentation", "--no-aug: none at all, training images are treated as those of evaluation")
    scale: list[float] | None = setting(
        None, "Augmentation", "random resized crop: smallest and largest share of the area, e.g. 0.35,1; 0 is none"
    )
    ratio: list[float] | None = setting(None, "Augmentation", "its smallest and largest width over height, e.g. 0.75,1.33")
    crop_pad: int | None = setting(None, "Augmentation", "pad by this many pixels and crop back (small images; in place of --scale)", ge=0)
    hflip: float | None = setting(None, "Augmentation", "chance of a horizontal flip", ge=0, le=1)
    vflip: float | None = setting(None, "Augmentation", "chance of a vertical flip", ge=0, le=1)
    rotation: float | None = setting(None, "Augmentation", "largest rotation either way, in degrees", ge=0, le=180)
    color_jitter: float | None = setting(None, "Augmentation", "strength of the colour jitter", ge=0)
    aa: str | None = setting(
        None, "Augmentation", "automatic augmentation: timm's (rand-m9-mstd0.5, original, augmix-m3-w3), or imagenet, cifar10, svhn"
    )
    reprob: float | None = setting(None, "Augmentation", "chance of random erasing", ge=0, le=1)
    cutout: int | None = setting(
        None, "Augmentation", "side in pixels of a square that is blanked out of every image (Cutout); 0 is none", ge=0
    )
    mixup: float = setting(0.0, "Augmentation", "alpha of mixup; 0 is off", ge=0)
    cutmix: float = setting(0.0, "Augmentation", "alpha of cutmix; 0 is off", ge=0)
    mixup_prob: float = setting(1.0, "Augmentation", "chance that a batch (a pair, an image) is mixed", ge=0, le=1)
    mixup_switch_prob: float = setting(0.5, "Augmentation", "chance of cutmix where both are on", ge=0, le=1)
    mixup_mode: Literal["batch", "pair", "elem"] = setting(
        "batch", "Augmentation", "how mixup is drawn: one for a batch, a pair, or an image"
    )
    mixup_off_epoch: int = setting(0, "Augmentation", "no mixing from this epoch on; 0 mixes to the end", ge=0)

    mean: list[float] | None = setting(None, "Preprocessing", "mean of each channel, from 0 to 1 (default: the weights', or measured)")
    std: list[float] | None = setting(None, "Preprocessing", "standard deviation of each channel, from 0 to 1")
    interpolation: str | None = setting(None, "Preprocessing", "how images are resized: bilinear, bicubic, ...")
    crop_pct: float | None = setting(None, "Preprocessing", "share of the shorter side that evaluation's centre crop keeps", gt=0, le=1)

    pretrained: bool | None = setting(None, "Weights", "start from timm's weights (default: for photos, where the backbone has them)")
    init: str | None = setting(None, "Weights", "start from the backbone's weights in this .safetensors file, or in this run")
    freeze: bool = setting(False, "Weights", "keep the backbone as it is, bit for bit, and train only the exits on it")

    epochs: int = setting(30, "Optimisation", "epochs of a main phase", ge=1)
    batch_size: int = setting(64, "Optimisation", "images in a step", ge=2)
    grad_accum_steps: int = setting(1, "Optimisation", "steps whose gradients make one update", ge=1)
    opt: str = setting("sgd", "Optimisation", "optimiser, any of timm's")
    lr: float | None = setting(None, "Optimisation", "learning rate (default: by timm's rule from lr-base and the batch size)", gt=0)
    lr_base: float = setting(
        0.1,
        "Optimisation",
        "learning rate for 256 images in a step, in proportion; adaptive optimisers take a hundredth of it, by the square root",
        gt=0,
    )
    momentum: float = setting(0.9, "Optimisation", "momentum", ge=0, lt=1)
    weight_decay: float = setting(5e-4, "Optimisation", "weight decay (biases and norms are left out, as in timm)", ge=0)
    layer_decay: float | None = setting(None, "Optimisation", "learning rate decay from layer to layer towards the input", gt=0, le=1)
    clip_grad: float | None = setting(None, "Optimisation", "largest norm of the gradient", gt=0)
    clip_mode: Literal["norm", "value", "agc"] = setting("norm", "Optimisation", "how gradients are clipped")
    sched: str = setting("cosine", "Optimisation", "learning-rate schedule, any of timm's")
    warmup_epochs: int = setting(0, "Optimisation", "epochs of warm-up", ge=0)
    warmup_lr: float = setting(1e-5, "Optimisation", "learning rate at which warm-up begins", ge=0)
    min_lr: float = setting(0.0, "Optimisation", "learning rate at which the schedule ends", ge=0)
    decay_milestones: list[int] = setting([90, 180, 270], "Optimisation", "epochs at which sched=multistep decays")
    decay_epochs: float = setting(90, "Optimisation", "epochs between decays of sched=step", gt=0)
    decay_rate: float = setting(0.1, "Optimisation", "factor of a decay", gt=0, le=1)

    patience: int | None = setting(None, "Optimisation", "stop after this many epochs without a better dev top-1", ge=1)
    minutes: float | None = setting(None, "Optimisation", "time to train in: as many epochs as fit, at most --epochs", gt=0)
    grad_checkpointing: bool = setting(False, "Optimisation", "compute the backbone's activations twice, to save memory")

    class_weights: Literal["none", "balanced"] = setting(
        "none", "Regularisation", "weights of the classes in every cross entropy; balanced is the inverse of their share"
    )
    smoothing: Fraction = setting(0.0, "Regularisation", "label smoothing of every cross entropy")
    drop: Fraction = setting(0.0, "Regularisation", "dropout before the backbone's head")
    drop_path: float | None = setting(None, "Regularisation", "stochastic depth", ge=0, lt=1)
    model_ema: bool = setting(False, "Regularisation", "average the weights over time, and evaluate the average")
    model_ema_decay: float = setting(0.9998, "Regularisation", "decay of that average", ge=0, lt=1)
    model_ema_warmup: bool = setting(False, "Regularisation", "begin that average with a smaller decay")

    seed: int = setting(0, "Machine", "seed of everything that is random", ge=0)
    device: str = setting("auto", "Machine", "cpu, cuda, cuda:1, mps, or auto")
    amp: Literal["auto", "try", "bfloat16", "none"] = setting(
        "auto",
        "Machine",
        "autocast; auto is bfloat16 on hardware that has it (on a CPU from 32 pixels on, without depthwise convolutions); try times a few steps",
    )
    channels_last: bool | None = setting(None, "Machine", "memory format (default: for networks with convolutions, not on MPS)")
    compile: bool = setting(False, "Machine", "torch.compile of the whole objective in one graph")
    keep_all: bool = setting(False, "Machine", "keep every epoch's checkpoint, not only the last and the best on dev")
    log_interval: int = setting(50, "Machine", "steps between log lines", ge=1)

    @field_validator("options")
    @classmethod
    def _spell_none(cls, options: dict[str, Any]) -> dict[str, Any]:
        """config.toml has no word for None and would lose it; options read `none` as it is typed."""
        return {name: "none" if value is None else value for name, value in options.items()}


def read_config(values: dict[str, Any]) -> Config:
    """A checked configuration. Raises KdError in one line: an unknown name with the nearest, a wrong type or range with both."""
    for name in values:
        if name not in Config.model_fields:
            raise KdError(f"there is no setting '{name}'{nearest(name, Config.model_fields)}")
    try:
        return _from_anywhere(Config(**values))
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        flag = "--" + name.replace("_", "-")
        if first["type"] == "missing":
            raise KdError(f"the setting '{name}' is missing: {Config.model_fields[name].description}") from None
        raise KdError(f"{flag} {first['input']!r} is refused: {first['msg'].replace('Input should', 'it should')}") from None


def laid_over(base: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Settings over those of a file or recipe. Options of parts are merged by name, and `--no-aug` puts out the base's augmentation."""
    if settings.get("aug") is False:
        base = {name: value for name, value in base.items() if _group(name) != "Augmentation"}
    if base.get("options") and settings.get("options"):
        settings = {**settings, "options": {**base["options"], **settings["options"]}}
    return {**base, **settings}


def _group(name: str) -> str | None:
    extra = Config.model_fields[name].json_schema_extra if name in Config.model_fields else None
    return str(extra["group"]) if isinstance(extra, dict) else None


def _from_anywhere(config: Config) -> Config:
    """The configuration with whole paths where it names files, so that a run can be resumed and read from any folder.

    With slashes, on Windows too. `digits` stays the name of the set, whatever else is called so where the command is typed.
    """

    def whole(text: str, always: bool = False) -> str:
        path = Path(text).expanduser()
        return path.resolve().as_posix() if always or path.exists() else text

    files: dict[str, Any] = {
        name: whole(text) for name in ("data", "teacher", "init") if (text := getattr(config, name)) not in (None, "digits")
    }
    files["plugin"] = [whole(name) if name.endswith(".py") else name for name in config.plugin]
    if config.data_dir is not None:
        files["data_dir"] = whole(config.data_dir, always=True)  # it may be made later, by a download
    for name in ("model", "teacher"):
        if (getattr(config, name) or "").startswith("local-dir:"):
            files[name] = "local-dir:" + whole(getattr(config, name).removeprefix("local-dir:"))
    return config.model_copy(update=files)


def split_taps(text: str | None) -> list[int | str] | str | None:
    """`--taps` as `Tapped` takes it: a word, or numbers and module names."""
    if text is None or text in ("stages", "quarters"):
        return text
    pieces = [piece.strip() for piece in text.split(",") if piece.strip()]
    if not pieces:
        raise KdError("--taps is empty: write stages, quarters, numbers, or module names, separated by commas")
    return [int(piece) if piece.removeprefix("-").isdigit() else piece for piece in pieces]

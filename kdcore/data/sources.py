"""Where images come from: digits, an .npz, a table, a folder, or a named data set; and what is done to all of them alike."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcore.data.arrays import digits, read_npz
from kdcore.data.folders import read_folder
from kdcore.data.groups import check_groups, group_by_pattern
from kdcore.data.readable import without_bad_images
from kdcore.data.splits import Data, select
from kdcore.errors import DataError, FileError, KdError

if TYPE_CHECKING:
    from kdcore.data.parts import Wanted

_KINDS = (
    "'digits', an .npz file with MedMNIST's keys, a .csv or .parquet table, a folder with one folder of images a class, "
    "or a name such as torch/cifar100"
)
_TABLES = (".csv", ".tsv", ".parquet")


def load_data(
    spec: str,
    *,
    seed: int = 0,
    dev_fraction: float = 0.1,
    labels_per_class: int | None = None,
    train_limit: int | None = None,
    data_dir: str | None = None,
    download: bool = False,
    train_split: str | None = None,
    val_split: str | None = None,
    test_split: str | None = None,
    input_key: str | None = None,
    target_key: str | None = None,
    group_by: str | None = None,
    skip_bad_images: bool = False,
) -> Data:
    """Read a data set: `digits`, an `.npz`, a table of paths and labels, a folder of class folders, or a name (`torch/cifar100`, `hfds/...`).

    `group_by`, the name of a column or a regular expression on the path, keeps images that belong together on one side of every split.
    With `skip_bad_images`, images that cannot be read are left out before anything is drawn, and `Data.bad` names them.

    Where the data has no val split, `dev_fraction` (0 to below 1) of the training images is held out, stratified, drawn with `seed`, before
    `labels_per_class` (balanced) and then `train_limit` (stratified) cut the training images; each class keeps at least one.

    Raises `DataError` where images or labels are not what training needs, `FileError` where they cannot be read, `KdError` for an option
    out of range, or one that this kind of data does not have.
    """
    if not 0 <= dev_fraction < 1:
        raise KdError(f"dev_fraction is {dev_fraction}; it is a share of the training images, from 0 to below 1")
    for option, value in {"labels_per_class": labels_per_class, "train_limit": train_limit}.items():
        if value is not None and value < 1:
            raise KdError(f"{option} is {value}; it is a number of images, at least 1")
    splits = {"train_split": train_split, "val_split": val_split, "test_split": test_split}
    where = {"data_dir": data_dir, "download": download or None, **splits, "input_key": input_key, "target_key": target_key}
    data, root = _read(str(spec), where, group_by, skip_bad_images)
    if group_by and data.train.groups is None:
        data = group_by_pattern(data, group_by, root, lambda: _columns(Path(spec).expanduser()))
    if skip_bad_images:
        data = without_bad_images(data)
    data = check_groups(data)
    return select(data, seed=seed, dev_fraction=dev_fraction, labels_per_class=labels_per_class, train_limit=train_limit)


def without_settings_of_another(spec: str) -> dict[str, Any]:
    """The settings that a run's own data had and that this other data cannot have, as they are by default: splits by name, groups, ...."""
    dropped: dict[str, Any] = dict.fromkeys(("train_split", "val_split", "test_split", "group_by"))
    if spec == "digits" or (Path(spec).expanduser().exists() and Path(spec).suffix.lower() not in _TABLES):
        dropped |= {"data_dir": None, "download": False, "input_key": None, "target_key": None}
    return dropped


def _read(spec: str, where: dict[str, Any], group_by: str | None, skip_bad: bool) -> tuple[Data, str | None]:
    """The data, and the folder to which its paths are relative."""
    if spec == "digits":
        _refuse("digits", where)
        return digits(), None
    path = Path(spec).expanduser()
    try:
        if not spec or not path.exists():
            return _named(spec, where, group_by)
        if path.is_dir():
            _refuse("a folder of images", where)
            return read_folder(path), str(path)
    except OSError as error:
        raise FileError(f"cannot read {error.filename or path}: {error.strerror or error}") from error
    if path.suffix.lower() in _TABLES:
        return _table(path, where, group_by, skip_bad)
    if path.suffix.lower() != ".npz":
        raise DataError(f"cannot read '{spec}' as data; data is {_KINDS}")
    _refuse("an .npz file", where)
    return read_npz(path), None


def _named(spec: str, where: dict[str, Any], group_by: str | None) -> tuple[Data, str | None]:
    from kdcore.data.named import is_named, read_named

    if not is_named(spec):
        raise DataError(f"no such file or folder: '{spec}'; data is {_KINDS}")
    folder = spec.partition("/")[2]
    return read_named(_wanted(spec, where, group_by)), where["data_dir"] or (folder if Path(folder).is_dir() else None)


def _table(path: Path, where: dict[str, Any], group_by: str | None, skip_bad: bool) -> tuple[Data, str | None]:
    from kdcore.data.tables import read_table

    _refuse("a table", where, but=("data_dir", "train_split", "val_split", "test_split", "input_key", "target_key"))
    data = read_table(path, _wanted(str(path), where, group_by), missing_files_too=skip_bad)
    return data, where["data_dir"] or str(path.parent)


def _wanted(spec: str, where: dict[str, Any], group_by: str | None) -> "Wanted":
    from kdcore.data.parts import Wanted

    return Wanted(spec, **{**where, "download": bool(where["download"])}, group_by=group_by)


def _columns(path: Path) -> str:
    """What to say of the columns where `--group-by` is the name of none."""
    if path.is_dir():
        return "a folder has no columns: give a pattern that is found in its paths"
    if path.suffix.lower() in _TABLES and path.exists():
        from kdcore.data.tables import column_names

        return f"no column has this name (there is: {', '.join(column_names(path))})"
    return "no column has this name either"


def _refuse(kind: str, where: dict[str, Any], but: tuple[str, ...] = ()) -> None:
    """An option that would be passed over in silence is an error."""
    for option, value in where.items():
        if value is not None and option not in but:
            raise KdError(f"--{option.replace('_', '-')} means nothing for {kind}: it is for named data sets and tables; leave it out")

"""Writes comparisons into docs/results.md, between the lines `<!-- generated: NAME -->` and `<!-- end -->`.

    python benchmarks/results.py cifar100=runs/cifar100 fashion-mnist=runs/fashion-mnist [--page docs/results.md]

A section has the command, seeds, hardware and minutes, and the tables of the comparison's folder, or of the reproduction's. One whose name begins
with `claims` has what the papers claim and what the folder's runs say of it. What stands outside of the markers stays as it is.
"""

import argparse
import re
import shlex
import sys
from pathlib import Path
from typing import Any

from kdcore.comparison.grid import read_grid
from kdcore.errors import KdError
from kdcore.experiments.claims import Judged
from kdcore.experiments.elsewhere import claims_on
from kdcore.experiments.folders import STATE, claims_of, read_state
from kdcore.experiments.outcome import claims_table
from kdcore.files import file_errors, read_json, write_text

REPRODUCTION = "reproduction.md"
PAGE = Path(__file__).resolve().parents[1] / "docs" / "results.md"


def section(folder: Path) -> str:
    """The section of one comparison or reproduction."""
    found, costs = read_json(folder / "comparison.json"), read_json(folder / "costs.json")
    reproduced = (folder / REPRODUCTION).exists()
    page = folder / (REPRODUCTION if reproduced else "table.md")
    with file_errors(page, "read"):
        table = page.read_text(encoding="utf-8")
    places = [read_state(folder)[1].data] if reproduced else [read_grid(folder).shared.get(name) for name in ("data", "teacher", "init")]
    table = without_places(table, *places)
    runs = [minutes for row in costs["minutes"].values() for minutes in row.values()]
    seeds = sorted({seed for row in found["rows"] for seed in row["seeds"]})
    each = ", ".join(f"{row} {sum(own.values()) / len(own):.1f}" for row, own in costs["minutes"].items() if own)
    facts = f"{len(runs)} runs, seeds {', '.join(map(str, seeds))}; minutes a run: {each}; {sum(runs):.0f} in all. {'; '.join(costs['machines'])}."
    return f"```text\n{reproducing(folder) if reproduced else command(folder)}\n```\n\n{facts}\n\n{table}"


def reproducing(folder: Path) -> str:
    """`kd reproduce` with what the reproduction was begun with; data by its name alone."""
    name, choices, _ = read_state(folder)
    words = ["kd", "reproduce", name, "--seeds", str(len(read_grid(folder).seeds))]
    for setting in ("data", "subset", "epochs"):
        if (value := getattr(choices, setting)) is not None:
            words += [f"--{setting}", Path(value).name if setting == "data" else str(value)]
    words += [word for row in choices.rows or () for word in ("--row", row)]
    for setting, value in choices.machine.items():
        words += flag(setting, value)
    return shlex.join(words)


def without_places(text: str, *paths: str | None) -> str:
    """The text with names of files and folders in place of their paths, which are this machine's."""
    for path in filter(None, paths):
        text = text.replace(path, Path(path).name)
    return text


def claims(folder: Path) -> str:
    """The papers' claims that the runs of a reproduction or of a comparison can test, as they came out."""
    if (folder / STATE).exists():
        name, choices, _ = read_state(folder)
        judged, data = [{"experiment": name, **claims_of(folder)}], choices.data
    else:
        judged, data = claims_on(folder), read_grid(folder).shared.get("data")
    tables = [
        f"**{one['experiment']}** ({without_places(one['runs'], data)})\n\n" + claims_table([Judged(**claim) for claim in one["claims"]])
        for one in judged
    ]
    return "\n\n".join(tables) + "\n"


def command(folder: Path) -> str:
    """`kd compare` with what the comparison was begun with; data by its name alone, wherever it lies."""
    grid = read_grid(folder)
    words = ["kd", "compare", "--model", ",".join(dict.fromkeys(row.model for row in grid.rows))]
    if not grid.rows:
        return shlex.join(["kd", "compare", *(word for run in grid.runs for word in ("--runs", Path(run).name))])
    models = {row.model for row in grid.rows}
    names = dict.fromkeys(row.typed or (row.name.removeprefix(f"{row.model} ") if len(models) > 1 else row.name) for row in grid.rows)
    words += ["--method", ",".join(names)]
    words += ["--seeds", str(len(grid.seeds)) if grid.seeds == list(range(len(grid.seeds))) else ",".join(map(str, grid.seeds)) + ","]
    for name, value in grid.shared.items():
        words += flag(name, value)
    return shlex.join(words)


def flag(name: str, value: Any) -> list[str]:
    """A setting as it is typed. The test split after every epoch is what kd compare does by itself."""
    dashed = "--" + name.replace("_", "-")
    if name == "options":
        return [word for option, wanted in value.items() for word in ("-o", f"{option}={wanted}")]
    if name in ("plugin", "loss"):
        return [word for one in value for word in ("-p" if name == "plugin" else dashed, one)]
    if isinstance(value, bool):
        default = name == "test_every_epoch"
        return [] if value and default else [dashed if value else f"--no-{dashed[2:]}"]
    if isinstance(value, list):
        return [dashed, ",".join(map(str, value))]
    return [dashed, Path(value).name if name in ("data", "data_dir", "teacher", "init") else str(value)]


def written_into(page: str, name: str, text: str) -> str:
    """The page with a section replaced. Raises KdError where it has no such markers."""
    pattern = rf"(<!-- generated: {re.escape(name)} -->\n).*?(<!-- end -->)"
    if not re.search(pattern, page, flags=re.DOTALL):
        raise KdError(f"the page has no section '{name}': write <!-- generated: {name} --> and <!-- end --> where it belongs, a line each")
    return re.sub(pattern, lambda found: f"{found[1]}{text}{found[2]}", page, flags=re.DOTALL)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="+", metavar="NAME=FOLDER")
    parser.add_argument("--page", type=Path, default=PAGE)
    arguments = parser.parse_args(argv)
    try:
        with file_errors(arguments.page, "read"):
            page = arguments.page.read_text(encoding="utf-8")
        for one in arguments.sections:
            name, equals, folder = one.partition("=")
            if not equals:
                raise KdError(f"'{one}': write NAME=FOLDER")
            page = written_into(page, name, claims(Path(folder)) if name.startswith("claims") else section(Path(folder)))
        write_text(arguments.page, page)
    except KdError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())

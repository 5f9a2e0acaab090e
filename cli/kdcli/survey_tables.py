"""How `kd data check` says what it found, and how long it will take."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from kdcli.tables import console, grid
from kdcore.data.looking import Seen
from kdcore.data.survey import Survey, Twins, shown_classes

MOST = 20
IMAGES_OF_TWINS = 3
SMALL = 64


class Looking:
    """What is going on, on stderr: one line with an estimate, and a bar where stderr is a terminal."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.progress = Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal)
        self.task: Any = None

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.progress.stop()

    def began(self, count: int, seconds: float) -> None:
        self.console.print(f"looking at {count:,} images ({about(seconds)})")
        self.task = self.progress.add_task("images", total=count)

    def advanced(self, count: int) -> None:
        if self.task is not None:
            self.progress.update(self.task, completed=count)

    def comparing(self, count: int) -> None:
        if count > 20_000:
            self.console.print(f"comparing them with one another ({about((count / 50_000) ** 2 * 15)})")


def about(seconds: float) -> str:
    """`about 20 s`, `about 3 minutes`."""
    if seconds < 2:
        return "a second or two"
    return f"about {seconds:.0f} s" if seconds < 100 else f"about {seconds / 60:.0f} minutes"


def show(found: Survey, report: Mapping[str, Any]) -> None:
    """The whole survey on standard output. `report`: `findings.as_json` with `next`."""
    out = console()
    out.print(f"{found.data.name}: {len(found.seen):,} images, {found.data.num_classes} classes\n", soft_wrap=True)
    title, table = counts_table(found)
    out.print(title, style="bold", soft_wrap=True)
    out.print(table)
    for line in ("", *described(found), *(f"note: {note}" for note in found.notes)):
        out.print(line, soft_wrap=True)
    if found.bad:
        title = f"cannot be read: {plural(len(found.bad), 'image')}{first(len(found.bad))}"
        rows = [(found.side(seen), seen.name, seen.bad) for seen in found.bad[:MOST]]
        out.print(f"\n{title}", style="bold", soft_wrap=True)
        out.print(grid("", ("split", "image", "why"), rows))
    if found.data.bad:
        out.print(f"\nleft out: {plural(len(found.data.bad), 'image')}{first(len(found.data.bad))}", style="bold", soft_wrap=True)
        for line in found.data.bad[:MOST]:
            out.print(line, soft_wrap=True)
    if found.sets:
        same = sum(twins.bits is None for twins in found.sets)
        title = f"twins: {plural(same, 'set')} of the same pixels, {plural(len(found.sets) - same, 'set')} nearly the same"
        out.print(f"\n{title}{first(len(found.sets))}", style="bold", soft_wrap=True)
        out.print(grid("", ("splits", "alike", "classes", "images"), map(row_of(found), found.sets[:MOST])))
    out.print()
    for kind, lines in (("problem", report["problems"]), ("warning", report["warnings"])):
        for line in lines:
            out.print(f"{kind}: {line}", soft_wrap=True)
    out.print(f"verdict: {verdict(report['problems'], report['warnings'])}\n", soft_wrap=True)
    for line in report["next"]:
        out.print(line, soft_wrap=True)


def plural(count: int, name: str) -> str:
    return f"{count:,} {name}{'s' * (count != 1)}"


def first(count: int) -> str:
    return f", the first {MOST} (--json has all)" if count > MOST else ""


def counts_table(found: Survey) -> tuple[str, Table]:
    """A title, and a row for each class; of many the most frequent and the rarest."""
    sides = list(found.counts)
    headings = ["class", *(f"{side} (held out)" if side == "dev" and found.held_out else side for side in sides)]
    shown = shown_classes(found.per_class, MOST)
    names = found.data.class_names
    rows = [[names[k], *(f"{found.counts[side][k]:,}" for side in sides)] for k in shown]
    few = f", the {MOST // 2} most frequent and the {MOST // 2} rarest" if len(shown) < len(names) else ""
    rows.append([f"all {len(names)} classes", *(f"{sum(found.counts[side]):,}" for side in sides)])
    return f"images by class{few}", grid("", headings, rows, right=headings[1:])


def described(found: Survey) -> list[str]:
    """Sizes, what is converted, and what was not searched."""
    lines = []
    if found.sizes:
        width, height, aspect = (found.sizes[name] for name in ("width", "height", "aspect"))
        if width["min"] == width["max"] and height["min"] == height["max"]:
            lines.append(f"size: all are {width['min']:.0f} x {height['min']:.0f} pixels (width x height)")
        else:
            sides = ", ".join(
                f"{n} {v['min']:,.0f} to {v['max']:,.0f} (median {v['median']:,.0f})" for n, v in found.sizes.items() if v is not aspect
            )
            lines.append(f"size: {sides} pixels, width over height {aspect['min']:g} to {aspect['max']:g} (median {aspect['median']:g})")
    if found.converted:
        lines.append(
            f"converted when they are read, to upright RGB: {', '.join(f'{count:,} {kind}' for kind, count in found.converted.items())}"
        )
    lines.append(f"largest class over smallest, in train: {found.imbalance:.1f}")
    if not found.searched_near:
        lines.append("near-duplicates were not searched among so many images; those with the same pixels were")
    elif not found.twins:
        lines.append("twins: none; no two images are the same, or nearly")
    return lines


def row_of(found: Survey) -> Any:
    names = found.data.class_names

    def row(twins: Twins) -> Sequence[Any]:
        alike = "same pixels" if twins.bits is None else f"nearly ({plural(twins.bits, 'bit')} of 256)"
        classes = sorted({names[seen.label] for seen in twins.images})
        paths = [seen.name for seen in of_each(twins)[:IMAGES_OF_TWINS]]
        more = len(twins.images) - len(paths)
        where = " and ".join(twins.across) if twins.across else twins.sides[0]
        return where, alike, " or ".join(classes) + "?" * (len(classes) > 1), "\n".join([*paths, *([f"and {more} more"] if more else [])])

    return row


def of_each(twins: Twins) -> list[Seen]:
    """The twins, those first that show which splits and which labels meet here."""
    firsts = {(side, seen.label): seen for seen, side in reversed(list(zip(twins.images, twins.sides, strict=True)))}
    shown = sorted(firsts.values(), key=twins.images.index)
    return [*shown, *(seen for seen in twins.images if seen not in shown)]


def verdict(problems: Sequence[str], warnings: Sequence[str]) -> str:
    stops = f"{plural(len(problems), 'problem')} would stop training" if problems else "nothing stops training"
    return f"{stops}; {plural(len(warnings), 'warning')}"


def next_lines(found: Survey, spec: str, flags: str, sheet: str | None) -> list[str]:
    """What to type next. `flags`: those that were typed here and that training needs as well."""
    small = max((found.sizes[side]["max"] for side in ("width", "height") if found.sizes), default=0) <= SMALL
    rest = " ".join(filter(None, (shlex.quote(spec), flags)))
    skip = " --skip-bad-images" if found.bad and "--skip-bad-images" not in rest else ""
    train = f"kd train {'resnet18_32px' if small else 'resnet18'} --data {rest}{skip}"
    look = [f"look:  kd data check {rest} --sheet sheet.png"] if sheet is None else []
    return [*look, f"next:  {train}"]

"""Who looks on while a run trains: nobody, a line for each epoch, a live view on a terminal (all on stderr), or JSON lines on stdout."""

import json
import time
from collections import deque
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, Self

import click
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from kdcore.errors import KdError
from kdcore.estimate import Estimate, counted
from kdcore.phases import Phase
from kdcore.preparing import Prepared
from kdcore.runs import Run
from kdcore.training import Watch

ROWS = 8
RECENT = 5  # epochs by which the next ones are judged


def follow(quiet: bool, json_lines: bool = False, as_json: bool = False) -> "Follower":
    """The watcher that these flags ask for. Raises KdError where they contradict each other."""
    if json_lines and (quiet or as_json):
        raise KdError(f"--json-lines is all that stdout gets: leave out {'--json' if as_json else '--quiet'}")
    if json_lines:
        return JsonLines()
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    return Quiet(console) if quiet else LiveView(console) if console.is_terminal else Lines(console)


class Follower(Watch):
    """Keeps in mind where the run stands and how long it will take, and says nothing."""

    def __init__(self) -> None:
        self.run: Run | None = None
        self.expected: Estimate | None = None
        self.planned: list[int] = []
        self.number = self.epochs = self.ended = 0  # of the phase: its place, its length, its finished epochs
        self.took: deque[float] = deque(maxlen=RECENT)  # seconds of the last epochs that were finished in this phase and process
        self.fraction = 0.0  # of the epoch under way
        self.images = 0
        self.rate = 0.0
        self.epoch_begin = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None: ...

    def started(self, run: Run, prepared: Prepared) -> None:
        self.run = run
        self.planned = [phase.epochs or prepared.config.epochs for phase in prepared.composition.phases]
        self.images = min(prepared.config.batch_size, len(prepared.data.train))

    def estimate(self, expected: Estimate, done: int) -> None:
        self.expected = expected

    def phase(self, phase: Phase, number: int, epochs: int) -> None:
        self.number, self.epochs, self.ended, self.fraction = number, epochs, 0, 0.0
        self.took.clear()
        self.epoch_begin = time.monotonic()

    def log(self, record: Mapping[str, Any]) -> None:
        self.ended = record["epoch"] - 1
        self.fraction = record["step"] / record["steps"]
        self.rate = self.images * record["step"] / max(time.monotonic() - self.epoch_begin, 1e-9)

    def epoch(self, record: Mapping[str, Any]) -> None:
        self.ended, self.fraction = record["epoch"], 0.0
        now = time.monotonic()
        self.took.append(now - self.epoch_begin)
        self.epoch_begin = now

    def left(self) -> float | None:
        """Seconds until the end: this phase's epochs as the last ones went, all else as it was estimated; None before there is an estimate."""
        if self.expected is None or not self.number:
            return None
        begun = time.monotonic() - self.epoch_begin
        if self.ended < self.epochs:
            here = (self.epochs - self.ended) * self.pace() - min(begun, self.pace())
        else:
            here = -min(begun, self.expected.end)
        return max(here + self.expected.left(self.number, self.epochs), 0.0)

    def pace(self) -> float:
        """Seconds of an epoch of this phase: the median of the last few, which one slow epoch does not move; at first the estimate."""
        assert self.expected is not None
        return median(self.took) if self.took else self.expected.phases[min(self.number, len(self.expected.phases)) - 1].epoch


class Quiet(Follower):
    """Says only what decides whether anything was done."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console

    def note(self, text: str) -> None:
        if self.run is None:
            self.console.print(text)


class Lines(Follower):
    """A line for each epoch: what logs and pipes get."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console

    def started(self, run: Run, prepared: Prepared) -> None:
        super().started(run, prepared)
        self.console.print(headline(run, prepared))

    def estimate(self, expected: Estimate, done: int) -> None:
        super().estimate(expected, done)
        self.console.print(f"  {expected}" + (f"; {counted(done, 'epoch')} of them done" if done else ""))

    def note(self, text: str) -> None:
        self.console.print(f"  {text}")

    def phase(self, phase: Phase, number: int, epochs: int) -> None:
        super().phase(phase, number, epochs)
        if number > 1 or len(self.planned) > 1:
            self.console.print(f"phase {number}: {phase.name}, {counted(epochs, 'epoch')}")

    def epoch(self, record: Mapping[str, Any]) -> None:
        super().epoch(record)
        pieces = [f"epoch {record['epoch']}/{record['epochs']}", losses(record["train"])]
        if record["dev"]:
            pieces.append("dev " + " ".join(f"{name} {value}" for name, value in accuracies(record["dev"]).items()))
        pieces.append(f"{self.rate:.0f} images/s")
        if "stop" not in record and (left := self.left()) is not None:
            pieces.append(f"{clock(left)} left")
        self.console.print("  ".join(pieces))


class LiveView(Lines):
    """A bar and the last epochs, drawn again and again on a terminal."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(30),
            TextColumn("{task.fields[place]}"),
            TextColumn("{task.fields[rest]}"),
            console=console,
        )
        self.task = self.bar.add_task("looking at the data and timing a few steps", total=None, place="", rest="")
        self.rows: deque[Mapping[str, Any]] = deque(maxlen=ROWS)
        self.live = Live(self, console=console, refresh_per_second=4)

    def __enter__(self) -> Self:
        self.live.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.live.stop()

    def __rich__(self) -> Group:
        if self.number:
            self.move()
        rows = list(self.rows)  # at once: this runs in the thread that draws, while epochs end in another
        return Group(*([self.table(rows)] if rows else []), self.bar)

    def move(self) -> None:
        """The bar where the run stands by the clock: log lines may be far apart."""
        left = self.left()
        rest = [f"{self.rate:.0f} images/s"] if self.rate else []
        rest += [f"{clock(left)} left"] if left is not None else []
        place = f"epoch {min(self.ended + 1, self.epochs)}/{self.epochs}" + (", evaluating" if self.ended >= self.epochs else "")
        self.bar.update(self.task, completed=self.ended + self.share(), place=place, rest="  ".join(rest))

    def share(self) -> float:
        """Of the epoch under way: what was logged, or what its seconds make likely."""
        if self.expected is None or self.ended >= self.epochs:
            return 0.0
        return max(self.fraction, min((time.monotonic() - self.epoch_begin) / max(self.pace(), 1e-9), 0.99))

    def table(self, rows: Sequence[Mapping[str, Any]]) -> Table:
        """The last epochs: losses by term, accuracy of each exit on dev."""
        last = rows[-1]
        terms, exits = list(last["train"]), list(accuracies(last["dev"]))
        what = "loss, then each term before its weight" if len(terms) > 1 else "loss"
        table = Table(box=None, padding=(0, 1), header_style="bold", title_justify="left", title_style="dim")
        table.title = what + ("; top-1 on dev in percent by exit" if exits else "")
        for name in ("epoch", *terms, *exits, "images/s"):
            table.add_column(name, justify="right")
        for row in rows:
            numbers = [f"{value:z.3f}" for value in row["train"].values()]
            table.add_row(str(row["epoch"]), *numbers, *accuracies(row["dev"]).values(), f"{row['rate']:.0f}")
        return table

    def phase(self, phase: Phase, number: int, epochs: int) -> None:
        super().phase(phase, number, epochs)
        self.rows.clear()
        self.bar.update(self.task, description=phase.name, total=epochs, completed=0)

    def epoch(self, record: Mapping[str, Any]) -> None:
        Follower.epoch(self, record)
        self.rows.append({**record, "rate": self.rate})


class JsonLines(Follower):
    """One JSON object a line on stdout, by `event`: started, note, phase, log, epoch, finished. Numbers that are not finite are null."""

    def __init__(self) -> None:
        super().__init__()
        self.about: dict[str, Any] = {}
        self.teacher: str | None = None

    def say(self, event: str, **facts: Any) -> None:
        finite = json.loads(json.dumps({"event": event, **facts}, default=str), parse_constant=lambda _: None)
        click.echo(json.dumps(finite))

    def started(self, run: Run, prepared: Prepared) -> None:
        super().started(run, prepared)
        data = prepared.data
        self.teacher = "given" if prepared.teacher else None
        self.about = {
            "run": str(run.path),
            "images": {name: len(split) for name in ("train", "dev", "test") if (split := getattr(data, name)) is not None},
            "image_size": list(prepared.preprocessing.image_size),
            "classes": data.class_names,
            "device": str(prepared.device),
            "settings": prepared.config.model_dump(exclude_none=True),
        }

    def estimate(self, expected: Estimate, done: int) -> None:
        super().estimate(expected, done)
        planned = {"seconds": expected.seconds, "epochs": expected.epochs, "epochs_done": done}
        self.say("started", **self.about, estimate={**planned, "text": str(expected)})

    def note(self, text: str) -> None:
        self.say("note", text=text)

    def phase(self, phase: Phase, number: int, epochs: int) -> None:
        super().phase(phase, number, epochs)
        teacher = self.teacher if phase.teacher in ("auto", "given") else phase.teacher
        self.say("phase", **{**phase.to_json(), "teacher": teacher, "number": number, "epochs": epochs})

    def log(self, record: Mapping[str, Any]) -> None:
        super().log(record)
        self.say("log", **record)

    def epoch(self, record: Mapping[str, Any]) -> None:
        super().epoch(record)
        self.say("epoch", **record, images_per_second=self.rate, seconds_left=self.left())

    def finished(self, run: Run, results: Mapping[str, Any]) -> None:
        self.say("finished", run=str(run.path), results=results)


def headline(run: Run, prepared: Prepared) -> str:
    """What will run, on what, where, in one line."""
    config, data = prepared.config, prepared.data
    counts = ", ".join(f"{name} {len(split)}" for name in ("train", "dev", "test") if (split := getattr(data, name)) is not None)
    height, width = prepared.preprocessing.image_size
    weights = "pretrained" if config.pretrained else f"from {config.init}" if config.init else "from scratch"
    epochs = counted(sum(phase.epochs or config.epochs for phase in prepared.composition.phases), "epoch")
    precision = ("float32" if config.amp == "none" else config.amp) + (", channels last" if config.channels_last else "")
    return (
        f"{prepared.recipe.name} on {config.model} ({weights}): {counts} images of {height}x{width}, {data.num_classes} classes; "
        f"{epochs}; {prepared.device}, {precision}; {run.path}"
    )


def clock(seconds: float) -> str:
    """`0:07`, `12:30`, `1:02:30`"""
    whole = round(seconds)
    hours = f"{whole // 3600}:" if whole >= 3600 else ""
    minutes = f"{whole // 60 % 60:02d}" if hours else f"{whole // 60}"
    return f"{hours}{minutes}:{whole % 60:02d}"


def losses(means: Mapping[str, float]) -> str:
    """`loss 1.234 (ce 1.000, kl 0.234)`: the terms before their weights."""
    terms = ", ".join(f"{name} {value:z.3f}" for name, value in means.items() if name != "loss")
    return f"loss {means['loss']:z.3f} ({terms})" if terms else f"loss {means['loss']:z.3f}"


def accuracies(dev: Mapping[str, float]) -> dict[str, str]:
    """Top-1 in percent by exit, then the ensemble's."""
    return {name.removesuffix("/top1"): f"{value:.1f}" for name, value in dev.items() if name.endswith("/top1")}


class Total(Watch):
    """One bar over many runs, and a line for each that is finished."""

    def __init__(self, total: int) -> None:
        self.console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
        columns = (TextColumn("{task.description}"), BarColumn(40), TextColumn("{task.percentage:.0f} %"), TimeRemainingColumn())
        self.bar = Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal)
        self.task = self.bar.add_task("", total=total)

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.bar.stop()

    def about(self, text: str) -> None:
        self.bar.update(self.task, description=text)

    def done(self, text: str) -> None:
        self.console.print(text)

    def epoch(self, record: Mapping[str, Any]) -> None:
        self.bar.advance(self.task)

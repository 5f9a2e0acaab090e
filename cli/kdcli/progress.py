"""Who looks on while a run trains: nobody, a line for each epoch, or a live view on a terminal. All of it goes to stderr."""

import time
from collections import deque
from collections.abc import Mapping
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from kdcore.phases import Phase
from kdcore.preparing import Prepared
from kdcore.runs import Run
from kdcore.training import Watch

ROWS = 8


def follow(quiet: bool) -> "Follower":
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    return Follower() if quiet else LiveView(console) if console.is_terminal else Lines(console)


class Follower(Watch):
    """Keeps in mind where the run stands, and says nothing."""

    def __init__(self) -> None:
        self.run: Run | None = None
        self.planned: list[int] = []
        self.ahead: list[int] = []
        self.images = 0
        self.rate = 0.0
        self.begin = self.epoch_begin = time.monotonic()
        self.finished = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None: ...

    def started(self, run: Run, prepared: Prepared) -> None:
        self.run = run
        self.planned = [phase.epochs or prepared.config.epochs for phase in prepared.composition.phases]
        self.images = min(prepared.config.batch_size, len(prepared.data.train))

    def phase(self, phase: Phase, number: int, epochs: int) -> None:
        self.ahead = [epochs, *self.planned[number:]]
        self.begin = self.epoch_begin = time.monotonic()
        self.finished = 0

    def log(self, record: Mapping[str, Any]) -> None:
        self.rate = self.images * record["step"] / max(time.monotonic() - self.epoch_begin, 1e-9)

    def epoch(self, record: Mapping[str, Any]) -> None:
        self.finished += 1
        self.epoch_begin = time.monotonic()

    def left(self, record: Mapping[str, Any]) -> str:
        """Minutes and seconds until the end, from the epochs of this phase so far and the phases that were planned."""
        epochs = record["epochs"] - record["epoch"] + sum(self.ahead[1:])
        seconds = round((time.monotonic() - self.begin) / self.finished * epochs)
        return (
            f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}" if seconds >= 3600 else f"{seconds // 60}:{seconds % 60:02d}"
        )


class Lines(Follower):
    """A line for each epoch: what logs and pipes get."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console

    def started(self, run: Run, prepared: Prepared) -> None:
        super().started(run, prepared)
        self.console.print(headline(run, prepared))

    def note(self, text: str) -> None:
        self.console.print(f"  {text}")

    def phase(self, phase: Phase, number: int, epochs: int) -> None:
        super().phase(phase, number, epochs)
        if number > 1 or len(self.ahead) > 1:
            self.console.print(f"phase {number}: {phase.name}, {epochs} epochs")

    def epoch(self, record: Mapping[str, Any]) -> None:
        super().epoch(record)
        pieces = [f"epoch {record['epoch']}/{record['epochs']}", losses(record["train"])]
        if record["dev"]:
            pieces.append("dev " + " ".join(f"{name} {value}" for name, value in accuracies(record["dev"]).items()))
        self.console.print("  ".join([*pieces, f"{self.rate:.0f} images/s", f"{self.left(record)} left"]))


class LiveView(Lines):
    """A bar and the last epochs, drawn again and again on a terminal."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(40),
            TextColumn("{task.fields[place]}"),
            TextColumn("{task.fields[rest]}"),
            console=console,
        )
        self.task = self.bar.add_task("preparing", total=None, place="", rest="")
        self.rows: deque[Mapping[str, Any]] = deque(maxlen=ROWS)
        self.live = Live(self, console=console, refresh_per_second=4)

    def __enter__(self) -> Self:
        self.live.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.live.stop()

    def __rich__(self) -> Group:
        return Group(*([self.table()] if self.rows else []), self.bar)

    def table(self) -> Table:
        """The last epochs: losses by term, accuracy of each exit on dev."""
        last = self.rows[-1]
        table = Table(box=None, padding=(0, 1), header_style="bold")
        for name in ("epoch", *last["train"], *accuracies(last["dev"]), "images/s"):
            table.add_column(name, justify="right")
        for row in self.rows:
            numbers = [f"{value:.3f}" for value in row["train"].values()]
            table.add_row(str(row["epoch"]), *numbers, *accuracies(row["dev"]).values(), f"{row['rate']:.0f}")
        return table

    def phase(self, phase: Phase, number: int, epochs: int) -> None:
        super().phase(phase, number, epochs)
        self.rows.clear()
        self.bar.update(self.task, description=phase.name, total=epochs, completed=0, place=f"epoch 1/{epochs}")

    def log(self, record: Mapping[str, Any]) -> None:
        super().log(record)
        self.bar.update(self.task, completed=record["epoch"] - 1 + record["step"] / record["steps"])

    def epoch(self, record: Mapping[str, Any]) -> None:
        Follower.epoch(self, record)
        self.rows.append({**record, "rate": self.rate})
        self.bar.update(self.task, place=f"epoch {record['epoch']}/{record['epochs']}", rest=f"{self.left(record)} left")


def headline(run: Run, prepared: Prepared) -> str:
    """What will run, on what, where, in one line."""
    config, data = prepared.config, prepared.data
    counts = ", ".join(f"{name} {len(split)}" for name in ("train", "dev", "test") if (split := getattr(data, name)) is not None)
    height, width = prepared.preprocessing.image_size
    weights = "pretrained" if config.pretrained else f"from {config.init}" if config.init else "from scratch"
    precision = ("float32" if config.amp == "none" else config.amp) + (", channels last" if config.channels_last else "")
    return (
        f"{prepared.recipe.name} on {config.model} ({weights}): {counts} images of {height}x{width}, {data.num_classes} classes; "
        f"{sum(phase.epochs or config.epochs for phase in prepared.composition.phases)} epochs; {prepared.device}, {precision}; {run.path}"
    )


def losses(means: Mapping[str, float]) -> str:
    """`loss 1.234 (ce 1.000, kl 0.234)`"""
    terms = ", ".join(f"{name} {value:.3f}" for name, value in means.items() if name != "loss")
    return f"loss {means['loss']:.3f} ({terms})" if terms else f"loss {means['loss']:.3f}"


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

"""What a run will take, in seconds, as `kdcore.timing` measured it: phase by phase, and in words. Imports no torch."""

import dataclasses
from dataclasses import dataclass

from kdcore.config import Config
from kdcore.phases import Phase


@dataclass(frozen=True)
class PhaseTime:
    """Seconds of one epoch (steps, evaluation, checkpoint) and of what comes before the first; `main`: whether --epochs is its length."""

    name: str
    epochs: int
    main: bool
    epoch: float
    begin: float

    @property
    def seconds(self) -> float:
        return self.begin + self.epochs * self.epoch


@dataclass(frozen=True)
class Estimate:
    """What a run will take on this machine, in seconds: its phases, and `end`, the evaluation of the last and, with a dev split, the best checkpoint."""

    phases: tuple[PhaseTime, ...]
    end: float

    @property
    def seconds(self) -> float:
        return sum(phase.seconds for phase in self.phases) + self.end

    @property
    def minutes(self) -> float:
        return self.seconds / 60

    @property
    def epochs(self) -> int:
        return sum(phase.epochs for phase in self.phases)

    def fitting(self, seconds: float) -> int:
        """The largest --epochs, at least 1, with which the run takes no longer than this."""
        fixed = self.end + sum(phase.begin if phase.main else phase.seconds for phase in self.phases)
        return max(int((seconds - fixed) / max(sum(phase.epoch for phase in self.phases if phase.main), 1e-9)), 1)

    def of(self, phases: list[Phase], epochs: int) -> "Estimate":
        """The same times for a schedule whose phases have other lengths, or which has more or fewer phases."""
        times = [self.phases[min(k, len(self.phases) - 1)] for k in range(len(phases))]
        again = (
            dataclasses.replace(old, name=phase.name, epochs=phase.epochs or epochs, main=phase.epochs is None)
            for old, phase in zip(times, phases, strict=True)
        )
        return Estimate(tuple(again), self.end)

    def left(self, number: int, epoch: int) -> float:
        """Seconds that are left after this epoch of the `number`th phase, counted from 1; epoch 0: before the first."""
        here = self.phases[number - 1] if number <= len(self.phases) else None
        inside = max(here.epochs - epoch, 0) * here.epoch if here else 0.0
        return inside + sum(phase.seconds for phase in self.phases[number:]) + self.end

    def __str__(self) -> str:
        """`about 14 min for 30 epochs, 25 s an epoch`"""
        each = sorted(phase.epoch for phase in self.phases)
        pace = spoken(each[0]) if spoken(each[0]) == spoken(each[-1]) else f"{spoken(each[0])} to {spoken(each[-1])}"
        phases = f" in {len(self.phases)} phases" if len(self.phases) > 1 else ""
        return f"about {spoken(self.seconds)} for {counted(self.epochs, 'epoch')}{phases}, {pace} an epoch"


def spoken(seconds: float) -> str:
    """`0.4 s`, `25 s`, `2.5 min`, `14 min`, `3 h 20 min`: two digits are as much as an estimate knows."""
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    if seconds < 597:
        return f"{seconds / 60:.1f} min"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def counted(count: int, thing: str) -> str:
    """`1 epoch`, `2 epochs`"""
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def within_minutes(config: Config, expected: Estimate) -> int:
    """--epochs, or as many of them as fit into --minutes."""
    if config.minutes is None:
        return config.epochs
    return min(config.epochs, expected.fitting(60 * config.minutes))

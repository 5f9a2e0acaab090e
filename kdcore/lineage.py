"""Who taught whom: the phases of a run with where each started, its teacher, and what it came to. Imports no torch."""

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from kdcore.files import read_json
from kdcore.runs import Run


def lineage(run: Run) -> list[dict[str, Any]]:
    """The phases of a run in order, the one under way too.

    Each has `phase` (its name), `generation`, `start`, `teacher` (None, a phase's name and epoch, or what was given), `epochs` (done, of those
    planned), `dev` and `best` (top-1 of the deepest exit in percent at the last epoch and at the best; None without a dev split), and
    `delivered`: whether the run delivers it.
    """
    path = run.path / "phases.json"
    done = read_json(path) if path.exists() else []
    records = run.metrics()
    numbers = sorted({record["phase_number"] for record in records})
    delivered = ((run.results() or {}).get("checkpoints") or {}).get("delivered", "")
    found = []
    for number in numbers:
        own = [record for record in records if record["phase_number"] == number]
        phase = done[number - 1]["phase"] if number <= len(done) else _under_way(run, number, own[0].get("phase", "main"))
        dev = [record["dev"]["top1"] for record in own if record.get("dev")]
        found.append(
            {
                "phase": phase["name"],
                "generation": phase.get("generation"),
                "start": _start(phase.get("start"), number),
                "teacher": _teacher(phase.get("teacher"), run.config()),
                "epochs": f"{len(own)}/{own[-1]['epochs']}",
                "dev": dev[-1] if dev else None,
                "best": max(dev, default=None),
                "delivered": delivered.startswith(f"checkpoints/{number:02d}-"),
            }
        )
    return found


def _under_way(run: Run, number: int, name: str) -> Mapping[str, Any]:
    """What the newest checkpoint of a phase that is not finished says of it."""
    written = sorted(run.checkpoint(f"{number:02d}-{name}").glob("epoch-*.json"))
    return read_json(written[-1])["about"]["phase"] if written else {"name": name}


def _start(start: str | None, number: int) -> str | None:
    if start == "stands" and number == 1:
        return "initial weights"
    return _phase_and_epoch(start) if start and "/" in start else start


def _teacher(teacher: str | None, config: Mapping[str, Any]) -> str | None:
    """`auto` is the given teacher, where there is one."""
    if teacher in (None, "auto", "given"):
        return None if teacher is None else config.get("teacher")
    return _phase_and_epoch(teacher)


def _phase_and_epoch(checkpoint: str) -> str:
    """`checkpoints/01-generation-1/epoch-0005` as `generation-1, epoch 5`."""
    path = PurePosixPath(checkpoint)
    return f"{path.parent.name.partition('-')[2]}, epoch {int(path.name.removeprefix('epoch-'))}"

"""--jobs N: a process for each trial, N at a time. One process draws; each worker trains its trial, reports and tells, in the same journal."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from kdcore.comparison.asking import cores
from kdcore.errors import KdError
from kdcore.tuning.plan import Plan
from kdcore.tuning.running import TuneWatch, drawing_of, numbers, row_of, say_ended
from kdcore.tuning.study import Trials, silent
from kdcore.tuning.trial import Paused, Trial

_POLL = 0.2  # seconds


def side_by_side(
    folder: Path,
    plan: Plan,
    trials: Trials,
    total: int,
    until: float | None,
    watch: TuneWatch,
    notes: list[str],
    jobs: int,
    lock: int | None,
) -> None:
    """Trains trials until there are enough. A worker that dies is started once more; KdError for what ends every trial alike."""
    waiting = numbers(folder, plan, trials, total, until, watch, notes)
    at_work: dict[int, tuple[subprocess.Popen[bytes], Any]] = {}
    died: set[int] = set()
    threads = max(cores() // jobs, 1)
    more = True

    def begin(number: int) -> None:
        command = [sys.executable, "-P", "-m", "kdcore.tuning.workers", str(folder), str(number), str(until or 0), str(threads)]
        keep: Any = {"pass_fds": (lock,)} if lock is not None else {}  # the folder stays taken while a worker lives
        said = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the worker lives; a pipe might fill up
        at_work[number] = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=said, **keep), said
        watch.trial(row_of(folder, plan, trials, number))

    try:
        while more or at_work:
            while more and len(at_work) < jobs:
                number = next(waiting, None)
                more = number is not None
                if number is not None:
                    begin(number)
            time.sleep(_POLL)
            for number, (process, said) in list(at_work.items()):
                if process.poll() is None:
                    continue
                del at_work[number]
                with said:
                    said.seek(0)
                    lines = said.read().decode(errors="replace").strip().splitlines()
                if process.returncode > 0:
                    raise KdError(f"trial {number}: {lines[-1] if lines else 'its process failed'}")
                if process.returncode < 0 and number in died:
                    trials.fail(number, f"its process was killed twice (signal {-process.returncode})")
                elif process.returncode < 0:
                    died.add(number)
                    watch.remark(
                        f"trial {number}: its process was killed (signal {-process.returncode}); it goes on from its last checkpoint"
                    )
                    begin(number)
                    continue
                if row_of(folder, plan, trials, number)["state"] != "unfinished":
                    say_ended(folder, plan, trials, number, watch)
                elif not notes:
                    notes.append(f"the time is over; to go on: kd tune --dir {folder} --resume")
    finally:
        for process, _ in at_work.values():
            process.terminate()
        for process, said in at_work.values():
            process.wait()
            said.close()


class Worker(TuneWatch):
    """Says nothing, and stops where nobody waits for it any more."""

    def __init__(self, parent: int) -> None:
        self.parent = parent

    def epoch(self, record: Any) -> None:
        if os.getppid() != self.parent:
            raise Paused("the kd tune that began it is gone")


def work(folder: Path, number: int, until: float, threads: int) -> int:
    """Trains one trial of a study, in a process of its own. Returns the exit status."""
    import torch

    torch.set_num_threads(threads)
    plan = Plan.read(folder)
    with silent():
        try:
            Trial(folder, plan, Trials(folder, drawing_of(plan)), number, Worker(os.getppid()), until or None).run()
        except Paused:
            pass
        except KdError as error:
            print(" ".join(str(error).split()), file=sys.stderr)
            return error.exit_status
        except KeyboardInterrupt:
            return 130
    return 0


if __name__ == "__main__":
    place, which, deadline, threads = sys.argv[1:]
    sys.exit(work(Path(place), int(which), float(deadline), int(threads)))

"""`--engine local`: the cells on worker processes of this machine. A worker that dies is replaced, and its cell goes on from its checkpoint."""

import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue

from kdcore.comparison.cells import Cell, Outcome
from kdcore.errors import KdError
from kdcore.files import remove_quietly

DEATHS = 3
"""Of workers, after which the cell that they died of counts as failed."""

TICK = 0.5
PATIENCE = 1.0
"""Seconds before a cell that another process has is asked for again."""

Ended = tuple[Cell, Outcome]


@dataclass
class Worker:
    """A process, and the cell that it has."""

    process: subprocess.Popen
    number: int
    cell: Cell | None = None

    def give(self, cell: Cell, threads: int, by: str) -> None:
        self.cell = cell
        assert self.process.stdin is not None
        line = json.dumps({"path": str(cell.path.absolute()), "settings": cell.settings, "threads": threads, "by": by, "argv": sys.argv})
        with suppress(OSError):  # it may have died: which is seen when its answers end
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()


def run_local(
    cells: Sequence[Cell], *, jobs: int, threads: int, log: Path, by: str = "", devices: Sequence[str] = ()
) -> Iterator[Ended | None]:
    """Runs the cells on `jobs` processes with `threads` threads of torch each; yields each cell with its outcome, and None now and then.

    A cell that is `taken` is asked for again, and comes again. log: a file for what the workers print. devices: CUDA's numbers, handed to the workers in turn. Closing the generator stops the workers.
    """
    waiting, later, deaths = deque(cells), deque[tuple[float, Cell]](), Counter[str]()
    answers: SimpleQueue[tuple[Worker, str | None]] = SimpleQueue()
    workers: list[Worker] = []
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as printed:

        def start(number: int) -> Worker:
            worker = Worker(_process(threads, printed, devices[number % len(devices)] if devices else None), number)
            threading.Thread(target=_listen, args=(worker, answers), daemon=True).start()
            return worker

        try:
            workers.extend(start(number) for number in range(min(jobs, len(cells))))
            while waiting or later or any(worker.cell for worker in workers):
                while later and later[0][0] <= time.monotonic():
                    waiting.append(later.popleft()[1])
                for worker in workers:
                    if worker.cell is None and waiting:
                        worker.give(waiting.popleft(), threads, by)
                if (event := _next(answers, workers)) is None:
                    yield None
                    continue
                worker, answer = event
                cell, worker.cell = worker.cell, None
                if answer is None:
                    _let_go(worker)
                    if worker in workers:
                        workers[workers.index(worker)] = start(worker.number)
                    if cell is None:
                        continue
                    deaths[str(cell)] += 1
                    if deaths[str(cell)] < DEATHS:
                        waiting.appendleft(cell)
                    else:
                        yield cell, Outcome("failed", f"its worker died {DEATHS} times, last with {_how(worker)}; what it said: {log}")
                elif cell is not None:
                    outcome = Outcome(**json.loads(answer))
                    if outcome.state == "taken":
                        later.append((time.monotonic() + PATIENCE, cell))
                    yield cell, outcome
        finally:
            stop(workers)
            if log.exists() and not log.stat().st_size:  # another kd compare of this folder may have removed it
                remove_quietly(log)


def _next(answers: "SimpleQueue[tuple[Worker, str | None]]", workers: list[Worker]) -> tuple[Worker, str | None] | None:
    """The next answer of a worker, None instead of one where the worker died; None alone where nothing has happened for a moment."""
    try:
        worker, answer = answers.get(timeout=TICK)
    except Empty:
        # Children of a dead worker may hold its stdout open for a while, so that its answers do not end.
        dead = next((worker for worker in workers if worker.process.poll() is not None), None)
        return (dead, None) if dead is not None else None
    if answer is None and worker not in workers:
        return None  # its death was seen before
    return worker, answer


def _process(threads: int, printed, device: str | None) -> subprocess.Popen:
    """A fresh interpreter: what a script has in its `__main__`, and the parent's CUDA, do not matter to it."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(place for place in map(os.path.abspath, sys.path) if os.path.exists(place))
    if device is not None:
        environment["CUDA_VISIBLE_DEVICES"] = device
    line = [sys.executable, "-P", "-m", "kdcore.comparison.worker"]
    pipe = subprocess.PIPE
    try:
        return subprocess.Popen(line, stdin=pipe, stdout=pipe, stderr=printed, env=environment, text=True, encoding="utf-8")
    except OSError as error:
        raise KdError(f"no worker process can be started: {error}") from error


def _listen(worker: Worker, answers: "SimpleQueue[tuple[Worker, str | None]]") -> None:
    assert worker.process.stdout is not None
    with worker.process.stdout as lines:
        for line in lines:
            answers.put((worker, line))
    worker.process.wait()
    answers.put((worker, None))


def _let_go(worker: Worker) -> None:
    """Closes what is left of a dead worker; its stdout is closed by whoever listens to it."""
    assert worker.process.stdin is not None
    with suppress(OSError):
        worker.process.stdin.close()


def _how(worker: Worker) -> str:
    """`signal 9 (too little memory?)`, `exit status 1`"""
    status = worker.process.wait()
    if status >= 0:
        return f"exit status {status}"
    return f"signal {-status}" + (" (too little memory?)" if status == -9 else "")


def stop(workers: Sequence[Worker], seconds: float = 15.0) -> None:
    """Ends the workers: those with a cell may write down that it was stopped; whoever takes too long is killed."""
    for worker in workers:
        worker.process.terminate()
    end = time.monotonic() + seconds
    for worker in workers:
        try:
            worker.process.wait(max(end - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            worker.process.kill()
            worker.process.wait()
        _let_go(worker)


def visible_devices(devices: Sequence[str]) -> list[str]:
    """What CUDA_VISIBLE_DEVICES says for `cuda:0`, `cuda:1`: among those that are visible now. Raises KdError for another device."""
    outer = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    found = []
    for device in devices:
        kind, _, number = device.strip().partition(":")
        if kind != "cuda" or not number.isdigit() or (outer and int(number) >= len(outer)):
            raise KdError(f"--device {','.join(devices)}: several devices are written cuda:0,cuda:1, and each must be there")
        found.append(outer[int(number)] if outer else number)
    return found

"""Where cells run: `run_cell` in any process, and the worker of the local engine, which runs one cell after another and imports torch once.

`python -m kdcore.comparison.worker` reads a cell as a line of JSON on stdin ({"path", "settings", "threads", "by"}) and answers with its outcome on
stdout, likewise. It ends when its stdin does: a worker whose parent was killed must not go on in secret. Imports no torch before its first cell.
"""

import json
import os
import signal
import socket
import sys
import threading
import traceback
from dataclasses import asdict
from io import RawIOBase
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TextIO

from kdcore.comparison.cells import Outcome, clear_unbegun, is_finished, taken
from kdcore.ending import reason
from kdcore.errors import KdError


class Stopped(KeyboardInterrupt):
    """The comparison was stopped, and the cell with it."""


def run_cell(path: str | Path, settings: dict[str, Any], *, threads: int, by: str = "", argv: list[str] | None = None) -> Outcome:
    """Runs the cell from its start or from its last checkpoint, unless it is finished or somebody else has it.

    argv: the command line that the run's environment.json names. Whatever breaks it is its outcome, in one line: a traceback too where it was no user's error.
    """
    path = Path(path)
    sys.argv = argv or sys.argv
    if not path.parents[1].is_dir():
        return Outcome(
            "failed", f"{socket.gethostname()} has no {path.parents[1]}: every machine must see the comparison's folder at the same path"
        )
    try:
        with taken(path, by) as ours:
            if not ours:
                return Outcome("taken")
            if not is_finished(path):
                _train(path, settings, threads)
            return Outcome("finished")
    except (KdError, OSError) as error:
        return Outcome("failed", reason(error))
    except Exception as error:
        return Outcome("failed", reason(error), traceback.format_exc())


def _train(path: Path, settings: dict[str, Any], threads: int) -> None:
    import gc

    import torch

    from kdcore.training import train

    torch.set_num_threads(threads)
    clear_unbegun(path)
    try:
        if (path / "config.toml").exists():
            train(run=path, resume=True, timed=False)  # whoever began the comparison has estimated each row, and nobody looks on here
        else:
            train(run=path, timed=False, **settings)
    finally:
        gc.collect()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()


def main() -> None:
    """The worker's loop. What a run, a plugin or a library prints goes to stderr: stdout is for outcomes."""
    answers, asked = os.fdopen(os.dup(1), "w", encoding="utf-8"), open(os.dup(0), "rb", buffering=0)  # noqa: SIM115
    os.dup2(2, 1)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of the terminal: the parent decides
    signal.signal(signal.SIGTERM, _stop)
    cells: SimpleQueue[dict[str, Any]] = SimpleQueue()
    threading.Thread(target=_listen, args=(asked, cells), daemon=True).start()
    try:
        while True:
            _answer(answers, run_cell(**cells.get()))
    except (Stopped, BrokenPipeError):
        os._exit(143)  # at once: nothing is open any more, and threads of libraries may hang


def _listen(asked: RawIOBase, cells: "SimpleQueue[dict[str, Any]]") -> None:
    """Unbuffered, and not through sys.stdin: a process that loads images is forked while this thread waits, closes its sys.stdin first, and would
    wait for ever for a lock that this thread held."""
    for line in asked:
        cells.put(json.loads(line))
    os._exit(1)  # the parent is gone: the run goes on from its last checkpoint when it is asked for again


def _answer(answers: TextIO, outcome: Outcome) -> None:
    answers.write(json.dumps(asdict(outcome)) + "\n")
    answers.flush()


def _stop(*_: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the parent's comes after the group's, and would break off what is written down now
    raise Stopped("kd compare was stopped")


if __name__ == "__main__":
    main()

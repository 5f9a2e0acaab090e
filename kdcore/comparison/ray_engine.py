"""`--engine ray`: the same cells as tasks of a Ray cluster. The comparison's folder must be on a disk that every machine of it sees."""

import logging
import os
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from typing import Any

from kdcore.comparison.cells import Cell, Outcome
from kdcore.comparison.local import DEATHS, PATIENCE, TICK, Ended
from kdcore.errors import KdError
from kdcore.installed import handed_on


def check_ray() -> None:
    """Raises KdError where Ray is not installed."""
    if find_spec("ray") is None:
        raise KdError('--engine ray needs Ray: pip install "kdcore[ray]"')


def run_ray(
    cells: Sequence[Cell],
    *,
    jobs: int | None,
    threads: int,
    by: str = "",
    address: str | None = None,
    cpus: float | None = None,
    gpus: float | None = None,
) -> Iterator[Ended | None]:
    """As `run_local`. address: of a cluster; without one a Ray is started here, and ended after the last cell. jobs: cells at once, at most.

    cpus, gpus: what Ray sets aside for a cell (default: `threads`, and a whole GPU where the cluster has any). A task whose worker dies is run
    again by Ray, and the cell goes on from its checkpoint.
    """
    import ray
    from ray.exceptions import RayError

    own = not ray.is_initialized()
    if own:
        try:
            ray.init(
                address=address, include_dashboard=False if address is None else None, log_to_driver=False, logging_level=logging.ERROR
            )
        except Exception as error:  # a node that does not start in time is a bare Exception
            where = "--engine ray: no Ray starts here" if address is None else f"--ray-address {address}"
            raise KdError(f"{where}: {' '.join(str(error).split())}") from error
    if gpus is None:
        gpus = 1.0 if ray.cluster_resources().get("GPU", 0) >= 1 else 0.0
    cpus = float(threads) if cpus is None else cpus
    _check_room(ray.cluster_resources(), cpus, gpus)
    task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=DEATHS - 1, retry_exceptions=False)(run_task)
    waiting, later = deque(cells), deque[tuple[float, Cell]]()
    running: dict[Any, Cell] = {}
    try:
        while waiting or later or running:
            while later and later[0][0] <= time.monotonic():
                waiting.append(later.popleft()[1])
            while waiting and (jobs is None or len(running) < jobs):
                cell = waiting.popleft()
                running[task.remote(str(cell.path.absolute()), cell.settings, threads, by, sys.argv, handed_on())] = cell
            done, _ = ray.wait(list(running), timeout=TICK) if running else ([], [])
            if not done:
                if not running:
                    time.sleep(TICK)
                yield None
            for reference in done:
                cell = running.pop(reference)
                try:
                    outcome = Outcome(**ray.get(reference))
                except RayError as error:
                    first = next((line for line in str(error).splitlines() if line.strip()), "")
                    outcome = Outcome("failed", f"its worker died {DEATHS} times: {type(error).__name__} {first}".strip())
                if outcome.state == "taken":
                    later.append((time.monotonic() + PATIENCE, cell))
                yield cell, outcome
    finally:
        for reference in running:
            ray.cancel(reference)
        if running:
            ray.wait(list(running), num_returns=len(running), timeout=15)
        if own:
            ray.shutdown()


def run_task(path: str, settings: dict[str, Any], threads: int, by: str, argv: list[str], environment: dict[str, str]) -> dict[str, str]:
    """What a worker of Ray does with a cell. environment: variables that whoever asked has, and its machine may not."""
    from kdcore.comparison.worker import run_cell

    os.environ.update(environment)
    return asdict(run_cell(path, settings, threads=threads, by=by, argv=argv))


def _check_room(resources: dict[str, float], cpus: float, gpus: float) -> None:
    """Raises KdError where no cell could ever begin: Ray itself would wait for another machine for ever."""
    for name, wanted, flag in (("CPU", cpus, "--cpus-per-cell"), ("GPU", gpus, "--gpus-per-cell")):
        if wanted > resources.get(name, 0):
            raise KdError(f"{flag} {wanted:g}: this Ray has {resources.get(name, 0):g} {name}s, so that no cell would ever begin")

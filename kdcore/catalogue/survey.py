"""The facts of all of timm's architectures: in parallel, and from where it stopped. A line of JSON for each stands in a file."""

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from itertools import starmap
from multiprocessing import get_context
from pathlib import Path
from typing import IO

import timm
import torch

import kdcore
from kdcore.catalogue.facts import Facts, facts_of
from kdcore.catalogue.names import CORES, timm_families


def survey(into: Path, *, processes: int = 1, seen: Callable[[int, int, Facts], None] | None = None) -> list[Facts]:
    """The facts of every architecture of the installed timm, in timm's order of families and names.

    into: a file of JSON lines; what stands there of this timm and this kdcore is not measured again, and each architecture is added when it is
    known.
    seen: called with how many are known, of how many, and the facts that were just found.
    """
    wanted = [(name, family) for family, names in timm_families().items() if family != CORES for name in names]
    known = read(into)
    todo = [(name, family) for name, family in wanted if name not in known]
    with _lines(into) as file, _mapping(processes) as each:
        for facts in each(_one, todo):
            file.write(json.dumps(facts) + "\n")
            file.flush()
            known[facts["name"]] = facts
            if seen is not None:
                seen(len(known), len(wanted), facts)
    return [known[name] for name, _ in wanted]


def read(path: Path) -> dict[str, Facts]:
    """The facts in a file by name, of the installed timm and kdcore; a line that was cut short when a survey was stopped counts for nothing."""
    known = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            facts = json.loads(line)
        except ValueError:
            continue
        if (facts["timm"], facts.get("kdcore")) == (timm.__version__, kdcore.__version__):
            known[facts["name"]] = facts
    return known


def _one(name: str, family: str) -> Facts:
    return facts_of(name, family=family) | {"kdcore": kdcore.__version__}


@contextmanager
def _lines(path: Path) -> Iterator[IO[str]]:
    """The file, open at its end, which begins a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cut_short = path.exists() and not path.read_text(encoding="utf-8").endswith("\n")
    with path.open("a", encoding="utf-8", newline="\n") as file:
        if cut_short:
            file.write("\n")
        yield file


@contextmanager
def _mapping(processes: int) -> Iterator[Callable[[Callable, Sequence[tuple[str, str]]], Iterator[Facts]]]:
    """What maps a function over pairs, in this process or in several."""
    if processes == 1:
        yield starmap
        return
    # Spawned, not forked: torch's threads do not survive a fork.
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        yield lambda function, pairs: pool.map(function, *zip(*pairs, strict=True)) if pairs else iter(())

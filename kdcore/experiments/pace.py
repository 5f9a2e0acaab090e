"""How fast this machine trains, once measured and kept: hours of an experiment follow from its images and multiply-adds. Imports no torch.

`python -m kdcore.experiments.pace` measures. What it found stays in the cache folder.
"""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

from kdcore.errors import FileError, KdError
from kdcore.files import cache_folder, read_json, write_json

SMALL, LARGE = "test_resnet_32px", "resnet18_32px"
BATCH = 32
PATIENCE = 120
STEPS = 5
TRAINING = 3
"""Times the multiply-adds of a forward pass, such as evaluation is, that a training step has."""


@dataclass(frozen=True)
class Pace:
    """Seconds of training that every image costs, whatever the network, and seconds of each multiply-add beside it."""

    image: float
    mac: float

    def hours(self, images: float, macs: float) -> float:
        """Of training on so many images with so many multiply-adds in all."""
        return (images * self.image + macs * self.mac) / 3600


def pace_here(told: Callable[[str], None] = lambda _: None) -> Pace | None:
    """What was measured here with the installed torch; else measures, and tells so. None, which is told, where that fails."""
    devices = os.environ.get("CUDA_VISIBLE_DEVICES")
    key = ", ".join(
        [platform.node(), f"torch {version('torch')}", f"{os.cpu_count()} cores", *([] if devices is None else [f"GPUs {devices}"])]
    )
    file = cache_folder() / "pace.json"
    kept: dict[str, Any] = {}
    with suppress(FileError, TypeError, ValueError):  # what is damaged is measured anew
        kept = dict(read_json(file))
        if key in kept:
            return Pace(**kept[key])
    told("timing two networks here, once, for the hours (some seconds)")
    try:
        found = timed()
    except KdError as error:
        told(f"{error}; so no hours")
        return None
    with suppress(FileError):  # it is measured again next time
        write_json(file, {**kept, key: asdict(found)})
    return found


def timed() -> Pace:
    """`measured` in a process of its own, with all cores: this one goes on without torch. Raises KdError with its last line where it fails."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    words = [sys.executable, "-m", "kdcore.experiments.pace"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=PATIENCE)
    except subprocess.TimeoutExpired as error:
        raise KdError(f"the pace of this machine was not measured: it took more than {PATIENCE} s") from error
    try:
        return Pace(**json.loads(done.stdout.splitlines()[-1]))  # what a library prints when it is imported comes before
    except (IndexError, TypeError, ValueError) as error:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise KdError(f"the pace of this machine was not measured: {reason}") from error


def measured() -> Pace:
    """From training steps of a small and a large network at 32 pixels, in the precision that a run would choose."""
    import time

    import torch
    from torch import nn

    from kdcore.backbones import create_backbone, macs
    from kdcore.precision import by_rule, pick_device, wait

    device = pick_device("auto")
    images, labels = torch.rand(BATCH, 3, 32, 32), torch.zeros(BATCH, dtype=torch.long, device=device)
    found = []
    for name in (SMALL, LARGE):
        net = create_backbone(name, num_classes=100)
        work = TRAINING * macs(net, images)
        net = net.to(device).train()
        precision = by_rule(net, (32, 32), device, "auto", None)
        precision.apply(net)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
        batch = precision.images(images.to(device))
        times = []
        for _ in range(1 + STEPS):  # the first is slower
            begin = time.perf_counter()
            with precision.autocast(device):
                loss = nn.functional.cross_entropy(net(batch), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            wait(device)
            times.append(time.perf_counter() - begin)
        found.append((work, min(times[1:]) / BATCH))
    (less, quick), (more, slow) = found
    mac = max(slow - quick, slow / 10) / (more - less)
    return Pace(max(quick - less * mac, 0.0), mac)


if __name__ == "__main__":
    print(json.dumps(asdict(measured())))

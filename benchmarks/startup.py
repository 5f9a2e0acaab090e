"""Seconds and memory until something happens: the commands, the first step of a run, and a distillation step.

    python benchmarks/startup.py [--quick] [--json startup.json] [--device cuda]

Every turn is a process of its own, timed from outside; its memory is the most that was resident (on CUDA also the most that torch had taken of the
device). The commands take turns with what they are measured against, so each pair gives a ratio: `kd --help` and `kd plugins` with
`import torch, timm`; `kd train` on digits up to its first real step with the import of torchdistill, and with the same step written by hand. Then the
memory of distillation, again with the step written by hand, in the same precision.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import arguments, rank_interval, ratio_of, row, write

TO_FIRST_STEP = """
import os, sys
import kdcore.phase_run as room
whole = room.train_epoch
def one_step(task, *args, **kwargs):
    task.remembers, task.after_step = lambda: True, lambda updated: os._exit(0)
    return whole(task, *args, **kwargs)
room.train_epoch = one_step
from kdcli.main import kd
kd.main(sys.argv[1:], prog_name="kd", standalone_mode=False)
sys.exit("no step was taken")
"""
"""`kd train`, stopped by its first real step: the estimate before it takes steps of its own, through another door."""

BY_HAND = """
import sys, timm, torch
from sklearn.datasets import load_digits
images, labels = load_digits(return_X_y=True)
images = torch.from_numpy(images).float().view(-1, 1, 8, 8)[:64].to(sys.argv[1])
net = timm.create_model("test_resnet", in_chans=1, num_classes=10).to(sys.argv[1])
optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
torch.nn.functional.cross_entropy(net(images), torch.from_numpy(labels)[:64].to(sys.argv[1])).backward()
optimizer.step()
"""

IMPORTS = "import torch, timm"
TORCHDISTILL = "import torchdistill.core.distillation, torchdistill.core.training"


@dataclass
class Turn:
    """What one process took. seconds: wall time; megabytes: the most that was resident."""

    seconds: float
    megabytes: float
    said: str = ""


def process(words: list[str]) -> Turn:
    """Runs a command to its end. Raises RuntimeError with the end of what it said where it fails.

    Linux counts what this process holds when it starts another as if the other had held it: so nothing heavy is imported here.
    """
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryFile() as output:
        begin = time.perf_counter()
        child = subprocess.Popen(words, stdout=output, stderr=subprocess.STDOUT, env=environment)
        _, status, usage = os.wait4(child.pid, 0)
        took = time.perf_counter() - begin
        child.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        said = output.read().decode(errors="replace")
    if child.returncode:
        raise RuntimeError(f"{' '.join(words)[:200]} failed: {said[-500:]}")
    return Turn(took, usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10), said)


def in_turns(commands: dict[str, list[str]], pairs: int) -> dict[str, list[Turn]]:
    """Every command `pairs` times, in turns, after one that does not count (none where there is one pair: that only tries it)."""
    for words in commands.values() if pairs > 1 else ():
        process(words)
    took: dict[str, list[Turn]] = {name: [] for name in commands}
    for number in range(pairs):
        names = list(commands)
        for name in names if number % 2 == 0 else reversed(names):
            took[name].append(process(commands[name]))
    return took


def rows_of(took: dict[str, list[Turn]], against: dict[str, list[str]]) -> list[dict[str, Any]]:
    """Seconds and megabytes of each, and of some their ratio to others. against: those that each is divided by."""
    rows = []
    for name, turns in took.items():
        for quantity, unit in (("seconds", "s"), ("megabytes", "MB")):
            values = sorted(getattr(turn, quantity) for turn in turns)
            rows.append(row(f"{quantity}/{name}", unit, values[len(values) // 2], *rank_interval(values), len(values)))
        print(f"{name:42} {rows[-2]['median']:7.2f} s {rows[-1]['median']:7.0f} MB", flush=True)
    for name, others in against.items():
        for other in (other for other in others if other in took):
            for quantity in ("seconds", "megabytes"):
                mine, its = ([getattr(turn, quantity) for turn in took[key]] for key in (name, other))
                found = ratio_of(its, mine)
                rows.append(
                    row(f"{quantity}-ratio/{name}/{other}", "ratio", found.median, found.low, found.high, found.pairs, against=other)
                )
                print(f"{name:42} {quantity} {found} times those of {other}", flush=True)
    return rows


def commands(folder: Path, device: str) -> dict[str, list[str]]:
    run = [sys.executable, "-c", TO_FIRST_STEP, "train", "test_resnet", "--data", "digits", "--method", "plain", "--device", device]
    found = {
        "kd --help": [sys.executable, "-m", "kdcli", "--help"],
        "kd plugins": [sys.executable, "-m", "kdcli", "plugins"],
        "import torch, timm": [sys.executable, "-c", IMPORTS],
        "import torchdistill": [sys.executable, "-c", TORCHDISTILL],
        "one step by hand": [sys.executable, "-c", BY_HAND, device],
        "kd train, to the first step": ["sh", "-c", f'd=$(mktemp -d -p {folder}) && exec "$@" --run "$d/run"', "sh", *run],
    }
    if subprocess.run(found["import torchdistill"], capture_output=True, check=False).returncode:
        print("torchdistill is not here: its rows are left out (pip install torchdistill)", flush=True)
        del found["import torchdistill"]
    return found


# -- memory of a distillation step ----------------------------------------------------------------------------------------------


def distil(who: str, student: str, teacher: str, precision: str, device: str, folder: Path) -> None:
    """Three steps of distillation, in this process, by kdcore or by hand; or (`prepare`) the data and the teacher that both need."""
    import numpy as np
    import torch
    from loops import Setting, of_kdcore, of_timm_tuned, random_images, train_teacher

    torch.set_num_threads(1)
    if who == "prepare":
        train_teacher(teacher, random_images(folder, 2_000), folder, device)
        return
    data = folder / "random.npz"
    with np.load(data) as arrays:
        images, labels = arrays["train_images"], arrays["train_labels"].ravel().astype(np.int64)
    setting = Setting(student, folder / "teacher", data, images, labels, Path(tempfile.mkdtemp(dir=folder)), 128, 0, device)
    if who == "kdcore":
        loop = of_kdcore(setting, amp="bfloat16" if precision == "bfloat16" else "none", channels_last=True)
    else:
        loop = of_timm_tuned(setting, half=precision == "bfloat16")
    loop.steps(3)
    if device.startswith("cuda"):
        print(json.dumps({"device_megabytes": torch.cuda.max_memory_allocated(device) / 2**20}))


def memory(args: Any, folder: Path, pairs: int) -> list[dict[str, Any]]:
    """Most memory of a process that distils, kdcore's over that of the loop by hand, in each precision."""
    networks = ["--folder", str(folder), "--student", args.student, "--teacher", args.teacher, "--device", args.device]
    process([sys.executable, __file__, "--distil", "prepare", *networks])
    rows = []
    for precision in ("float32", "bfloat16")[: 1 if args.quick else 2]:
        shared = ["--precision", precision, *networks]
        words = {who: [sys.executable, __file__, "--distil", who, *shared] for who in ("kdcore", "by hand")}
        took = in_turns(words, pairs)
        kinds = [("megabytes", [[turn.megabytes for turn in took[who]] for who in words])]
        if args.device.startswith("cuda"):
            told = [[json.loads(turn.said.splitlines()[-1])["device_megabytes"] for turn in took[who]] for who in words]
            kinds.append(("device megabytes", told))
        for quantity, (ours, theirs) in kinds:
            found = ratio_of(theirs, ours)
            about = {
                "against": "timm tuned by hand",
                "student": args.student,
                "teacher": args.teacher,
                "megabytes": found.b,
                "by_hand": found.a,
            }
            rows.append(row(f"memory/kd/{quantity}/{precision}", "ratio", found.median, found.low, found.high, found.pairs, **about))
            print(f"kd in {precision}: {found.b:.0f} {quantity}, by hand {found.a:.0f}: {found}", flush=True)
    return rows


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--student", help="of the memory: default cifar/resnet20; test_resnet_32px with --quick")
    parser.add_argument("--teacher", help="default: cifar/resnet56; test_resnet_32px with --quick")
    parser.add_argument("--distil", choices=["prepare", "kdcore", "by hand"], help="be one of the processes whose memory is measured")
    parser.add_argument("--precision", default="float32", help="of --distil")
    parser.add_argument("--folder", type=Path, help="of --distil: where the data and the teacher are")
    args = parser.parse_args()
    small = "test_resnet_32px" if args.quick else None
    args.student, args.teacher = args.student or small or "cifar/resnet20", args.teacher or small or "cifar/resnet56"
    if args.distil:
        return distil(args.distil, args.student, args.teacher, args.precision, args.device, args.folder)
    # A process takes seconds, and its memory hardly scatters: fewer turns say the same of it.
    pairs, few = (1, 1) if args.quick else (args.pairs, 5)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        imports = ["import torch, timm"]
        against = {"kd --help": imports, "kd plugins": imports, "kd train, to the first step": ["one step by hand", "import torchdistill"]}
        rows = rows_of(in_turns(commands(folder, args.device), pairs), against) + memory(args, folder, few)
    write(args.json, rows, args.device)


if __name__ == "__main__":
    main()

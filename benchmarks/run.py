"""Runs every benchmark, each in a process of its own, and renders the page from what they wrote.

    python benchmarks/run.py [--quick] [--into build/bench] [--only step,startup] [--device cpu] [--no-page]

`make bench` is `--quick`, about five minutes, whose numbers prove no more than that all of it runs; `make bench-full` measures, in 25 to 30 minutes
on two cores, which should have nothing else to do. A script that fails leaves its reason in place of its rows, and is published so.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent

SCRIPTS = {"step": ["--real"], "exits": [], "precision": [], "augmentation": [], "throughput": [], "startup": []}
"""The scripts in the order of the page, and what they are given but for --quick."""

MINUTES = {"quick": 5.0, "full": 15.0}
"""After which a script is stopped: the quick ones take one, where nothing else runs."""


def run(name: str, into: Path, *, quick: bool, device: str, more: list[str] | None = None, limit: float | None = None) -> str | None:
    """Runs one script, whose JSON is then at `into`/name.json and what it said at name.log. Returns why it failed, if it did."""
    target, log = into / f"{name}.json", into / f"{name}.log"
    target.unlink(missing_ok=True)
    words = ["benchmarks/" + f"{name}.py", *(["--quick"] if quick else SCRIPTS.get(name, [])), "--device", device, *(more or [])]
    limit = limit or 60 * MINUTES["quick" if quick else "full"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    why = None
    with log.open("w") as output:
        try:
            done = subprocess.run(
                [sys.executable, *words, "--json", str(target.resolve())],
                cwd=HERE.parent,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=limit,
                check=False,
                env=environment,
            )
            if done.returncode or not target.exists():
                why = f"it ended with {done.returncode}"
        except subprocess.TimeoutExpired:
            why = f"it took more than {limit / 60:g} minutes"
    if why:
        said = [line for line in log.read_text().splitlines() if line.strip()]
        why += f": {said[-1][:300]}" if said else ""
        failed = {"failed": why, "command": shlex.join(["python", *words]), "date": time.strftime("%Y-%m-%d"), "quick": quick}
        target.write_text(json.dumps(failed, indent=2) + "\n")
    return why


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--into", type=Path, default=Path("build/bench"), help="folder of the JSON files")
    parser.add_argument("--only", help="names of scripts, separated by commas")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--no-page", action="store_true", help="do not render docs/performance.md")
    args = parser.parse_args()
    names = args.only.split(",") if args.only else list(SCRIPTS)
    args.into.mkdir(parents=True, exist_ok=True)
    failed = False
    for name in names:
        begin = time.perf_counter()
        print(f"{name} ...", end=" ", flush=True)
        why = run(name, args.into, quick=args.quick, device=args.device)
        failed |= why is not None
        print(f"{time.perf_counter() - begin:.0f} s" + (f", FAILED: {why} (see {args.into / name}.log)" if why else ""), flush=True)
    if not args.no_page:
        # A quick run proves that everything runs; its numbers are no measurements, so its page goes beside them and not into docs/.
        page = args.into / "performance.md" if args.quick else HERE.parent / "docs/performance.md"
        subprocess.run([sys.executable, str(HERE / "report.py"), str(args.into), "--page", str(page)], check=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()

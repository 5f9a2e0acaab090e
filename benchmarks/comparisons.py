"""What the scripts of comparisons share: they are `kd compare` with settings that are written down."""

import argparse
import shlex
import subprocess
import sys
from pathlib import Path


def compare(arguments: str, *, description: str, folder: str, part: str = "", argv: list[str] | None = None) -> int:
    """Runs `kd compare` on the data that the command line names; further words of it are flags of `kd compare`, which override `arguments`.

    part: the comparison's own folder within the one that the command line names, where a script has several.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("data", help="an .npz with the MedMNIST keys ({train,test}_{images,labels})")
    parser.add_argument("--dir", default=folder, help=f"the comparison's folder; one that is there goes on  [{folder}]")
    own, more = parser.parse_known_args(argv)
    return kd("compare", "--data", own.data, *shlex.split(arguments), "--dir", str(Path(own.dir) / part), *more)


def kd(*words: str) -> int:
    """Runs and shows one command; returns its exit status."""
    print("kd " + shlex.join(words), flush=True)
    return subprocess.call([sys.executable, "-m", "kdcli", *words])


def train(run: Path, *words: str) -> None:
    """`kd train` with these words, unless the run is finished; one that was stopped goes on. Ends the script where it fails."""
    if (run / "results.json").exists():
        return
    begun = (run / "config.toml").exists()
    if failed := kd("train", *(("--resume",) if begun else words), "--run", str(run)):
        sys.exit(failed)


def of_training(words: list[str]) -> list[str]:
    """The words without the flags, and their values, that `kd compare` alone takes."""
    found = list(words)
    for flag in ("--seeds", "--jobs", "--threads"):
        if flag in found:
            del found[found.index(flag) : found.index(flag) + 2]
    return found

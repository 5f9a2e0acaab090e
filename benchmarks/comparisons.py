"""What the scripts of comparisons share: they are `kd compare` with settings that are written down."""

import argparse
import shlex
import subprocess
import sys


def compare(arguments: str, *, description: str, folder: str, argv: list[str] | None = None) -> int:
    """Runs `kd compare` on the data that the command line names; further words of it are flags of `kd compare`, which override `arguments`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("data", help="an .npz with the MedMNIST keys ({train,test}_{images,labels})")
    parser.add_argument("--dir", default=folder, help=f"the comparison's folder; one that is there goes on  [{folder}]")
    own, more = parser.parse_known_args(argv)
    command = ["compare", "--data", own.data, *shlex.split(arguments), "--dir", own.dir, *more]
    print("kd " + shlex.join(command), flush=True)
    return subprocess.call([sys.executable, "-m", "kdcli", *command])

"""Says in one line what a machine lacks for the benchmarks, and ends with 1; says nothing where it has all.

python benchmarks/gpu_needs.py [cuda]
"""

import sys
import tomllib
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path

ROOT = Path(__file__).parents[1]
BRING = "bring their wheels: `benchmarks/gpu.sh wheels` where there is a network makes build/wheels, to be carried along"


def missing() -> list[str]:
    """The requirements of kdcore and its command that are not met here, as their authors write them, and the plugins that are not installed."""
    from packaging.requirements import Requirement
    from packaging.version import Version

    wanted, own = [], set()
    for folder in (ROOT, ROOT / "cli", ROOT / "plugins/byot", ROOT / "plugins/cifar"):
        if (folder / "pyproject.toml").exists():
            project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
            own.add(project["name"])
            wanted += [Requirement(line) for line in project.get("dependencies", [])]
    lacking = set()
    for need in wanted:
        if need.name in own or (need.marker and not need.marker.evaluate()):
            continue
        try:
            if not need.specifier.contains(Version(version(need.name)), prereleases=True):
                lacking.add(f"{need} (here is {version(need.name)})")
        except PackageNotFoundError:
            lacking.add(str(need))
    there = {point.name for point in entry_points(group="kdcore")}
    lacking |= {f"kdcore's plugin {name}" for name in ("byot", "cifar") if name not in there}
    return sorted(lacking)


def main() -> None:
    try:
        lacking = missing()
    except ImportError as error:
        sys.exit(f"missing: {error.name}; {BRING}")
    if lacking:
        sys.exit(f"missing: {', '.join(lacking)}; {BRING}")
    if "cuda" in sys.argv[1:]:
        import torch

        if not torch.cuda.is_available():
            sys.exit(f"missing: a GPU that torch {torch.__version__} can use; DEVICE=cpu tries everything on the CPU")


if __name__ == "__main__":
    main()

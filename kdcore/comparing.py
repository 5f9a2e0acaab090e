"""Runs beside each other: what each came to, in a row, and what differs between them. Imports no torch."""

from collections.abc import Mapping
from typing import Any


def best_exit(results: Mapping[str, Any]) -> int:
    """The exit with the highest top-1 on dev at the delivered checkpoint, from 1; of equals the shallowest, which is the cheapest.

    Without a dev split it is the deepest exit of the test report: the test set selects nothing. -1, the deepest, where there is neither.
    """
    delivered = results["best"]
    if "dev" in delivered:
        return max(delivered["dev"]["exits"], key=lambda entry: (entry["top1"], -entry["exit"]))["exit"]
    return delivered["test"]["exits"][-1]["exit"] if "test" in delivered else -1

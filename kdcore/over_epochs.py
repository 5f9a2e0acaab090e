"""The highest test top-1 over the epochs of a phase, of `--test-every-epoch`. Imports no torch.

It is chosen on the test set, and so optimistic: it stands beside the last epoch and the best on dev because papers report it, and selects nothing.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

LABEL = "highest over the epochs on the test set itself: optimistic, reported only because papers report it"


def over_epochs(records: Iterable[Mapping[str, Any]], checkpoint: str) -> dict[str, Any] | None:
    """Of the phase that made `checkpoint`: top-1 in percent and its epoch (of equals the first), for each exit and the mean of the logits.

    records: lines of metrics.jsonl. None where the test split was not evaluated after every epoch of that phase.
    """
    number = int(PurePosixPath(checkpoint).parent.name.partition("-")[0])
    own = [record for record in records if record["phase_number"] == number]
    if not own or not all(record.get("test") for record in own):
        return None
    best: dict[str, dict[str, Any]] = {}
    for record in own:
        for name, value in record["test"].items():
            who, _, metric = name.partition("/")
            if metric == "top1" and (who not in best or value > best[who]["top1"]):
                best[who] = {"top1": value, "epoch": record["epoch"]}
    exits = sorted((int(found[1]), who) for who in best if (found := re.fullmatch(r"exit(\d+)", who)))
    ensembles = {"mean_logits": best["ensemble"]} if "ensemble" in best else {}
    return {"label": LABEL, "epochs": len(own), "exits": [{"exit": k, **best[who]} for k, who in exits], "ensembles": ensembles}

"""`kd runs --compare`: finished runs side by side, those that differ in the seed alone as one group. Imports no torch."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdcore.comparison.measures import CHOSEN, delivered, read_measures
from kdcore.comparison.settings import DECIDED, MEASURED, compared_settings, finished
from kdcore.comparison.statistics import spread
from kdcore.runs import Run


def compare(paths: Sequence[Path]) -> dict[str, Any]:
    """Gives {"groups": [{"runs", "seeds"}], "options": {name: value of each group}, "metrics": {row: [{"mean", "deviation", "n"} or None]}}.

    metrics: top-1 in percent of the delivered checkpoint by split and exit, and the minutes. Raises KdError or FileError.
    """
    groups: dict[str, dict[str, Any]] = {}
    for path in paths:
        run = Run.open(path)
        results = finished(run)
        config = compared_settings(run)
        seed, pixels = config["seed"], {name: config.get(name) for name in MEASURED}
        key = repr(sorted((name, repr(value)) for name, value in config.items() if name not in ("seed", *DECIDED, *MEASURED)))
        while key in groups and groups[key]["pixels"].get(seed, pixels) != pixels:
            key += repr(pixels)  # one seed draws the same images: this mean was typed, not measured
        group = groups.setdefault(key, {"runs": [], "seeds": [], "config": config, "values": [], "pixels": {}})
        group["runs"].append(str(path))
        group["seeds"].append(seed)
        group["pixels"][seed] = pixels
        group["values"].append(numbers(results, run.path))
    found = list(groups.values())
    names = sorted({name for group in found for name in group["config"] if name not in ("seed", *DECIDED)})
    options = {name: [group["config"].get(name) for group in found] for name in names if name not in MEASURED or _typed(found, name)}
    rows = list(dict.fromkeys(row for group in found for values in group["values"] for row in values))
    return {
        "groups": [{"runs": group["runs"], "seeds": group["seeds"]} for group in found],
        "options": {name: values for name, values in options.items() if any(value != values[0] for value in values)},
        "metrics": {row: [_spread([v[row] for v in group["values"] if row in v]) for group in found] for row in rows},
    }


def numbers(results: Mapping[str, Any], path: Path) -> dict[str, float]:
    """Of a finished run: top-1 of the delivered checkpoint by split, exit and ensemble, and the minutes."""
    found: dict[str, float] = {}
    for measure, value in read_measures(results, path).items():
        if (measure.checkpoint, measure.metric) == (delivered(results), "top1"):
            if measure.what == "exit":
                found[f"{measure.split} exit {measure.exit}"] = value
            elif measure.what == "ensemble":
                found[f"{measure.split} ensemble, {measure.exit.replace('_', ' ')}"] = value
            elif measure.what == CHOSEN and measure.split == "test":
                found[f"test, {CHOSEN}"] = value
    return {**found, "minutes": results["minutes"]} if "minutes" in results else found


def _typed(groups: Sequence[Mapping[str, Any]], name: str) -> bool:
    """Whether some seed has two values of what is otherwise measured on the images that it draws."""
    pairs = {(seed, repr(pixels[name])) for group in groups for seed, pixels in group["pixels"].items()}
    return len(pairs) > len({seed for seed, _ in pairs})


def _spread(values: Sequence[float]) -> dict[str, Any] | None:
    found = spread(values)
    return dataclasses.asdict(found) if found else None

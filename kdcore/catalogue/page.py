"""`docs/backbones.md`: the survey by family, for people."""

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

from kdcore.catalogue.facts import Facts, is_flat

TITLE = "# Every timm backbone"
HEADINGS = (
    "family",
    "models",
    "with weights",
    "parameters (M)",
    "smallest",
    "image",
    "shape",
    "default taps of the smallest: channels, reduction",
)


def rendered(facts: Sequence[Facts]) -> str:
    """The page. facts: of all architectures of one timm. It holds no time and no machine, so that the same timm gives the same page."""
    version = facts[0]["timm"]
    attached = [one for one in facts if not one["refused"] and not one["failed"]]
    families = [(family, list(ones)) for family, ones in groupby(facts, key=lambda one: one["family"])]
    flat = sum(map(is_flat, attached))
    refused = [one for one in facts if one["refused"]]
    classifying = len(facts) - sum("does not classify" in one["refused"] for one in refused)
    failed = [one for one in facts if one["failed"]]
    return f"""{TITLE}

Written by `python -m kdcore.catalogue --page docs/backbones.md` on the meta device, and checked by `tests/test_backbones.py`. Not to be edited.

timm {version} has {len(facts)} architectures in {len(families)} families. **{len(attached)} of {classifying} that classify take exits**: linear exits
at the default taps, one forward pass, logits, embeddings and maps of the shapes that attaching found. {len(refused)} are refused by name (below).
{len(attached) - flat} are pyramids (taps at several reductions), {flat} are flat (taps at quarters of the depth, all at one reduction).
`kd models` lists all names, and `kd models 'resnet*' --img-size 96` measures those that a pattern finds.

The smallest of a family is the one with the fewest parameters, at the image size it was made for. Its taps stand as module (channels, image side
divided by the map's). The last tap carries the backbone's own head as the last exit; each of the others gets an exit.

{table(HEADINGS, (row(family, ones) for family, ones in families))}
## Refused

{reasons(refused, "refused")}{f"## Failed{chr(10) * 2}{reasons(failed, 'failed')}" if failed else ""}"""


def reasons(facts: Iterable[Facts], which: str) -> str:
    return table(("architecture", "reason"), ((f"`{one['name']}`", one[which]) for one in facts))


def row(family: str, ones: Sequence[Facts]) -> tuple[Any, ...]:
    """One family: counts, the range of sizes, and the smallest model as its example."""
    attached = sorted((one for one in ones if "taps" in one), key=lambda one: (one["parameters"], one["name"]))
    weights = sum(one.get("pretrained", False) for one in ones)
    if not attached:
        return (family, len(ones), weights, "", "none takes exits", "", "", "")
    smallest, largest = attached[0], attached[-1]
    kinds = " and ".join(sorted({"flat" if is_flat(one) else "pyramid" for one in attached}, reverse=True))
    sizes = dict.fromkeys(f"{one['parameters'] / 1e6:.3g}" for one in (smallest, largest))
    height, width = smallest["image_size"]
    return (
        family,
        len(ones),
        weights,
        " to ".join(sizes),
        f"`{smallest['name']}`",
        height if height == width else f"{height} x {width}",
        kinds,
        ", ".join(f"{tap['module']} ({tap['channels']}, {tap['reduction']:.3g})" for tap in smallest["taps"]),
    )


def table(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)

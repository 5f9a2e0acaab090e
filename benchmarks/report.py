"""Renders docs/performance.md from the JSON files of a folder.

    python benchmarks/report.py build/bench [--page docs/performance.md] [--part cpu]

What stands between `<!-- begin cpu -->` and `<!-- end cpu -->` is generated; all else on the page is written by hand, and stays. --part gpu renders
the results of a GPU machine (`benchmarks/gpu.sh`) into their own place. Rows that miss their target, and scripts that failed, are published as they are.
"""

import argparse
import json
import re
from pathlib import Path
from typing import Any

TITLES = {
    "step": "Host overhead of a step",
    "exits": "Cost of exits and of each term",
    "precision": "Automatic precision",
    "augmentation": "Augmentation",
    "throughput": "Whole training, data included",
    "startup": "Start-up and memory",
    "check": "The GPU path",
    "graph": "One graph of the whole step",
    "roofline": "Share of the roofline",
    "byot": "BYOT on CIFAR-100",
}
"""Of the files by name; others come after these, under their names."""

PAGE = """# Performance

<!-- begin cpu -->
<!-- end cpu -->

<!-- begin gpu -->
<!-- end gpu -->
"""
"""Of which a page that is not there yet is made."""


def read(folder: Path) -> dict[str, Any]:
    """What each JSON file holds, by its name: rows, or why there are none. Files of other kinds are passed over."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        content = json.loads(path.read_text())
        if (isinstance(content, list) and all("median" in item for item in content)) or "failed" in content:
            found[path.stem] = content
    order = list(TITLES)
    return dict(sorted(found.items(), key=lambda item: (order.index(item[0]) if item[0] in order else len(order), item[0])))


def number(value: float, unit: str) -> str:
    """Three decimals for ratios and shares, else as many digits as say something."""
    if unit in ("ratio", "share") or unit.startswith("times"):
        return f"{value:.3f}"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value else "0"


def cells(item: dict[str, Any]) -> str:
    """One line of a table."""
    unit = item["unit"]
    if unit == "bool":
        measured, unit = "yes" if item["median"] else "**no**", ""
    else:
        measured = number(item["median"], unit)
        if (item["low"], item["high"]) != (item["median"],) * 2:
            measured += f" [{number(item['low'], unit)}, {number(item['high'], unit)}]"
    met = {True: "yes", False: "**no**", None: ""}[item.get("met")]
    against = item.get("against", "")
    return f"| {item['name']} | {measured} | {unit} | {against} | {item['pairs']} | {item.get('target', '')} | {met} |"


def table(rows: list[dict[str, Any]]) -> str:
    head = "| what | median [interval] | unit | against | pairs | target | met |\n|---|---|---|---|---|---|---|"
    return "\n".join([head, *map(cells, rows)])


def where(item: dict[str, Any]) -> str:
    """The machine, the versions and the command of a row."""
    told = item.get("machine", {})
    what = told.get("gpu") or told.get("cpu", "an unknown machine")
    versions = {"torch": told.get("torch"), "timm": told.get("timm"), **item.get("versions", {})}
    named = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    threads = f"{told.get('threads')} of {told.get('cores')} cores"
    return f"`python benchmarks/{item.get('command', '').strip()}` on {what}, {threads}, {named}, {item.get('date', '')}."


def is_quick(content: Any) -> bool:
    if isinstance(content, dict):
        return bool(content.get("quick"))
    return any("--quick" in item.get("command", "") for item in content)


def section(name: str, content: Any) -> str:
    title = f"### {TITLES.get(name, name)}"
    if isinstance(content, dict):
        return f"{title}\n\n**Failed**: {content['failed']}\n\n`{content.get('command', '')}`, {content.get('date', '')}."
    if not content:
        return f"{title}\n\nNo rows."
    settings = {key: content[0][key] for key in ("student", "teacher", "batch_size", "workers") if content[0].get(key) is not None}
    told = "".join(f" {key.replace('_', ' ').capitalize()}: {value}." for key, value in settings.items())
    return f"{title}\n\n{where(content[0])}{told}\n\n{table(content)}"


def targets(found: dict[str, Any]) -> str:
    """Every row that has a target, in one table, before all others."""
    rows = [item for content in found.values() if isinstance(content, list) for item in content if item.get("target")]
    failed = [name for name, content in found.items() if isinstance(content, dict)]
    missed = [item for item in rows if item.get("met") is False]
    summary = f"{len(rows) - len(missed)} of {len(rows)} targets are met."
    if failed:
        summary += f" Failed, and so without numbers: {', '.join(failed)}."
    return f"{summary}\n\n{table(missed)}" if missed else summary


def render(found: dict[str, Any]) -> str:
    if not found:
        return "Not measured."
    parts = [targets(found), *(section(name, content) for name, content in found.items())]
    if any(map(is_quick, found.values())):
        parts.insert(0, "**Quick runs**: they prove that everything runs, and measure nothing.")
    return "\n\n".join(parts)


def place(page: str, part: str, text: str) -> str:
    """The page with `text` between the part's markers. Raises SystemExit where it has none."""
    marked = re.compile(rf"(<!-- begin {part} -->\n).*?(<!-- end {part} -->)", re.DOTALL)
    if not marked.search(page):
        raise SystemExit(f"the page has no place for {part}: write <!-- begin {part} --> and <!-- end {part} --> on lines of their own")
    return marked.sub(lambda found: found[1] + text + "\n" + found[2], page)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--page", type=Path, default=Path(__file__).parents[1] / "docs/performance.md")
    parser.add_argument("--part", default="cpu", choices=["cpu", "gpu"])
    args = parser.parse_args()
    page = args.page.read_text() if args.page.exists() else PAGE
    args.page.write_text(place(page, args.part, render(read(args.folder))))
    print(f"written to {args.page}")


if __name__ == "__main__":
    main()

"""The page: text, tables, pictures and thumbnails in one HTML file that loads nothing from anywhere."""

import json
from collections.abc import Callable, Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from kdcore.report.analyses import footing
from kdcore.report.cells import printable, written
from kdcore.report.facts import Facts
from kdcore.report.text import headline, legend, paragraphs, repeat
from kdcore.report.thumbnails import key

ROWS = 30  # of a table; the others are folded away
BLOCK = "kd-report"
FIGURES = {
    "cost": "Accuracy against cost. Each point is an exit, deployed alone; the ring is round the exit that the sections below are about.",
    "dev": "Dev top-1 of each exit after every epoch; dashed: the mean of the exits' logits.",
    "terms": "Mean training loss of every epoch by term, before its weight; dashed: the whole loss.",
    "calibration": "Accuracy over confidence, on {shown}; on the dotted line an exit is as sure as it is right. Bars: the share of the images.",
    "confusion": "Confusion of exit {exit} on {shown}: rows are the true classes; numbers are images, colours percent of the row. Of many classes, those that are confused most.",
}


def page(facts: Facts, document: Mapping[str, Any], pictures: Mapping[str, str], thumbs: Mapping[str, str], problem: str | None) -> str:
    """pictures: `<svg>` (of analyses `<img>`) by name. thumbs: data URLs by `key`. problem: why there are no thumbnails, or not all."""
    title = headline(facts)
    style = files("kdcore.report").joinpath("report.css").read_text(encoding="utf-8")
    body = [
        f"<h1>{escape(title)}</h1>",
        *(f"<p>{escape(text)}</p>" for text in paragraphs(facts, document)),
        *sections(facts, document, pictures, thumbs, problem),
    ]
    data = json.dumps(document, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return printable(
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + f'\n<script type="application/json" id="{BLOCK}">{data}</script>\n</body>\n</html>\n'
    )


def sections(
    facts: Facts, document: Mapping[str, Any], pictures: Mapping[str, str], thumbs: Mapping[str, str], problem: str | None
) -> list[str]:
    tables = document["tables"]

    def put(*names: str) -> list[str]:
        found = [table(name, tables[name], own=document.get("exit")) for name in names if name in tables]
        return found + [figure(name, pictures[name], document) for name in names if name in FIGURES and name in pictures]

    exits = put("exits", "metrics", "exits-last", "cost")
    parts = {
        "Exits and ensembles": [*exits, f'<p class="soft">{escape(legend(facts))}</p>'] if exits else [],
        "Training": put("lineage", "dev", "terms"),
        "Calibration": put("calibration"),
        "Classes": put("confusion", "confused", "recall"),
        "The surest mistakes": gallery(document, "mistakes", thumbs, problem),
        "Where the exits disagree": gallery(document, "disagreements", thumbs, problem),
        "Analyses": analyses(document, pictures, put),
        "Data": data_section(facts, put("data")),
        "Settings": put("settings", "versions"),
        "Again": again(facts),
    }
    found = [line for heading, lines in parts.items() if lines for line in (f"<h2>{escape(heading)}</h2>", *lines)]
    if facts.results is not None and facts.stored is None:
        text = "This run has no stored predictions (it was made before kd wrote them): calibration, single images and --check's tables are missing."
        found.insert(0, note(text))
    return found


def table(name: str, one: Mapping[str, Any], *, own: int | None = None) -> str:
    """A table that scrolls sideways on a phone; rows beyond the first are folded away."""
    kinds = one["kinds"]
    head = "".join(f'<th class="{kind}">{escape(title)}</th>' for title, kind in zip(one["headings"], kinds, strict=True))
    long = name == "settings"

    def row(cells: Sequence[Any]) -> str:
        marked = ' class="own"' if name == "exits" and cells[0] == f"exit {own}" else ""
        return (
            f"<tr{marked}>"
            + "".join(
                f'<td class="{kind}{" long" if long else ""}">{escape(written(cell, kind))}</td>'
                for cell, kind in zip(cells, kinds, strict=True)
            )
            + "</tr>"
        )

    def whole(rows: Sequence[Sequence[Any]], part: str, caption: str) -> str:
        return (
            f'<div class="scroll"><table data-table="{escape(name)}" data-part="{part}"><caption>{escape(caption)}</caption>'
            f"<thead><tr>{head}</tr></thead><tbody>\n" + "\n".join(map(row, rows)) + "\n</tbody></table></div>"
        )

    rows = one["rows"]
    shown = whole(rows[:ROWS], "1", one["title"])
    if len(rows) <= ROWS:
        return shown
    rest = len(rows) - ROWS
    return f"{shown}<details><summary>{rest} more rows</summary>{whole(rows[ROWS:], '2', one['title'] + ', the rest')}</details>"


def figure(name: str, picture: str, document: Mapping[str, Any]) -> str:
    caption = FIGURES[name].format(exit=document.get("exit"), shown=document.get("shown"))
    return f'<figure id="{name}">{picture}<figcaption>{escape(caption)}</figcaption></figure>'


def analyses(document: Mapping[str, Any], pictures: Mapping[str, str], put: Callable[..., list[str]]) -> list[str]:
    """What `kd analyze` found out about the run: of each analysis what it says, its pictures and tables, and where its files lie."""
    lines = []
    for place, one in document.get("analyses", {}).items():
        lines += [f"<h3>{escape(place.rpartition('/')[2])}</h3>", *(f"<p>{escape(text)}</p>" for text in one["text"])]
        shown = [pictures[key] for key in (f"{place}/{name}" for name in one["pictures"]) if key in pictures]
        lines += [f"<figure>{picture}</figure>" for picture in shown] + put(*one["tables"])
        lines.append(f'<p class="soft">{escape(footing(place, one))}</p>')
    return lines


def gallery(document: Mapping[str, Any], name: str, thumbs: Mapping[str, str], problem: str | None) -> list[str]:
    found = document.get(name)
    if found is None:
        return []
    exit, shown, entries = document["exit"], document["shown"], found["images"]
    if not entries:
        text = f"Exit {exit} makes no mistake on {shown}." if name == "mistakes" else f"All exits say the same on {shown}."
        return [f"<p>{escape(text)}</p>"]
    if name == "mistakes":
        text = f"{found['of']} {shown} images are wrong at exit {exit}; these are the ones it is most confident of."
    else:
        text = f"On {found['of']} {shown} images the exits do not all say the same; the most different answers first."
    lines = [f"<p>{escape(text)}</p>"] + ([note(problem)] if problem else [])
    return [*lines, '<div class="gallery">', *(card(entry, thumbs.get(key(entry))) for entry in entries), "</div>"]


def card(entry: Mapping[str, Any], thumb: str | None) -> str:
    picture = f'<img src="{thumb}" alt="{escape(entry["name"])}" loading="lazy">' if thumb else ""
    answers = "".join(
        f'<li class="{"right" if one["right"] else "wrong"}">exit {one["exit"]}: {escape(one["class"])} {one["confidence"]:.0f} %</li>'
        for one in entry["answers"]
    )
    return f'<div class="card">{picture}<div>{escape(entry["name"])}</div><div>is <b>{escape(entry["truth"])}</b></div><ul>{answers}</ul></div>'


def data_section(facts: Facts, shown: list[str]) -> list[str]:
    lines = [f"<p>{escape(str(facts.config.get('data')))}</p>", *shown]
    results = facts.results or {}
    bad = results.get("bad_images", 0)
    if bad:
        lines.append(f"<p>{bad} images could not be read and were left out.</p>")
    if results.get("notes"):
        lines.append("<ul>" + "".join(f"<li>{escape(text)}</li>" for text in results["notes"]) + "</ul>")
    return lines


def again(facts: Facts) -> list[str]:
    lines = [f"<p>{escape(about)}</p><pre><code>{escape(command)}</code></pre>" for about, command in repeat(facts)]
    return lines


def note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'

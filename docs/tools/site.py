"""mkdocs hooks: pages that lie outside of docs/ (the README as the first page, the plugins' READMEs), and links as the site has them.

Every page is written to be read in the repository; here a relative link is found there, and pointed at what became of its file.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
OUTSIDE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "cli/README.md": "plugins/kd.md",
    **{
        path.relative_to(ROOT).as_posix(): f"plugins/{path.parent.name.removeprefix('kdcore-')}.md"
        for folder in ("plugins/*", "examples/kdcore-*")
        for path in sorted(ROOT.glob(f"{folder}/README.md"))
    },
}
"""Pages of the repository outside of docs/, and where the site has them."""

LINK = re.compile(r"(\]\()(?!https?:|#)([^)#\s]+)(#[^)\s]+)?\)")
TITLE = re.compile(r"^```(\w+) title=(\S+)$", re.MULTILINE)


def on_config(config: Any) -> Any:
    """Puts a page for each plugin, and that of `kd`, under their directory in the navigation."""
    for section in config.nav:
        for entries in section.values():
            for entry in entries if isinstance(entries, list) else ():
                if isinstance(entry, dict) and entry.get("Plugins") == "plugins.md":
                    entry["Plugins"] = ["plugins.md", *(page for page in OUTSIDE.values() if page.startswith("plugins/"))]
    return config


def on_files(files: Files, *, config: Any) -> Files:
    """Adds the pages from outside, and the files that some page links to."""
    for place, page in OUTSIDE.items():
        file = File.generated(config, page, content=(ROOT / place).read_text(encoding="utf-8"))
        files.append(file)
    for place in sorted(linked_files()):
        files.append(File.generated(config, f"files/{place}.txt", abs_src_path=str(ROOT / place)))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Files) -> str:
    """Links as the site has them, and titles of code blocks as its Markdown writes them."""
    uri = page.file.src_uri
    markdown = LINK.sub(lambda link: f"{link[1]}{site_link(source_of(uri), uri, link[2])}{link[3] or ''})", markdown)
    return TITLE.sub(r'```\1 title="\2"', markdown)


def source_of(uri: str) -> str:
    """Where in the repository a page of the site lies."""
    return next((place for place, page in OUTSIDE.items() if page == uri), f"docs/{uri}")


def site_link(source: str, uri: str, target: str) -> str:
    """A link that a file of the repository has, as the page of the site needs it."""
    place = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
    aim = OUTSIDE.get(place) or (place.removeprefix("docs/") if place.startswith("docs/") else f"files/{place}.txt")
    return posixpath.relpath(aim, posixpath.dirname(uri) or ".")


def linked_files() -> set[str]:
    """Files of the repository that pages link to and that are no pages."""
    pages = [*OUTSIDE, *(path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/**/*.md"))]
    found = set()
    for source in pages:
        for _, target, _ in LINK.findall((ROOT / source).read_text(encoding="utf-8")):
            place = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
            if place not in OUTSIDE and not place.startswith("docs/") and (ROOT / place).is_file():
                found.add(place)
    return found

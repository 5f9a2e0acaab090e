"""Writes the report of a run."""

from dataclasses import dataclass
from pathlib import Path

from kdcore.files import write_text
from kdcore.report.analyses import analyses_pictures
from kdcore.report.facts import as_kd_writes, read_facts
from kdcore.report.html import page
from kdcore.report.tables import document
from kdcore.report.thumbnails import thumbnails

NAME = "report.html"


@dataclass
class Written:
    """path: the report. finished: whether the run is. problem: why images are missing from it."""

    path: Path
    finished: bool
    problem: str | None


def write(run: str | Path, out: str | Path | None = None, *, images: bool = True) -> Written:
    """One HTML file with everything in it, whole or not at all; by default RUN/report.html. out: a file, or a folder that is there.

    The run itself is only read; an unfinished one has a report of what is there. images: open the data again and show single images. Raises FileError in one line, also
    where the disk is full: an earlier report stays as it was.
    """
    from kdcore.report.figures import figures, svg  # matplotlib: --check draws nothing

    with as_kd_writes(run):
        facts = read_facts(run)
        numbers = document(facts)
    pictures = {name: svg(figure, name) for name, figure in figures(numbers).items()}
    pictures |= analyses_pictures(facts.analyses)
    thumbs, problem = thumbnails(facts, numbers) if images else ({}, "The images are not shown: this report was written without them.")
    path = Path(out or facts.run.path)
    path = path / NAME if path.is_dir() else path
    write_text(path, page(facts, numbers, pictures, thumbs, problem))
    return Written(path, facts.results is not None, problem if images else None)

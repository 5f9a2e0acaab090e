"""`kd predict`: a finished run's model names the classes of new images."""

import csv
import json
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from kdcore.errors import DataError, KdError

LONG = 10.0
"""Seconds from which on it is said how long the images will take."""

if TYPE_CHECKING:
    from kdcore.predicting import Bad, Prediction


@click.command()
@click.argument("run", metavar="RUN")
@click.argument("images", metavar="IMAGES...", nargs=-1, required=True)
@click.option("--exit", "exit_", metavar="K", help="the exit that answers, from 1 (shallowest), or ensemble  [the best on dev]")
@click.option("--top", type=click.IntRange(min=1), default=1, metavar="N", help="the N most probable classes  [1]")
@click.option(
    "--json", "as_json", is_flag=True, help="a list of path, class, confidence, and the probabilities of all classes, from 0 to 1"
)
@click.option("--csv", "as_csv", is_flag=True, help="comma-separated, with a heading; confidence from 0 to 1")
@click.option("--which", type=click.Choice(["delivered", "last", "best"]), default="delivered", help="which checkpoint  [delivered]")
@click.option("--device", default="auto", help="cpu, cuda, cuda:1, mps, or auto  [auto]")
@click.option("-b", "--batch-size", type=click.IntRange(min=1), default=64, help="images at a time  [64]")
@click.option("-j", "--workers", type=click.IntRange(min=0), default=2, help="processes that open images, where there are many  [2]")
def predict(
    run: str,
    images: tuple[str, ...],
    exit_: str | None,
    top: int,
    as_json: bool,
    as_csv: bool,
    which: str,
    device: str,
    batch_size: int,
    workers: int,
) -> int:
    """Name the classes of IMAGES with the model of the finished run in the folder RUN.

    IMAGES are files, folders (with all in them) and patterns such as 'new/*.jpg'. Classes and preprocessing are the run's. Results go to
    stdout in the order of the images, all else to stderr. An image that cannot be read is named and passed over, and the exit status is 65.

    \b
    kd predict runs/resnet18-byot-1 new/*.jpg
    kd predict runs/resnet18-byot-1 new --csv > classes.csv
    \b
    The same model in Python, with its transform; or the last exit with timm alone:
      import kdcore; model = kdcore.load("RUN", exit=2)
      import timm; model = timm.create_model("resnet18", checkpoint_path="RUN/student.safetensors", num_classes=4)
      import timm; model = timm.create_model("local-dir:RUN/timm", pretrained=True)   (its normalisation and class names too)
    """
    if as_json and as_csv:
        raise KdError("--json and --csv are two forms of one thing: choose one")
    chosen = number_or_name(exit_) if exit_ is not None else None

    from kdcore.predicting import Predictor, find_images
    from kdcore.runs import Run

    Run.open(run)  # a wrong folder is said before a word about images
    paths, problems = find_images(images)
    for problem in problems:
        say(problem.error)
    if not paths:
        raise DataError("no image was found: give files, folders or patterns such as 'new/*.jpg'")
    predictor = Predictor(run, chosen, which=which, device=device)
    number = f"exit {predictor.exit}" if isinstance(predictor.exit, int) else "the ensemble"
    of = f" of {predictor.exits[-1]}" if isinstance(predictor.exit, int) and len(predictor.exits) > 1 else ""
    say(f"{several(len(paths), 'image')}, {len(predictor.class_names)} classes, {number}{of} ({predictor.why}), on {predictor.device}")

    workers = workers if len(paths) > 2 * batch_size else 0
    answers = announced(predictor(paths, batch_size=batch_size, workers=workers), len(paths), batch_size, max(workers, 1))
    top = min(top, len(predictor.class_names))
    write = write_json if as_json else write_csv if as_csv else write_table
    counts = {"good": 0, "bad": 0}
    write(good_ones(answers, counts), top, widths(paths, predictor.class_names))
    if counts["bad"] or problems:
        rest = [f"{counts['bad']:,} could not be read"] if counts["bad"] else []
        rest += [f"{several(len(problems), 'name')} of no image"] if problems else []
        say(f"{counts['good']:,} of {several(len(paths), 'image')} classified; {', '.join(rest)} (named above)")
        return DataError.exit_status
    if not (as_json or as_csv) and top == 1 and len(predictor.class_names) > 1:
        say("the runners-up too: --top 3; for a program: --json or --csv")
    return 0


def number_or_name(text: str) -> int | str:
    try:
        return int(text)
    except ValueError:
        return text


def announced(answers: "Iterator[Prediction | Bad]", total: int, batch: int, workers: int) -> "Iterator[Prediction | Bad]":
    """The answers; after the first batch, how long the others will take where that is long. Every worker opens a batch of its own."""
    begin = time.monotonic()
    for number, answer in enumerate(answers):
        if number == 0 and total > batch:
            rest = (time.monotonic() - begin) * (-(-total // batch) - 1) / workers
            if rest > LONG:
                from kdcore.estimate import spoken

                say(f"about {spoken(rest)} for the rest")
        yield answer


def good_ones(answers: "Iterator[Prediction | Bad]", counts: dict[str, int]) -> "Iterator[Prediction]":
    """The predictions as they come; a bad image is said on stderr and counted."""
    from kdcore.predicting import Bad

    for answer in answers:
        counts["bad" if isinstance(answer, Bad) else "good"] += 1
        if isinstance(answer, Bad):
            say(answer.error)
        else:
            yield answer


def write_json(predictions: "Iterator[Prediction]", top: int, width: tuple[int, int]) -> None:
    """A list, one element a line, whole whatever was bad."""
    put("[", nl=False)
    for number, found in enumerate(predictions):
        record = {"path": found.path, "class": found.name, "confidence": found.confidence, "probabilities": found.probabilities}
        put(("," if number else "") + "\n " + json.dumps(record), nl=False)
    put("\n]")


def write_csv(predictions: "Iterator[Prediction]", top: int, width: tuple[int, int]) -> None:
    writer = csv.writer(Echo(), lineterminator="\n")
    more = [heading for k in range(2, top + 1) for heading in (f"class{k}", f"confidence{k}")]
    writer.writerow(["path", "class", "confidence", *more])
    for found in predictions:
        writer.writerow([found.path, *(cell for name, share in found.top(top) for cell in (name, f"{share:.6f}"))])


def write_table(predictions: "Iterator[Prediction]", top: int, width: tuple[int, int]) -> None:
    """Columns as wide as they need, a line as soon as it is known: a table that is drawn at the end would show nothing until then."""
    heading = [f"{'image':<{width[0]}}", *(f"{'class' if k == 0 else f'or {k + 1}':<{width[1]}}       %" for k in range(top))]
    for place, found in enumerate(predictions):
        if not place:
            put("  ".join(heading))
        cells = [f"{name:<{width[1]}}  {100 * share:6.1f}" for name, share in found.top(top)]
        put("  ".join([f"{found.path or '':<{width[0]}}", *cells]))


def widths(paths: list[str], class_names: list[str]) -> tuple[int, int]:
    """Of the columns for images and for classes, in characters."""
    return max(5, *(len(path) for path in paths)), max(5, *(len(name) for name in class_names))


class Echo:
    """Standard output as a file, as `put` writes to it."""

    def write(self, text: str) -> None:
        put(text, nl=False)


def put(text: str, *, nl: bool = True, err: bool = False) -> None:
    """Prints, with \\x and \\u for what the stream has no characters for: a file's name may be anything, and a Windows pipe is no UTF-8."""
    encoding = (sys.stderr if err else sys.stdout).encoding or "utf-8"
    click.echo(text.encode(encoding, "backslashreplace").decode(encoding), nl=nl, err=err)


def several(count: int, thing: str) -> str:
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def say(text: Any) -> None:
    put(f"kd: {' '.join(str(text).split())}", err=True)

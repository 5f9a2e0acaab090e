"""python -m kdcore.catalogue [--processes N] [--into FILE] [--page docs/backbones.md]: surveys the installed timm, and goes on where it stopped."""

import argparse
from pathlib import Path

from kdcore.catalogue.page import rendered
from kdcore.catalogue.survey import survey


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m kdcore.catalogue", description="Survey every architecture of the installed timm.")
    parser.add_argument("--processes", type=int, default=2, help="at a time (default: 2)")
    parser.add_argument("--into", type=Path, default=Path("build/backbones.jsonl"), help="JSON lines; what is there is not measured again")
    parser.add_argument("--page", type=Path, help="write the table by family here, once all are known")
    given = parser.parse_args()
    facts = survey(given.into, processes=given.processes, seen=say)
    if given.page:
        given.page.write_text(rendered(facts), encoding="utf-8", newline="\n")
    failed = [one for one in facts if one["failed"]]
    refused = [one for one in facts if one["refused"]]
    print(f"{len(facts)} architectures: {len(facts) - len(failed) - len(refused)} attach, {len(refused)} refused, {len(failed)} failed")
    raise SystemExit(bool(failed))


def say(known: int, of: int, facts: dict) -> None:
    """A line for what does not attach, and one for every hundredth."""
    reason = facts["failed"] or facts["refused"]
    if reason or known % 100 == 0 or known == of:
        print(f"{known} of {of}: {facts['name']} {reason or 'attaches'}", flush=True)


if __name__ == "__main__":
    main()

"""The table of `kd plugins`: what metadata says of every plugin, and how it stands. None of them is imported."""

import json
from collections.abc import Sequence
from typing import Any

import click

from kdcore import verdicts
from kdcore.installed import PluginInfo, blocked_by, fault_of, installed


def show_plugins(as_json: bool) -> None:
    found = described()
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return
    if not found:
        click.echo("no plugin is installed; the core's own parts: kd show kdcore")
        return

    from kdcli.tables import console, grid

    headings = ("plugin", "distribution", "families", "status", "what it is, and its paper")
    rows = [(p["name"], f"{p['distribution']} {p['version']}", p["families"], p["status"], f"{p['summary']}\n{p['paper']}") for p in found]
    out = console()
    out.print(grid("", headings, ((*row[:-1], row[-1].strip()) for row in rows)))
    for word, reason in dict.fromkeys((p["status"], p["reason"]) for p in found if p["reason"]):
        names = [p["name"] for p in found if (p["status"], p["reason"]) == (word, reason)]
        out.print(f"{word}: {', '.join(names)}, by {reason}" if word == "blocked" else f"{word}: {reason}", soft_wrap=True)


def described() -> list[dict[str, Any]]:
    """Every plugin as plain values, sorted by name; a name that two distributions claim stands there twice."""
    infos = installed(blocked=True)
    found = []
    for info in infos:
        word, reason = standing(info, [other for other in infos if other.name == info.name])
        found.append(
            {
                "name": info.name,
                "distribution": info.distribution,
                "version": info.version,
                "families": [family.replace("_", "-") for family in info.families],  # as Keywords and flags write them
                "summary": info.summary,
                "paper": info.paper,
                "status": word,
                "reason": reason,
            }
        )
    return found


def standing(info: PluginInfo, claims: Sequence[PluginInfo]) -> tuple[str, str]:
    """Available, blocked, clashing or broken, and why: what was typed to block it, else one line. Broken is what metadata says, or what a check
    or a run found out about the plugin as it is now.

    claims: all plugins of this name, blocked ones too.
    """
    if by := blocked_by(info):
        return "blocked", by
    if fault := fault_of(info, [claim for claim in claims if not blocked_by(claim)]):
        return fault
    verdict = verdicts.read(info)
    if verdict is not None and verdict.reason:
        return "broken", f"plugin '{info.name}' ({info.label}): {verdict.reason}"
    return "available", ""

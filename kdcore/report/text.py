"""What a report says in words."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdcore.comparing import checkpoint_label
from kdcore.ending import why_stopped
from kdcore.report.cells import short, table
from kdcore.report.facts import Facts


def headline(facts: Facts) -> str:
    data = str(facts.config["data"])
    name = Path(data).name if "/" in data or "\\" in data else data
    return f"{facts.config['model']} on {name}, {facts.config.get('method', 'deep-supervision')}"


def paragraphs(facts: Facts, document: Mapping[str, Any]) -> list[str]:
    """In plain words: what was trained on what, which exit is best, what it costs."""
    config, done = facts.config, len(facts.records)
    method = config.get("method", "deep-supervision")
    start = "pretrained weights" if config.get("pretrained") else config["init"] if config.get("init") else "random weights"
    classes = len(facts.about.get("class_names", []))
    what = f"{config['model']} was trained by the method {method} from {start}"
    if facts.results is None:
        missing = "" if done else " Not one epoch is finished."
        why = f" It was stopped: {reason.removesuffix('.')}." if (reason := why_stopped(facts.run)) else ""
        return [
            f"This run is unfinished: {done} of {document['planned']} epochs are done.{missing}{why} {what} to tell {classes} classes apart.",
            "The command that goes on with it is at the end of this page.",
        ]
    results = facts.results
    images = results["samples"]
    text = f"{what} on {images['train']:,} images of {classes} classes: {done} epochs"
    if "minutes" in results:
        text += f" in {results['minutes']:.1f} minutes"
    if facts.environment:
        text += f" on {facts.environment.get('gpu') or facts.environment.get('cpu')}"
    return [f"{text}. Delivered is the checkpoint {checkpoint_label(results, 'best')}.", best_sentence(facts, document)]


def best_sentence(facts: Facts, document: Mapping[str, Any]) -> str:
    assert facts.results is not None
    exit, best = document["exit"], facts.results["best"]
    if not facts.shown:
        return "There is neither a dev nor a test split: nothing was measured."
    own = {split: next(e for e in best[split]["exits"] if e["exit"] == exit)["top1"] for split in ("dev", "test") if split in best}
    if "dev" in own:
        text = (
            f"The best exit on dev is exit {exit}: it is right on {own['dev']:.1f} % of the {facts.results['samples']['dev']:,} dev images"
        )
        text += (
            f" and {own['test']:.1f} % of the {facts.results['samples']['test']:,} test images, which chose nothing"
            if "test" in own
            else ""
        )
    else:
        text = f"There is no dev split to choose an exit on; the deepest, exit {exit}, is right on {own['test']:.1f} % of the test images"
    costs = {cost["exit"]: cost for cost in facts.about.get("exits", [])}
    if exit in costs:
        deepest = costs[max(costs)]
        text += f". It has {short(costs[exit]['parameters'])} parameters and needs {short(costs[exit]['macs'])} multiply-accumulates for an image"
        if exit != max(costs) and deepest["macs"]:
            text += f", {100 * costs[exit]['macs'] / deepest['macs']:.0f} % of the deepest exit's"
    return text + "."


def legend(facts: Facts) -> str:
    """What the columns of the exits' table mean."""
    dev = "Dev images were held back to choose the epoch and the exit. " if facts.results and "dev" in facts.results["best"] else ""
    return (
        f"{dev}Top-1 is the share of images named correctly, in percent. NLL is the negative log likelihood in nats, ECE the gap between "
        "confidence and accuracy in percent; of both, less is better. MACs are multiply-accumulates for an image."
    )


def repeat(facts: Facts) -> list[tuple[str, str]]:
    """What each command is for, and the command."""
    path = shlex.quote(str(facts.run.path))
    found = []
    if facts.results is not None:
        found.append(("Name the classes of other images with this run:", f"kd predict {path} IMAGE..."))
    else:
        found.append(("Go on with this run:", f"kd train --run {path} --resume"))
    found.append(("Repeat this run in a new folder, with the very same settings:", f"kd train --config {path}/config.toml --run NEW"))
    if facts.environment.get("command"):
        first = (facts.environment.get("earlier") or [facts.environment])[0]
        found.append((f"It was started on {first['date'][:10]} with:", first["command"]))
    return found


def settings_tables(facts: Facts) -> dict[str, Any]:
    """The options, and the versions and hardware."""
    own = facts.run.path.resolve().as_posix() + "/"
    options = [[name, _plain(value).replace(own, "")] for name, value in facts.config.items()]  # the run may be moved
    found = {"settings": table("Options (config.toml)", [("option", "text"), ("value", "text")], options)}
    if facts.environment:
        here, results = facts.environment, facts.results or {}
        rows = [[name, version] for name, version in here["versions"].items()]
        rows += [[f"plugin {plugin['name']}", f"{plugin['distribution']} {plugin['version']}"] for plugin in here.get("plugins", [])]
        rows += [[name, here[name]] for name in ("python", "platform", "cpu", "gpu", "date") if here.get(name)]
        rows += [[name, results[name]] for name in ("device", "minutes", "estimated_minutes") if results.get(name) is not None]
        found["versions"] = table("Versions and machine", [("what", "text"), ("is", "text")], rows)
    return found


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={_plain(item)}" for name, item in value.items()) or "–"
    if isinstance(value, list):
        return ", ".join(map(_plain, value)) or "–"
    return str(value).lower() if isinstance(value, bool) else str(value)

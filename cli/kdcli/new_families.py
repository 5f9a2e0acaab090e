"""What `kd new` knows of each family: its hook, its conformance class, the part that the template has, and how to try it. Imports no torch."""

from dataclasses import dataclass
from typing import Any

TINY = "test_resnet_32px --data digits --epochs 1"


@dataclass(frozen=True)
class Row:
    """A line of a README's table of options."""

    name: str
    type: str
    default: str
    meaning: str


@dataclass(frozen=True)
class Found:
    """One part that a plugin has: the word of its family, its key in the hook ("" for what is called as the plugin is), options, those of
    them without a default, its needs, which soft targets it reads (None: it does not say), and the key of the
    plugin's method that has it. Of a loose file's part also what `kdcli.new_trial` found: values for the options without a default, why no
    step could be trained ("": one was), and the method in which one can."""

    family: str
    part: str
    options: tuple[Row, ...] = ()
    required: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    reads: tuple[str, ...] | None = None
    method: str = ""
    given: tuple[tuple[str, Any], ...] = ()
    refused: str = ""
    home: "Found | None" = None

    @property
    def taught(self) -> bool:
        """Whether it needs a teacher."""
        return bool({"teacher", "able_teacher"} & set(self.needs))


@dataclass(frozen=True)
class Family:
    """One family. `hook`: kdcore's name of it. `tests`: its class in the conformance kit. `part` and `options`: the template's.

    `trial`: a command that tries a part, with $name (the plugin), $component (the part's full name) and $term (for --loss).
    """

    hook: str
    tests: str
    part: str
    what: str
    summary: str
    trial: str
    options: tuple[Row, ...] = ()


FAMILIES = {
    "loss": Family(
        "losses",
        "LossTests",
        "gap",
        "a loss",
        "A loss that draws the logits of every exit to those of its soft targets",
        f"kd train {TINY} --method deep-supervision --loss $term",
        (Row("scale", "float > 0", "1.0", "above 0, in units of the logits: a gap as large as this counts as 1"),),
    ),
    "soft-targets": Family(
        "soft_targets",
        "SoftTargetsTests",
        "blend",
        "a source of soft targets",
        "Soft targets that blend the labels with what the deepest exit answers",
        f"kd train {TINY} --method deep-supervision --loss kl@$component",
        (Row("share", "float >= 0 <= 1", "0.5", "of the network's answer, in [0, 1]; the labels have the rest"),),
    ),
    "exits": Family(
        "exits",
        "ExitsTests",
        "slim",
        "an exit attachment",
        "Slim exits for any backbone: a 1 x 1 convolution before pooling",
        f"kd train {TINY} --method deep-supervision --exits $component",
        (Row("width", "int >= 1", "64", "channels after the convolution, and so the width of every exit's embedding"),),
    ),
    "schedule": Family(
        "schedules",
        "ScheduleTests",
        "again",
        "a schedule",
        "A schedule of generations: each network teaches the next one of its kind",
        f"kd train {TINY} --method kd --schedule $component",
        (Row("generations", "int >= 1", "2", "networks in a row, of `--epochs` each; the last is delivered"),),
    ),
    "method": Family(
        "methods",
        "MethodTests",
        "",
        "a method",
        "Self-distillation in which the deepest exit teaches the shallow ones",
        f"kd train {TINY} --method $component",
        (
            Row("alpha", "float >= 0", "0.5", "weight of the deepest exit's answers, the paper's value"),
            Row("temperature", "float > 0", "3.0", "T > 0, on both sides"),
        ),
    ),
    "metric": Family(
        "metrics",
        "MetricTests",
        "brier",
        "a metric",
        "The Brier score of every exit and ensemble",
        f"kd train {TINY} -p $name",
    ),
    "analysis": Family(
        "analyses",
        "AnalysisTests",
        "curve",
        "an analysis",
        "A study of how every exit of a run learns, as a table and a figure",
        f"kd train {TINY} --method deep-supervision --run runs/first && kd analyze $component runs/first",
        (Row("metric", "one of top1, nll, ece", "'top1'", "`top1` and `ece` in percent, or `nll` in nats"),),
    ),
    "logger": Family(
        "events",
        "LoggerTests",
        "",
        "a logger",
        "Writes a run's epochs as a table that any spreadsheet opens",
        f"kd train {TINY} -p $name",
    ),
    "backbone": Family(
        "backbones",
        "BackboneTests",
        "chain",
        "a backbone",
        "A small network that timm lacks, as a timm model",
        "kd train $component --data digits --epochs 1 --method deep-supervision",
    ),
}

BY_HOOK = {family.hook: keyword for keyword, family in FAMILIES.items()}

CORE_PARTS = (
    *("ce", "kl", "mse"),
    *("deepest", "teacher", "mean-of-exits"),
    *("linear", "single"),
    *("plain", "deep-supervision", "kd"),
)
"""Names that the core's own parts have: a plugin called so could not be told from them. Held against `kdcore.builtin` by a test."""


def full_name(plugin: str, hook: str, part: str) -> str:
    """What a part is called in commands and configurations: `mine.gap`, `mine/net`, or `mine` for the part that is called as its plugin is."""
    return plugin if part in ("", plugin) else f"{plugin}{'/' if hook == 'backbones' else '.'}{part}"

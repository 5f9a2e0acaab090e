"""Checks of what stands outside of a training step: backbones, metrics, analyses, loggers."""

from typing import ClassVar

from kdcore.testing.base import ComponentKit, Kit
from kdcore.testing.options import OptionChecks


class BackboneTests(ComponentKit):
    """`size`: of its images, in pixels."""

    family = "backbones"
    size: ClassVar[int] = 32


class MetricTests(OptionChecks):
    """A function of logits [N, K] and labels [N]."""

    family = "metrics"


class AnalysisTests(OptionChecks):
    """A function of finished runs."""

    family = "analyses"


class LoggerTests(Kit):
    """`plugin`: the logger's name, as `-p` takes it."""

    plugin: ClassVar[str] = ""

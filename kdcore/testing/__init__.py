"""The conformance kit: a plugin's author names a component in a class of three lines, and inherits the checks.

    from kdcore.testing import LossTests

    class TestGap(LossTests):
        component = "mine.gap"
        options = {"scale": 2.0}

Run it with pytest, or all parts of a plugin at once with `kd plugins check mine`. Every failure is one line of advice. A limit is declared
with its reason, `cannot = {"vit": "needs maps with a width"}`, and fails as soon as it no longer holds. Needs `pip install 'kdcore[testing]'`.
"""

try:
    import pytest  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("kdcore.testing needs pytest: pip install 'kdcore[testing]'", name="pytest") from error

from kdcore.testing.backbones import BackboneTests
from kdcore.testing.families import ExitsTests, MethodTests, ScheduleTests
from kdcore.testing.losses import LossTests
from kdcore.testing.plugin import PluginTests
from kdcore.testing.runner import Outcome, run
from kdcore.testing.standing import AnalysisTests, LoggerTests, MetricTests
from kdcore.testing.targets import SoftTargetsTests

__all__ = [
    "AnalysisTests",
    "BackboneTests",
    "ExitsTests",
    "LoggerTests",
    "LossTests",
    "MethodTests",
    "MetricTests",
    "Outcome",
    "PluginTests",
    "ScheduleTests",
    "SoftTargetsTests",
    "run",
]

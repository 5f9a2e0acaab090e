"""kdcore's conformance kit over the parts of this plugin."""

import pytest

from kdcore.testing import AnalysisTests, MethodTests, PluginTests, ScheduleTests

pytestmark = pytest.mark.slow


class TestPlugin(PluginTests):
    plugin = "iskd"


class TestGenerations(ScheduleTests):
    component = "iskd.generations"
    method = "iskd"
    options = {"max_generations": 2}


class TestLargeEpoch(ScheduleTests):
    component = "iskd.large-epoch"
    method = "iskd.large-epoch"


class TestTfkdSelf(ScheduleTests):
    component = "iskd.tfkd-self"
    method = "iskd.tfkd-self"


class TestIskd(MethodTests):
    component = "iskd"


class TestLargeEpochMethod(MethodTests):
    component = "iskd.large-epoch"


class TestTfkdSelfMethod(MethodTests):
    component = "iskd.tfkd-self"


class TestTeacherStudent(AnalysisTests):
    component = "iskd.teacher-student"


class TestAlphaSweep(AnalysisTests):
    component = "iskd.alpha-sweep"


class TestSizeAccuracy(AnalysisTests):
    component = "iskd.size-accuracy"

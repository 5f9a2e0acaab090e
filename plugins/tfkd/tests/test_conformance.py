"""kdcore's conformance kit over the parts of this plugin."""

import pytest

from kdcore.testing import MethodTests, PluginTests, ScheduleTests, SoftTargetsTests


class TestPlugin(PluginTests):
    plugin = "tfkd"


class TestVirtual(SoftTargetsTests):
    component = "tfkd.virtual"


@pytest.mark.slow
class TestSelf(ScheduleTests):
    component = "tfkd.self"
    method = "tfkd.self"


@pytest.mark.slow
class TestReg(MethodTests):
    component = "tfkd.reg"


@pytest.mark.slow
class TestSelfTraining(MethodTests):
    component = "tfkd.self"

"""kdcore's conformance kit over the parts of this plugin."""

import pytest

from kdcore.testing import ExitsTests, LossTests, MethodTests, PluginTests, ScheduleTests

pytestmark = pytest.mark.slow


class TestPlugin(PluginTests):
    plugin = "mskd"


class TestReplica(ExitsTests):
    component = "mskd.replica"


class TestResistor(LossTests):
    component = "mskd.resistor"


class TestJoint(ScheduleTests):
    component = "mskd.joint"
    method = "mskd.oto"


class TestPhased(ScheduleTests):
    component = "mskd.phased"
    method = "mskd.oto"


class TestMskd(MethodTests):
    component = "mskd"


class TestOto(MethodTests):
    component = "mskd.oto"


class TestTskd(MethodTests):
    component = "mskd.tskd"

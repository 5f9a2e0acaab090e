"""kdcore's conformance kit over the parts of this plugin."""

import pytest

from kdcore.testing import AnalysisTests, ExitsTests, LossTests, MethodTests, MetricTests, PluginTests

pytestmark = pytest.mark.slow


class TestPlugin(PluginTests):
    plugin = "mango"


class TestShallownet(ExitsTests):
    component = "mango.shallownet"
    method = "mango"


class TestTriplet(LossTests):
    component = "mango.triplet"
    method = "mango"


class TestOrdinal(LossTests):
    component = "mango.ordinal"
    method = "mango"


class TestFeature(LossTests):
    component = "mango.feature"
    method = "mango"


class TestMango(MethodTests):
    component = "mango"


class TestGrades(MetricTests):
    component = "mango.grades"


class TestConfusion(AnalysisTests):
    component = "mango.confusion"

"""kdcore's conformance kit over the parts of this plugin."""

import pytest

from kdcore.testing import AnalysisTests, BackboneTests, MethodTests, PluginTests, SoftTargetsTests

pytestmark = pytest.mark.slow


class TestPlugin(PluginTests):
    plugin = "osakd"


class TestKnn(SoftTargetsTests):
    component = "osakd.knn"
    method = "osakd"


class TestOsakd(MethodTests):
    component = "osakd"


class TestSoftLabels(AnalysisTests):
    component = "osakd.soft-labels"


class TestCurves(AnalysisTests):
    component = "osakd.curves"


class TestTrainingCost(AnalysisTests):
    component = "osakd.training-cost"


class TestCnn(BackboneTests):
    component = "osakd/cnn"


class TestLenet(BackboneTests):
    component = "osakd/lenet"

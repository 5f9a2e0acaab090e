"""kdcore's conformance kit over the parts of this plugin."""

import pytest

from kdcore.testing import MethodTests, PluginTests, SoftTargetsTests

pytestmark = pytest.mark.slow


class TestPlugin(PluginTests):
    plugin = "osakd"


class TestKnn(SoftTargetsTests):
    component = "osakd.knn"
    method = "osakd"


class TestOsakd(MethodTests):
    component = "osakd"

"""kdcore's conformance kit over the parts of this plugin."""

import pytest

from kdcore.testing import ExitsTests, LossTests, MethodTests, PluginTests

pytestmark = pytest.mark.slow


class TestPlugin(PluginTests):
    plugin = "byot"


class TestBottleneck(ExitsTests):
    component = "byot.bottleneck"
    method = "byot"


class TestSepconv(ExitsTests):
    component = "byot.sepconv"


class TestHint(LossTests):
    component = "byot.hint"
    method = "byot"


class TestByot(MethodTests):
    component = "byot"


class TestAsInTheCode(MethodTests):
    component = "byot"
    options = {"preset": "final"}

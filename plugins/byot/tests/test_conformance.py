"""kdcore's conformance kit over the parts of this plugin."""

import pytest

from kdcore.testing import AnalysisTests, ExitsTests, LossTests, MethodTests, PluginTests

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


class TestNoise(AnalysisTests):
    component = "byot.noise"


class TestGradients(AnalysisTests):
    component = "byot.gradients"


class TestSeparability(AnalysisTests):
    component = "byot.separability"


class TestCost(AnalysisTests):
    component = "byot.cost"


class TestShallowGain(AnalysisTests):
    component = "byot.shallow-gain"


class TestEnsemble(AnalysisTests):
    component = "byot.ensemble"


class TestGradcam(AnalysisTests):
    component = "byot.gradcam"

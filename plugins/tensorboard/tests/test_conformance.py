"""kdcore's conformance kit over the parts of this plugin."""

import pytest

from kdcore.testing import LoggerTests, PluginTests

pytestmark = pytest.mark.slow


class TestPlugin(PluginTests):
    plugin = "tensorboard"


class TestEvents(LoggerTests):
    plugin = "tensorboard"

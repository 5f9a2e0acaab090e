"""kdcore's conformance kit over the parts of this plugin."""

import pytest

from kdcore.testing import BackboneTests, PluginTests

pytestmark = pytest.mark.slow


class TestPlugin(PluginTests):
    plugin = "cifar"


class TestResNet(BackboneTests):
    component = "cifar/resnet8"


class TestWideResNet(BackboneTests):
    component = "cifar/wrn_16_1"


class TestVGG(BackboneTests):
    component = "cifar/vgg8"


class TestMobileNet(BackboneTests):
    component = "cifar/mobile_half"


class TestShuffleNet(BackboneTests):
    component = "cifar/shufflenetv2"

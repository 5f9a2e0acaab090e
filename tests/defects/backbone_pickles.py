"""It keeps a lambda, which no worker process is sent.

The kit says: keep no lambda
"""

from timm.models.resnet import BasicBlock, ResNet

from kdcore import hookimpl


def thin(pretrained=False, pretrained_cfg=None, pretrained_cfg_overlay=None, cache_dir=None, **kwargs):
    """A ResNet of four blocks."""
    net = ResNet(BasicBlock, (1, 1, 1, 1), channels=(8, 8, 16, 16), **kwargs)
    net.pretrained_cfg = {"input_size": (3, 32, 32), "mean": (0.5,) * 3, "std": (0.5,) * 3, "classifier": "fc", "first_conv": "conv1"}
    net.rescale = lambda x: 2 * x - 1
    return net


@hookimpl
def backbones():
    return {"thin": thin}

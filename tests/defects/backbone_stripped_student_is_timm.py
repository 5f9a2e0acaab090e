"""Its forward does more than forward_head, so that an exit and the whole network answer differently.

The kit says: they must compute the same
"""

from timm.models.resnet import BasicBlock, ResNet

from kdcore import hookimpl


class Cold(ResNet):
    def forward(self, x):
        return super().forward(x) / 2


def thin(pretrained=False, pretrained_cfg=None, pretrained_cfg_overlay=None, cache_dir=None, **kwargs):
    """A ResNet of four blocks."""
    net = Cold(BasicBlock, (1, 1, 1, 1), channels=(8, 8, 16, 16), **kwargs)
    net.pretrained_cfg = {"input_size": (3, 32, 32), "mean": (0.5,) * 3, "std": (0.5,) * 3, "classifier": "fc", "first_conv": "conv1"}
    return net


@hookimpl
def backbones():
    return {"thin": thin}

"""ResNets for 32 pixels, of timm's blocks: a 3 x 3 stem without pooling, then three stages (He et al., section 4.2) or four.

Three stages of 6n + 2 layers are the CIFAR ResNets of arXiv:1512.03385, with 1 x 1 convolutions where a shortcut changes its width (option
B; the paper's own tables have option A, which has no parameters there); of bottlenecks with cardinality, ResNeXt-29 (arXiv:1611.05431). Four
stages are the ImageNet ResNets with a small stem, as all CIFAR code has them.
"""

from timm.models.resnet import BasicBlock, Bottleneck, make_blocks
from torch import nn

from kdcore_cifar.staged import Staged, initialise, tap, tapped_relu


class ResNet(Staged):
    """widths: of the stem, then of each stage's blocks (a bottleneck's output is four times as wide). layers: blocks of each stage."""

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        layers: tuple[int, ...],
        widths: tuple[int, ...],
        num_classes: int = 10,
        in_chans: int = 3,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        global_pool: str = "avg",
        cardinality: int = 1,
        base_width: int = 64,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_chans, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.act1 = nn.ReLU(inplace=True)
        stages, infos = make_blocks(
            (block,) * len(layers),
            widths[1:],
            layers,
            widths[0],
            drop_path_rate=drop_path_rate,
            cardinality=cardinality,
            base_width=base_width,
            act_layer=nn.ReLU,
            norm_layer=nn.BatchNorm2d,
        )
        last_act = "act2" if block is BasicBlock else "act3"
        self.feature_info = [tap("act1", widths[0], 1, "bn1")]
        for (name, stage), info in zip(stages, infos, strict=True):
            setattr(stage[-1], last_act, tapped_relu())
            self.add_module(name, stage)
            preact = f"{name}.{len(stage) - 1}.{last_act}.preact"
            self.feature_info.append(tap(name, info["num_chs"], info["reduction"] // 4, preact))
        self.steps = ("conv1", "bn1", "act1", *(name for name, _ in stages))
        self.finish(self.feature_info[-1]["num_chs"], num_classes, in_chans, drop_rate, global_pool)
        initialise(self.modules())


def cifar_resnet(depth: int, *, width: int = 1, stem: int = 16) -> dict:
    """Options of a ResNet of 6n + 2 layers; width multiplies the stages, RepDistiller's x4 have a stem of 32."""
    return {"block": BasicBlock, "layers": ((depth - 2) // 6,) * 3, "widths": (stem, *(width * base for base in (16, 32, 64)))}


def small_stem(block: type[BasicBlock] | type[Bottleneck], *layers: int) -> dict:
    """Options of an ImageNet ResNet with a stem for 32 pixels."""
    return {"block": block, "layers": layers, "widths": (64, 64, 128, 256, 512)}


def resnext29(cardinality: int, base_width: int) -> dict:
    """Options of ResNeXt-29: three stages of three bottlenecks."""
    return {"block": Bottleneck, "layers": (3, 3, 3), "widths": (64, 64, 128, 256), "cardinality": cardinality, "base_width": base_width}

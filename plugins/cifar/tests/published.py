"""What others have counted: figures as their sources print them, where each was looked up, and what has none.

A network that is published in another dress stands in `RELATED_PARAMETERS` or `RELATED_MACS`, with the exact difference; one that others'
figures add up to, in `published_sums.py`.
"""

from collections.abc import Callable
from typing import NamedTuple

import pytest
from formulas import VGG, cifar_resnet, vgg, wrn
from torchvision import models as torchvision


class Elements(NamedTuple):
    """How many numbers BatchNorms, activations, and convolutions with bias give, for one image."""

    norm: int
    act: int
    bias: int


class Related(NamedTuple):
    """published = our count + what the source counts besides (`COUNTED_TOO`) + difference."""

    name: str
    classes: int
    published: int | str
    source: str
    difference: int
    why: str


def wider_stem(blocks: int, *, macs: bool = False) -> tuple[int, str]:
    """From a ResNet of width 4 to the WRN that SimKD names it after (wrn_16_4 for resnet14x4): its stem has 16 channels, not 32."""
    ours, theirs = cifar_resnet(6 * blocks + 2, 4, 32), wrn(blocks, 4)
    return theirs[macs] - ours[macs], f"WRN-{6 * blocks + 4}-4: a stem of 16 channels, and BatchNorm before the convolutions"


def usual_vgg(depth: int) -> tuple[int, str]:
    """chenyaofo's pools after the fourth block too, and has two more linear layers."""
    ours, theirs = vgg(VGG[depth]), vgg(VGG[depth], last_side=2)
    return theirs.macs + 2 * 512 * 512 - ours.macs, "the fifth block at 2 x 2, and two more linear layers of 512"


SOURCES = {
    "he": "arXiv:1512.03385, table 6, as github.com/akamaster/pytorch_resnet_cifar10 repeats it; option A, without parameters in shortcuts: up to 2 % fewer",
    "wrn": "arXiv:1605.07146, tables 4 and 5",
    "resnext": "arXiv:1611.05431, table 7, as github.com/prlz77/ResNeXt.pytorch and bearpaw/pytorch-classification (34.43, 68.16) repeat it",
    "lipgrow": "Dong et al., ICML 2020, table 2, as a public documentation page repeats it",
    "blockswap": "arXiv:1906.04113, table of CIFAR-10 (parameters in thousands, operations in millions); its operations count BatchNorm",
    "osmr": "github.com/osmr/imgclsmob, pytorch/README.md; its FLOPs/2 count BatchNorm and activations",
    "chenyaofo": "github.com/chenyaofo/pytorch-cifar-models, README.md, CIFAR-10; its ShuffleNetV2 has 576 parameters more, in the stem",
    "dxy": "github.com/D-X-Y/AutoDL-Projects, docs/BASELINE.md",
    "mmpretrain": "github.com/open-mmlab/mmpretrain, configs/resnet/README.md, CIFAR-10; its FLOPs count BatchNorm and ReLU",
    "weiaicunzai": "github.com/weiaicunzai/pytorch-cifar100, README.md",
    "disk": "github.com/anilkagak2/DiSK_Distilling_Scaffolded_Knowledge, runner.sh, CIFAR-100",
    "overhaul": "github.com/clovaai/overhaul-distillation, README.md, CIFAR-100",
    "decadz": "github.com/Decadz/Evolved-Model-Agnostic-Loss, experiments/resources/__init__.py, each network's count",
    "distiller": "github.com/karanchahal/distiller, a17ec06, models/model_factory.py, each network's count (its resnets with option B end in _sm)",
    "pde": "github.com/anilkagak2/PDE_GlobalLayer, 8482e75, runner-cifar.sh: 9M parameters, 1.3B operations",
    "efficientmatch": "github.com/BB-Erwan/EfficientMatch, 5683cfc, FLOPS_RESULTS.md: FLOPs of one step of training, by PyTorch's FlopCounterMode, "
    "for WRN-28-2, -4 and -8 with 10 classes; scripts/flops_analysis.py says how many images go forward and backward",
    "cppn": "github.com/azadeh-naderi/CPPN-Assisted-Feature-Distillation, its test, which repeats the counts of the benchmark of arXiv:1910.10699",
    "simkd": "github.com/DefangChen/SimKD, README.md: WRN-40-2 plus three BatchNorms, 2 * (16 + 32 + 64) * 2 parameters",
    "intrinsic": "arXiv:1804.08838, table 1, LeNet on CIFAR-10, as github.com/uber-research/intrinsic-dimension has it, 9754ebe, "
    "intrinsic_dim/scripts/run_log_cli.sh",
    "tutorial": "Sze et al., arXiv:1703.09039, table 2 and its note on Caffe's LeNet (431k weights, 2.3M MACs), as a public copy repeats it",
    "dhvt": "Lu et al., arXiv:2210.05958, table 4, as a public copy of its text repeats it",
    "torch-pruning": "github.com/VainF/Torch-Pruning, e80127d, reproduce/run/cifar100/prune/cifar100-global-group_sl-vgg19/ (a log): RepDistiller's "
    "VGG; counts biases, BatchNorm twice, pooling, and the ReLUs that are modules",
    "thop": "README.md of a public fork of github.com/kuangliu/pytorch-cifar, whose ShuffleNets RepDistiller took over (the look-up names no "
    "repository); counts BatchNorm twice, pooling, a linear layer's sums, and is cut off, not rounded",
    "log": "a public log of experiments that counts Conv and Linear MACs by hooks (the look-up names no repository)",
    "counted": "a public page that prints the count of this network (the look-up names no repository)",
}
"""The figures of PyramidNet's paper (3.8M, 26.6M) fit widths cut to whole numbers (3.86M, 26.62M); its code rounds them, as osmr's does."""

PARAMETERS = [
    ("resnet8", 10, "0.08M", "dxy"),
    ("resnet8", 10, 78_042, "distiller"),
    ("resnet14", 10, "0.18M", "lipgrow"),
    ("resnet14", 10, 175_258, "distiller"),
    ("resnet20", 10, "0.27M", "he"),
    ("resnet20", 10, 272_474, "osmr"),
    ("resnet20", 100, 278_324, "osmr"),
    ("resnet32", 10, "0.46M", "he"),
    ("resnet32", 10, "0.47M", "chenyaofo"),
    ("resnet32", 10, 466_906, "distiller"),
    ("resnet44", 10, "0.66M", "he"),
    ("resnet44", 10, 661_338, "distiller"),
    ("resnet44", 100, "0.67M", "chenyaofo"),
    ("resnet56", 10, 855_770, "osmr"),
    ("resnet110", 10, 1_730_714, "osmr"),
    ("resnet8x4", 100, "1.23M", "cppn"),
    ("resnet32x4", 100, "7.43M", "cppn"),
    ("resnet32x4", 100, 7_433_860, "counted"),
    ("resnet38x2", 10, 2_243_546 + 448, "simkd"),
    ("resnet10", 10, 4_903_242, "distiller"),
    ("resnet18", 10, 11_173_962, "decadz"),
    ("resnet18", 100, "11.2M", "weiaicunzai"),
    ("resnet34", 10, 21_282_122, "decadz"),
    ("resnet50", 10, 23_520_842, "decadz"),
    ("resnet50", 100, "23.7M", "weiaicunzai"),
    ("resnet101", 10, 42_512_970, "decadz"),
    ("resnet152", 10, 58_156_618, "decadz"),
    ("wrn_16_1", 10, 175_066, "distiller"),
    ("wrn_16_2", 10, 691_674, "distiller"),
    ("wrn_16_4", 10, 2_748_890, "distiller"),
    ("wrn_16_4", 100, "2.77M", "overhaul"),
    ("wrn_16_8", 10, "11.0M", "wrn"),
    ("wrn_16_8", 100, 11_007_540, "decadz"),
    ("wrn_20_8", 10, "17.2M", "wrn"),  # BYOT's name of WRN-22-8: 6n + 2 layers, without the shortcuts
    ("wrn_22_8", 10, "17.2M", "wrn"),
    ("wrn_22_8", 10, 17_158_106, "distiller"),
    ("wrn_28_4", 100, "5.87M", "overhaul"),
    ("wrn_28_10", 10, 36_479_194, "osmr"),
    ("wrn_28_12", 10, "52.5M", "wrn"),
    ("wrn_40_1", 10, 563_930, "distiller"),
    ("wrn_40_2", 10, "2.2435M", "blockswap"),
    ("wrn_40_4", 10, "8.9M", "wrn"),
    ("wrn_40_4", 100, 8_972_340, "decadz"),
    ("vgg8", 100, "3.96M", "cppn"),
    ("vgg11", 10, 9_231_114, "decadz"),
    ("vgg13", 10, 9_416_010, "decadz"),
    ("vgg13", 100, "9.46M", "cppn"),
    ("vgg16", 10, 14_728_266, "decadz"),
    ("vgg19", 10, 20_040_522, "decadz"),
    ("shufflenetv1", 10, 862_768, "thop"),
    ("shufflenetv2", 10, "1.26M", "chenyaofo"),
    ("shufflenetv2", 100, "1.36M", "chenyaofo"),
    ("mobile_half", 100, "0.81M", "cppn"),
    ("resnext29_8x64d", 10, "34.4M", "resnext"),
    ("resnext29_16x64d", 10, 68_155_210, "osmr"),
    ("pyramidnet110_84", 10, 3_904_446, "osmr"),
    ("pyramidnet200_240", 10, 26_752_702, "osmr"),
    ("pyramidnet200_240", 100, "26.84M", "overhaul"),
    ("cnn_6_16", 10, 62_006, "intrinsic"),
]
MACS = [
    ("resnet8", "12.50M", "dxy"),
    ("resnet20", "40.81M", "chenyaofo"),
    ("resnet32", "69.12M", "chenyaofo"),
    ("resnet44", "97.44M", "chenyaofo"),
    ("resnet56", "125.75M", "chenyaofo"),
    ("resnet110", "253.15M", "dxy"),
    ("resnet10", "253M", "disk"),
    ("resnet18", "555M", "disk"),
    ("resnet34", "1159M", "disk"),
    ("resnet50", "1.31G", "mmpretrain"),
    ("resnet101", "2.52G", "mmpretrain"),
    ("resnet152", "3.74G", "mmpretrain"),
    ("wrn_16_1", "26.8M", "blockswap"),
    ("wrn_16_2", "101.4M", "blockswap"),
    ("wrn_16_4", 392_612_352, "log"),
    ("wrn_16_8", "1.55G", "counted"),
    ("wrn_28_10", "5243.33M", "dxy"),
    ("wrn_40_1", "83.6M", "blockswap"),
    ("wrn_40_2", "328.3M", "blockswap"),
    ("wrn_40_4", "1.3B", "pde"),
    ("resnext29_8x64d", "5.4G", "dhvt"),
    ("resnext29_16x64d", "10709.34M", "osmr"),
    pytest.param("pyramidnet110_84", "778.15M", "osmr", marks=pytest.mark.slow),
    pytest.param("pyramidnet200_240", "4563.40M", "osmr", marks=pytest.mark.slow),
    ("cnn_6_16", 651_720, "counted"),
]
RELATED_PARAMETERS = [
    Related("resnet14x4", 100, "2.77M", "overhaul", *wider_stem(2)),
    Related("resnet20x4", 10, 4_298_970, "distiller", *wider_stem(3)),
]
RELATED_MACS = [
    Related("resnet14", 10, "26.8M", "blockswap", -12_288, "WRN-16-1 has the same convolutions; of other BatchNorms come as many elements"),
    Related("resnet14x4", 10, 392_612_352, "log", *wider_stem(2, macs=True)),
    Related("resnet38x2", 10, "328.3M", "blockswap", -57_344, "WRN-40-2, as SimKD says: the same convolutions, as above"),
    Related("vgg11", 10, "153.29M", "chenyaofo", *usual_vgg(11)),
    Related("vgg13", 10, "228.79M", "chenyaofo", *usual_vgg(13)),
    Related("vgg16", 10, "313.73M", "chenyaofo", *usual_vgg(16)),
    Related("vgg19", 10, "398.66M", "chenyaofo", *usual_vgg(19)),
    Related(
        "vgg19", 100, "512.73M", "torch-pruning", 100 - 8_192, "the linear layer's bias; pooling's 122,880 for 131,072 of functional ReLUs"
    ),
    Related("shufflenetv1", 10, "40.38M", "thop", 29_184 + 959 * 10, "what is pooled, and the linear layer's sums"),
    Related("shufflenetv2", 10, "45.00M", "chenyaofo", 8 * 3 * 24 * 32 * 32, "a stem of 3 x 3, not 1 x 1"),
]
"""What is published of a network, or of its nearest relative, with all that it counts otherwise."""

COUNTED_TOO: dict[str, Callable[[Elements], int]] = {
    "blockswap": lambda made: made.norm,
    "mmpretrain": lambda made: 2 * made.norm + made.act,
    "thop": lambda made: 2 * made.norm,
    "torch-pruning": lambda made: 2 * made.norm + made.act + made.bias,
}
"""What these sources count besides matrix products and convolutions."""
LOOSE = {"osmr": 0.012}
"""Of this one it is only known by how much more it counts, at most."""

TORCHVISION = {
    "squeezenet1_0": torchvision.SqueezeNet1_0_Weights,
    "squeezenet1_1": torchvision.SqueezeNet1_1_Weights,
    "mobilenet_v2": torchvision.MobileNet_V2_Weights,
    "shufflenet_v2_x0_5": torchvision.ShuffleNet_V2_X0_5_Weights,
    "shufflenet_v2_x1_0": torchvision.ShuffleNet_V2_X1_0_Weights,
}
ONE_CHANNEL: dict[str, tuple[int, int | str]] = {"lenet5": (61_706, 416_520), "cnn_20_50": (431_080, "2.3M")}
"""Published for grey images only: LeNet-5 with every map connected (as "counted"), Caffe's LeNet at 28 pixels ("counted", "tutorial")."""

_LOOKED = (
    "no figure in 100 repositories (those of SOURCES, RepDistiller, mdistiller and their forks, BYOT's and PyramidNet's code, and others), nor where "
    "the name or our count itself was looked up; its rounded widths follow no law that would join it to the PyramidNets that have figures"
)
UNPUBLISHED = {
    "parameters": {"pyramidnet101_240": f"BYOT's, its paper has no counts: {_LOOKED}"},
    "macs": {"pyramidnet101_240": f"BYOT's: {_LOOKED}"},
}

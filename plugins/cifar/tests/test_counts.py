"""Parameters and MACs: against published figures, and against formulas that know the papers' definitions and no module (`formulas.py`).

A figure is written as its source prints it, and holds to one unit of its last digit; a whole number holds exactly. `SOURCES` says where
each was looked up. A name without a figure stands in `UNPUBLISHED`, with the reason; the formulas hold for it all the same.
"""

import pytest
from formulas import FORMULAS, VGG, shufflenetv2, vgg
from table import operations, parameters
from torchvision import models as torchvision

from kdcore_cifar import NETWORKS

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
    "gahaalt": "github.com/gahaalt/ResNets-in-tensorflow2, README.md (2.7 is cut off, not rounded)",
    "decadz": "github.com/Decadz/Evolved-Model-Agnostic-Loss, experiments/resources/__init__.py, each network's count",
    "cppn": "github.com/azadeh-naderi/CPPN-Assisted-Feature-Distillation, its test, which repeats the counts of the benchmark of arXiv:1910.10699",
    "simkd": "github.com/DefangChen/SimKD, README.md: WRN-40-2 plus three BatchNorms, 2 * (16 + 32 + 64) * 2 parameters",
    "log": "a public log of experiments that counts Conv and Linear MACs by hooks (the look-up names no repository)",
    "counted": "a public page that prints the count of this network (the look-up names no repository)",
}
"""The figures of PyramidNet's paper (3.8M, 26.6M) fit widths cut to whole numbers (3.86M, 26.62M); its code rounds them, as osmr's does."""

PARAMETERS = [
    ("resnet8", 10, "0.08M", "dxy"),
    ("resnet14", 10, "0.18M", "lipgrow"),
    ("resnet20", 10, "0.27M", "he"),
    ("resnet20", 10, 272_474, "osmr"),
    ("resnet20", 100, 278_324, "osmr"),
    ("resnet32", 10, "0.46M", "he"),
    ("resnet32", 10, "0.47M", "chenyaofo"),
    ("resnet44", 10, "0.66M", "he"),
    ("resnet44", 100, "0.67M", "chenyaofo"),
    ("resnet56", 10, 855_770, "osmr"),
    ("resnet110", 10, 1_730_714, "osmr"),
    ("resnet8x4", 100, "1.23M", "cppn"),
    ("resnet32x4", 100, "7.43M", "cppn"),
    ("resnet32x4", 100, 7_433_860, "counted"),
    ("resnet38x2", 10, 2_243_546 + 448, "simkd"),
    ("resnet10", 10, 4_903_242, "counted"),
    ("resnet18", 10, 11_173_962, "decadz"),
    ("resnet18", 100, "11.2M", "weiaicunzai"),
    ("resnet34", 10, 21_282_122, "decadz"),
    ("resnet50", 10, 23_520_842, "decadz"),
    ("resnet50", 100, "23.7M", "weiaicunzai"),
    ("resnet101", 10, 42_512_970, "decadz"),
    ("resnet152", 10, 58_156_618, "decadz"),
    ("wrn_16_1", 10, "0.1751M", "blockswap"),
    ("wrn_16_2", 10, "0.6917M", "blockswap"),
    ("wrn_16_4", 10, "2.7M", "gahaalt"),
    ("wrn_16_4", 100, "2.77M", "overhaul"),
    ("wrn_16_8", 10, "11.0M", "wrn"),
    ("wrn_16_8", 100, 11_007_540, "decadz"),
    ("wrn_22_8", 10, "17.2M", "wrn"),
    ("wrn_28_4", 100, "5.87M", "overhaul"),
    ("wrn_28_10", 10, 36_479_194, "osmr"),
    ("wrn_28_12", 10, "52.5M", "wrn"),
    ("wrn_40_1", 10, "0.5639M", "blockswap"),
    ("wrn_40_2", 10, "2.2435M", "blockswap"),
    ("wrn_40_4", 10, "8.9M", "wrn"),
    ("wrn_40_4", 100, 8_972_340, "decadz"),
    ("vgg8", 100, "3.96M", "cppn"),
    ("vgg11", 10, 9_231_114, "decadz"),
    ("vgg13", 10, 9_416_010, "decadz"),
    ("vgg13", 100, "9.46M", "cppn"),
    ("vgg16", 10, 14_728_266, "decadz"),
    ("vgg19", 10, 20_040_522, "decadz"),
    ("shufflenetv2", 10, "1.26M", "chenyaofo"),
    ("shufflenetv2", 100, "1.36M", "chenyaofo"),
    ("mobile_half", 100, "0.81M", "cppn"),
    ("resnext29_8x64d", 10, "34.4M", "resnext"),
    ("resnext29_16x64d", 10, 68_155_210, "osmr"),
    ("pyramidnet110_84", 10, 3_904_446, "osmr"),
    ("pyramidnet200_240", 10, 26_752_702, "osmr"),
    ("pyramidnet200_240", 100, "26.84M", "overhaul"),
]
MACS = [
    ("resnet8", "12.50M", "dxy"),
    ("resnet20", "40.81M", "chenyaofo"),
    ("resnet32", "69.12M", "chenyaofo"),
    ("resnet44", "97.44M", "chenyaofo"),
    ("resnet56", "125.75M", "chenyaofo"),
    ("resnet110", "253.15M", "dxy"),
    ("resnet38x2", "328.3M", "blockswap"),  # WRN-40-2's: to SimKD's words they differ in BatchNorms only
    ("resnet10", "253M", "disk"),
    ("resnet18", "555M", "disk"),
    ("resnet34", "1159M", "disk"),
    ("resnet50", "1.31G", "mmpretrain"),
    ("resnet101", "2.52G", "mmpretrain"),
    ("resnet152", "3.74G", "mmpretrain"),
    ("wrn_16_1", "26.8M", "blockswap"),
    ("wrn_16_2", "101.4M", "blockswap"),
    ("wrn_16_4", 392_612_352, "log"),
    ("wrn_28_10", "5243.33M", "dxy"),
    ("wrn_40_1", "83.6M", "blockswap"),
    ("wrn_40_2", "328.3M", "blockswap"),
    ("resnext29_16x64d", "10709.34M", "osmr"),
    pytest.param("pyramidnet110_84", "778.15M", "osmr", marks=pytest.mark.slow),
    pytest.param("pyramidnet200_240", "4563.40M", "osmr", marks=pytest.mark.slow),
    ("cnn_6_16", 651_720, "counted"),
]
COUNT_NORMS = {"osmr": 0.012, "blockswap": 0.005, "mmpretrain": 0.011}
"""By how much more these sources count than matrix products and convolutions."""

TORCHVISION = {
    "squeezenet1_0": torchvision.SqueezeNet1_0_Weights,
    "squeezenet1_1": torchvision.SqueezeNet1_1_Weights,
    "mobilenet_v2": torchvision.MobileNet_V2_Weights,
    "shufflenet_v2_x0_5": torchvision.ShuffleNet_V2_X0_5_Weights,
    "shufflenet_v2_x1_0": torchvision.ShuffleNet_V2_X1_0_Weights,
}
ONE_CHANNEL = {"lenet5": (61_706, 416_520), "cnn_20_50": (431_080, None)}
"""Published for grey images only: LeNet-5 with every map connected (as "counted"), Caffe's LeNet at 28 pixels (arXiv:1510.00149: 431 K)."""

_LOOKED = (
    "no figure in the repositories of SOURCES, RepDistiller, mdistiller, torchdistill, SimKD, mmrazor, or in what searches for one gave"
)
_VGG = "RepDistiller does not pool after the fourth block; the usual VGG's figures hold in test_the_usual_vgg"
UNPUBLISHED = {
    "parameters": {
        "resnet14x4": f"ours, after RepDistiller's x4: {_LOOKED}",
        "resnet20x4": f"ours, after RepDistiller's x4: {_LOOKED}",
        "resnet110x2": f"SimKD's: {_LOOKED}",
        "wrn_20_8": "BYOT's name of wrn_22_8, see test_two_names_of_one_network",
        "wrn_44_8": f"BYOT's, its paper has no counts: {_LOOKED}",
        "shufflenetv1": f"RepDistiller's: {_LOOKED}",
        "pyramidnet101_240": f"BYOT's, its paper has no counts: {_LOOKED}",
        "cnn_6_16": "the network of PyTorch's tutorial for CIFAR-10, which gives no count; that of lenet5 with three channels",
    },
    "macs": {
        **{name: _LOOKED for name in ("resnet14", "resnet8x4", "resnet14x4", "resnet20x4", "resnet32x4", "resnet110x2")},
        **{name: _LOOKED for name in ("wrn_16_8", "wrn_20_8", "wrn_22_8", "wrn_28_4", "wrn_28_12", "wrn_40_4", "wrn_44_8")},
        "vgg8": _LOOKED,
        **{f"vgg{depth}": _VGG for depth in (11, 13, 16, 19)},
        "shufflenetv1": _LOOKED,
        "shufflenetv2": "RepDistiller's stem is 1 x 1; the usual one's figure holds in test_the_usual_shufflenetv2",
        "mobile_half": "RepDistiller's stem has stride 2, and widths no multiples of 8: no other MobileNetV2 of half width is the same",
        "resnext29_8x64d": _LOOKED,
        "pyramidnet101_240": _LOOKED,
        "cnn_20_50": f"Caffe's LeNet: {_LOOKED}",
    },
}


def holds(found: int, published: int | str, more: float = 0.0) -> bool:
    """more: the part of the count by which the published one may exceed it."""
    if isinstance(published, int):
        return found == published
    digits, scale = published[:-1], {"M": 1e6, "G": 1e9}[published[-1]]
    unit = scale / 10 ** len(digits.partition(".")[2])
    return -unit <= float(digits) * scale - found <= unit + more * found


@pytest.mark.parametrize(("name", "classes", "published", "source"), PARAMETERS)
def test_parameters(name, classes, published, source):
    assert holds(parameters(name, num_classes=classes), published), SOURCES[source]


@pytest.mark.parametrize(("name", "published", "source"), MACS)
def test_macs(name, published, source):
    assert holds(operations(name), published, COUNT_NORMS.get(source, 0.0)), SOURCES[source]


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * name.startswith("pyramid")) for name in FORMULAS])
def test_formulas(name):
    """To the last parameter and the last multiplication, for each network but torchvision's."""
    assert (parameters(name), operations(name)) == FORMULAS[name]()


def test_every_network_has_a_figure_or_a_reason():
    plain = [row.values if hasattr(row, "values") else row for row in MACS]
    for kind, rows in ("parameters", PARAMETERS), ("macs", plain):
        one_channel = {name for name, counts in ONE_CHANNEL.items() if counts[kind == "macs"]}
        published = {row[0] for row in rows} | set(TORCHVISION) | one_channel
        assert published.isdisjoint(UNPUBLISHED[kind])
        assert published | set(UNPUBLISHED[kind]) == set(NETWORKS)
    assert {row[-1] for row in PARAMETERS + plain} <= set(SOURCES)
    assert set(FORMULAS) | set(TORCHVISION) == set(NETWORKS)


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvisions_own_words(name):
    meta = TORCHVISION[name].DEFAULT.meta
    assert parameters(name) == meta["num_params"]
    assert operations(name) / 1e9 == pytest.approx(meta["_ops"], abs=0.00051)


@pytest.mark.parametrize("name", ONE_CHANNEL)
def test_grey_images(name):
    published_parameters, published_macs = ONE_CHANNEL[name]
    assert parameters(name, in_chans=1) == published_parameters
    assert published_macs is None or operations(name, in_chans=1) == published_macs


@pytest.mark.parametrize(("depth", "figure"), [(11, "153.29M"), (13, "228.79M"), (16, "313.73M"), (19, "398.66M")])
def test_the_usual_vgg(depth, figure):
    """chenyaofo's pools after the fourth block, and has two more linear layers of 512: the same formula gives its MACs."""
    assert holds(vgg(VGG[depth], last_side=2).macs + 2 * 512 * 512, figure)


def test_the_usual_shufflenetv2():
    """chenyaofo's shufflenetv2_x1_0 has a stem of 3 x 3: 45.00M."""
    assert holds(shufflenetv2(stem_kernel=3).macs, "45.00M")


def test_two_names_of_one_network():
    """WRN20-8 of BYOT's table, read as 6n + 2 layers, is WRN-22-8, which counts the shortcuts."""
    assert parameters("wrn_20_8") == parameters("wrn_22_8")

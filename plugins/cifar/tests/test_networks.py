"""Each network is what timm and kdcore take a backbone to be."""

import pytest
import timm
import torch
from timm.models import group_parameters
from timm.models.resnet import BasicBlock
from torch import nn

import kdcore
from kdcore import KdError
from kdcore.backbones import checkpoint_gradients, create_backbone
from kdcore_cifar import NETWORKS
from kdcore_cifar.networks import build
from kdcore_cifar.pyramidnet import PyramidNet
from kdcore_cifar.resnet import ResNet, resnext29, small_stem
from kdcore_cifar.wrn import WideResNet

CLASSES = 4
SIZED = ("cnn_6_16", "cnn_20_50", "lenet5")
FAST = [*SIZED, "resnet8", "wrn_16_1", "vgg8", "shufflenetv1", "shufflenetv2", "mobile_half", "squeezenet1_1", "mobilenet_v2"]
EVERY = [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in NETWORKS]
SMALL = {  # of the families whose networks are large
    "resnext": lambda: ResNet(**resnext29(2, 8), num_classes=CLASSES),
    "pyramid": lambda: PyramidNet(20, 24, num_classes=CLASSES),
    "pyramid of pairs": lambda: PyramidNet(14, 24, bottleneck=False, num_classes=CLASSES),
    "wrn 6n + 2": lambda: WideResNet(8, 2, num_classes=CLASSES, block_drop_rate=0.3),
    "dropped paths": lambda: ResNet(**small_stem(BasicBlock, 1, 1, 1, 1), num_classes=CLASSES, drop_path_rate=0.2),
}


def side(name: str) -> int:
    return 64 if "url" in NETWORKS[name].config else 20


def made(name: str, **options) -> nn.Module:
    if name in SIZED:
        options.setdefault("img_size", side(name))
    return build(name, **{"num_classes": CLASSES, **options})


@pytest.mark.parametrize("name", [*EVERY, *SMALL])
def test_exits_strip_and_gradients(name):
    """Under kdcore: taps by themselves, linear exits, one step, and every exit stripped gives what the whole gave."""
    size = 20 if name in SMALL else side(name)
    backbone = SMALL[name]() if name in SMALL else f"cifar/{name}"
    composed = kdcore.compose(backbone, "deep-supervision", num_classes=CLASSES, image_size=size)
    images = torch.randn(2, 3, size, size)
    composed.task()(images, torch.tensor([0, 1]))["loss"].backward()
    for parameter in composed.student.parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all()
    taps = composed.student.backbone.taps
    assert 2 <= len(taps) <= 4
    composed.student.eval()
    with torch.no_grad():
        for number, logits in enumerate(composed.student(images).logits, start=1):
            torch.testing.assert_close(composed.student.strip(exit=number).eval()(images), logits, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", EVERY)
def test_shapes_on_the_meta_device(name):
    """feature_info tells the truth at the network's own size; the head has the classes and the embedding that are asked for."""
    with torch.device("meta"):
        net = build(name, num_classes=CLASSES, in_chans=1).eval()
        size = net.pretrained_cfg["input_size"][1]
        final, maps = net.forward_intermediates(torch.zeros(2, 1, size, size))
        assert net(torch.zeros(2, 1, size, size)).shape == (2, CLASSES)
        assert net.forward_head(final).shape == (2, CLASSES)
        assert net.forward_head(final, pre_logits=True).shape == (2, net.head_hidden_size)
        assert final.shape[1] == net.num_features
        for info, found in zip(net.feature_info, maps, strict=True):
            assert found.shape[1] == info["num_chs"]
            assert found.shape[2] == pytest.approx(size / info["reduction"], rel=0.45)
            assert info["module"] in dict(net.named_modules())
            assert info["preact"] is None or info["preact"] in dict(net.named_modules())
    assert timm.is_model(f"cifar_{name}") and net.pretrained_cfg["architecture"] == f"cifar_{name}"


@pytest.mark.parametrize("name", FAST)
def test_the_parts_make_the_whole(name):
    net = made(name).eval()
    images = torch.randn(2, 3, side(name), side(name))
    with torch.no_grad():
        logits = net(images)
        features = net.forward_features(images)
        final, maps = net.forward_intermediates(images)
        assert torch.equal(net.forward_head(features), logits)
        assert torch.equal(final, features)
        if net.feature_info[-1]["module"] == net.steps[-1]:
            assert torch.equal(maps[-1], final)
        assert torch.equal(net.forward_intermediates(images, norm=True)[1][-1], final) or net.normed_by is None
        only = net.forward_intermediates(images, indices=[-2, -1], intermediates_only=True, stop_early=True)
        assert all(torch.equal(one, other) for one, other in zip(only, maps[-2:], strict=True))
        assert len(net.forward_intermediates(images, indices=1, intermediates_only=True)) == 1
        first = net.forward_intermediates(images, indices=[0], stop_early=True)
        assert torch.equal(first[0], first[1][0]) and torch.equal(first[0], maps[0])


@pytest.mark.parametrize("name", FAST)
def test_other_heads(name):
    net = made(name)
    images = torch.randn(2, 3, side(name), side(name))
    net.reset_classifier(7)
    assert net(images).shape == (2, 7) and net.num_classes == 7
    assert net.get_classifier() is dict(net.named_modules())[net.pretrained_cfg["classifier"]]
    net.reset_classifier(0)
    assert net(images).shape == (2, net.head_hidden_size)
    net.reset_classifier(0, "")
    assert net(images).shape[:2] == (2, net.num_features)
    assert made(name, num_classes=0)(images).shape == (2, net.head_hidden_size)


@pytest.mark.parametrize("name", FAST)
def test_features_only_and_layer_groups(name):
    options = {"img_size": side(name)} if name in SIZED else {}
    images = torch.randn(1, 3, side(name), side(name))
    pyramid = timm.create_model(f"cifar_{name}", features_only=True, out_indices=(0, 1), **options).eval()
    maps = pyramid(images)
    assert [found.shape[1] for found in maps] == pyramid.feature_info.channels()
    net = made(name)
    groups = group_parameters(net, net.group_matcher(), reverse=True)
    assert set(groups) == {key for key, _ in net.named_parameters()}
    assert groups[next(iter(groups))] == 0 and max(groups.values()) == groups[[key for key, _ in net.named_parameters()][-1]]
    assert len(set(groups.values())) >= 3


@pytest.mark.parametrize("name", ["resnet8", "wrn_16_1", "vgg8", "shufflenetv1", "mobile_half", "squeezenet1_1", "mobilenet_v2"])
def test_gradient_checkpointing_keeps_less_and_changes_nothing(name):
    images = torch.randn(2, 3, side(name), side(name))
    grads = []
    for checkpointed in (False, True):
        torch.manual_seed(0)
        net = made(name, drop_rate=0.0)
        if checkpointed:
            checkpoint_gradients(net, (side(name), side(name)))  # raises where nothing is saved
        net(images).square().sum().backward()
        grads.append([parameter.grad for parameter in net.parameters()])
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_small_cnns_have_no_checkpointing_and_refuse_tiny_images():
    with pytest.raises(KdError, match="no gradient checkpointing"):
        checkpoint_gradients(made("lenet5"), (20, 20))
    with pytest.raises(KdError, match="at least 16"):
        kdcore.compose("cifar/lenet5", "plain", num_classes=3, image_size=12)


@pytest.mark.parametrize("name", ["resnet8", "lenet5", *(pytest.param(name, marks=pytest.mark.slow) for name in FAST[4:])])
def test_one_graph(name):
    torch.compiler.reset()  # they share one `forward`, of which torch compiles no more than eight kinds
    net, images = made(name).eval(), torch.randn(2, 3, side(name), side(name))
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(net, fullgraph=True, backend="aot_eager")(images), net(images))


@pytest.mark.parametrize("name", ["resnet8", "wrn_16_1", "vgg8", "shufflenetv1", "resnext29_8x64d"])
def test_maps_before_the_activation(name):
    """The tapped module's map becomes the stage's by a ReLU, where one ends the stage."""
    net = SMALL["resnext"]() if name.startswith("resnext") else made(name)
    names = [info["preact"] for info in net.feature_info]
    images = torch.randn(2, 3, 20, 20)
    with torch.no_grad():
        before = kdcore.Tapped(net.eval(), taps=names[1:], image_size=(20, 20))(images).maps[: len(names) - 1]
        after = net.forward_intermediates(images, norm=True)[1][1:]
    assert all(found.min() < 0 for found in before)
    pairs = [(before[-1], after[-1])] if net.normed_by else zip(before, after, strict=True)
    assert all(torch.equal(one.relu(), other) for one, other in pairs)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pretrained": True}, "no pretrained weights of 'cifar/resnet8': train it with --scratch"),
        ({"img_size": 32, "drop_path": 0.1}, "takes no drop_path"),
    ],
)
def test_refused_in_one_line(options, words):
    with pytest.raises(KdError, match=words):
        create_backbone("cifar/resnet8", **options)
    with pytest.raises(KdError, match="has no backbone 'cifar/resnet21'; did you mean 'cifar/resnet"):
        create_backbone("cifar/resnet21")


def test_vgg_pools_once_more_from_64_pixels():
    net = made("vgg8").eval()
    sizes = [[found.shape[2] for found in net.forward_intermediates(torch.zeros(1, 3, s, s), intermediates_only=True)] for s in (32, 64)]
    assert sizes == [[32, 16, 8, 4, 4], [64, 32, 16, 8, 4]]

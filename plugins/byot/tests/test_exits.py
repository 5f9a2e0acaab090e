"""Both kinds of exits on convolutional and flat backbones, at sizes down to maps of one pixel."""

import pytest
import timm
import torch
from torch import nn

from kdcore import attach_exits
from kdcore_byot.bottleneck import shrinkage, squeeze
from kdcore_byot.layers import attention_layer
from kdcore_byot.sepconv import chain, halvings

CLASSES = 5
BACKBONES = {
    "test_resnet": 32,
    "test_vit": 32,
    "test_convnext": 64,
    "test_efficientnet": 64,
    "mobilenetv3_small_050": 32,
    "resnet18": 40,
}


def built(name: str, exits: str, **options):
    size = BACKBONES[name]
    net = timm.create_model(name, num_classes=CLASSES, **({"img_size": size} if "vit" in name else {}))
    return attach_exits(net, exits, image_size=size, **options), torch.randn(3, 3, size, size)


@pytest.mark.parametrize("exits", ["byot.bottleneck", "byot.sepconv"])
@pytest.mark.parametrize("name", BACKBONES)
def test_shapes_and_gradients(name, exits):
    model, images = built(name, exits)
    outputs = model(images)
    taps = model.backbone.taps
    assert [tuple(logits.shape) for logits in outputs.logits] == [(3, CLASSES)] * len(taps)
    widths = [embedding.shape[1] for embedding in outputs.embeddings]
    if exits == "byot.bottleneck":
        assert widths == [model.backbone.embedding_dim] * len(taps)
    else:
        assert widths[:-1] == [tap.channels * 2 ** halvings(tap, taps[-1]) for tap in taps[:-1]]
    torch.stack([logits.square().sum() for logits in outputs.logits]).sum().backward()
    for parameter in model.branches.parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all()
    assert all(branch.classifier.weight.grad.abs().sum() > 0 for branch in model.branches.values())


@pytest.mark.parametrize(("size", "kernels"), [(28, [7, 4, 2, 1]), (32, [8, 4, 2, 1]), (64, [8, 4, 2, 1])])
def test_kernels_and_chains_after_the_stages_of_a_resnet(size, kernels):
    """CIFAR's 32 pixels with a small stem are the authors' case: maps of 32, 16, 8, 4."""
    net = timm.create_model("resnet18", num_classes=CLASSES)
    net.conv1, net.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    taps = attach_exits(net, "byot.sepconv", image_size=size).backbone.taps
    assert [halvings(tap, taps[-1]) for tap in taps] == [3, 2, 1, 0]
    assert [shrinkage(tap, taps[-1]) for tap in taps] == [(kernel, kernel) for kernel in kernels]


@pytest.mark.parametrize("exits", ["byot.bottleneck", "byot.sepconv"])
@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_stripped_exits_equal_the_whole(name, exits):
    model, images = built(name, exits)
    model(images)  # moves the BatchNorms off their initial statistics
    model.eval()
    with torch.no_grad():
        whole = model(images).logits
        for number, logits in enumerate(whole, start=1):
            torch.testing.assert_close(model.strip(exit=number).eval()(images), logits, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["scan", "final"])
@pytest.mark.parametrize("size", [(1, 1), (5, 7), (8, 8)])
def test_attention_scales_between_0_and_1_at_any_size(kind, size):
    features = torch.rand(2, 4, *size) + 0.1
    ratio = attention_layer(kind, 4)(features) / features
    assert ratio.shape == features.shape
    assert ratio.min() >= 0 and ratio.max() <= 1


def test_attention_is_for_the_branch_alone():
    model, images = built("test_resnet", "byot.bottleneck", attention="scan")
    plain = model.strip().eval()
    model.eval()
    torch.testing.assert_close(model(images).logits[-1], plain(images), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("option", "expected"), [({}, 128), ({"width": 16}, 16), ({"width": "quarter"}, 24)])
def test_width_within_the_bottleneck(option, expected):
    model, _ = built("test_resnet", "byot.bottleneck", **option)
    assert model.branches["0"].body[1].out_channels == expected


def test_parts_are_those_of_the_authors_code():
    """Kernels 8, 4, 2 and chains of 3, 2, 1 after the stages of a CIFAR ResNet; their parameters counted by hand."""
    assert squeeze(64, 128, 512, kernel=(8, 8))(torch.randn(2, 64, 32, 32)).shape == (2, 512)
    count = sum(parameter.numel() for parameter in squeeze(64, 128, 512, kernel=(8, 8)).parameters())
    assert count == (64 * 128 + 128) + (128 * 128 * 64 + 128) + (128 * 512 + 512) + 2 * (128 + 128 + 512)
    assert chain(64, 3)(torch.randn(2, 64, 32, 32)).shape == (2, 512)
    link = sum(parameter.numel() for parameter in chain(64, 1, attention="none").parameters())
    assert link == 64 * 9 + 64 * 64 + 2 * 64 + 64 * 9 + 64 * 128 + 2 * 128


@pytest.mark.parametrize("attention", ["none", "scan", "final"])
def test_one_graph(attention):
    body, features = chain(4, 2, attention=attention).eval(), torch.randn(2, 4, 7, 5)
    torch.testing.assert_close(torch.compile(body, fullgraph=True, backend="aot_eager")(features), body(features))

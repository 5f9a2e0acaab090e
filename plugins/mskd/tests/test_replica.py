"""Copies of the remaining stages: the architecture, its fresh weights, what they strip to, and where there is nothing to copy."""

import pytest
import timm
import torch
from torch import nn

from kdcore import KdError, Tapped, attach_exits
from kdcore.backbones import create_backbone
from kdcore_mskd.replica import closing, remaining

CLASSES = 3
REPLICATED = {
    "test_resnet_32px": 32,
    "resnet10t": 32,
    "test_convnext": 64,
    "test_efficientnet": 64,
    "mobilenetv3_small_050": 64,
    "cifar/resnet20": 32,
    "cifar/wrn_16_1": 32,
    "cifar/vgg8": 32,
}
every_backbone = pytest.mark.parametrize("name", REPLICATED)


def built(name):
    size = REPLICATED[name]
    return attach_exits(create_backbone(name, num_classes=CLASSES), "mskd.replica", image_size=size).eval(), torch.randn(2, 3, size, size)


@every_backbone
def test_every_exit_has_the_rest_of_the_architecture(name):
    """With the backbone's own weights in it, a replica gives the backbone's own last map, or what it pools; its own are others."""
    model, images = built(name)
    backbone, outputs = model.backbone, model(images)
    assert [tuple(logits.shape) for logits in outputs.logits] == [(2, CLASSES)] * len(backbone.taps)
    last, own = backbone.taps[-1].module, outputs.embeddings[-1]
    ends = closing(backbone, outputs.maps[-1], own)
    wanted = own if ends or torch.allclose(outputs.maps[-1].mean((2, 3)), own, atol=1e-4) else outputs.maps[-1].mean((2, 3))
    for key, branch in model.branches.items():
        names = [*remaining(backbone.net, backbone.taps[int(key)].module, last), *ends]
        assert names[-1 - len(ends)] == last and len(branch.body) == len(names) + 1
        for part, module in zip(names, branch.body, strict=False):
            theirs, ours = dict(backbone.net.get_submodule(part).named_parameters()), dict(module.named_parameters())
            assert {n: p.shape for n, p in ours.items()} == {n: p.shape for n, p in theirs.items()}
            assert all(not torch.equal(ours[n], theirs[n]) for n in theirs if theirs[n].ndim > 1 and theirs[n].std() > 0)
            module.load_state_dict(backbone.net.get_submodule(part).state_dict())
        torch.testing.assert_close(branch.body(outputs.maps[int(key)].clone()), wanted, rtol=1e-3, atol=1e-4)


def test_what_is_drawn_is_what_the_architecture_begins_with():
    """Not the weights that the backbone has come to, nor its statistics; and no two exits have the same."""
    net = timm.create_model("test_convnext", num_classes=CLASSES)
    for tensor in net.state_dict().values():
        tensor.fill_(7)
    model = attach_exits(net.requires_grad_(False), "mskd.replica", image_size=64)
    scales = [parameter for name, parameter in model.branches.named_parameters() if name.endswith(".gamma")]
    assert scales and all(parameter.eq(1e-6).all() for parameter in scales)
    assert all(parameter.requires_grad for parameter in model.branches.parameters())
    assert not any(tensor.eq(7).all() for tensor in model.branches.state_dict().values())
    one, other = (model.branches[key].body[-2].state_dict() for key in "01")
    assert any(not torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", ["test_resnet_32px", "cifar/wrn_16_1"])
def test_stripped_exits_equal_the_whole(name):
    model, images = built(name)
    model.train()(images)  # moves the BatchNorms off their initial statistics
    model.eval()
    with torch.no_grad():
        for number, logits in enumerate(model(images).logits, start=1):
            torch.testing.assert_close(model.strip(exit=number).eval()(images), logits, rtol=0, atol=1e-6)


def test_the_backbone_is_as_it_was():
    net = timm.create_model("test_resnet", num_classes=CLASSES)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    attach_exits(net, "mskd.replica", image_size=32)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert all(module.training for module in net.modules())


@pytest.mark.parametrize(("name", "size", "options"), [("test_vit", 32, {}), ("swin_tiny_patch4_window7_224", 64, {"embed_dim": 24})])
def test_stages_that_are_no_chain_of_maps_are_refused(name, size, options):
    with pytest.raises(KdError, match=rf"cannot copy what follows .* in backbone '{name}'.*--exits byot\.bottleneck"):
        attach_exits(create_backbone(name, num_classes=CLASSES, img_size=size, **options), "mskd.replica", image_size=size)


def test_a_network_that_no_name_builds_is_refused():
    net = timm.create_model("test_resnet", num_classes=CLASSES)
    net.layer4[0].conv2 = nn.Conv2d(net.layer4[0].conv2.in_channels, net.layer4[0].conv2.out_channels, 5, padding=2, bias=False)
    with pytest.raises(KdError, match="building 'test_resnet' once more"):
        attach_exits(net, "mskd.replica", image_size=32)


def test_what_follows_a_module_in_other_containers():
    net = nn.Sequential()
    for stage in "abc":
        net.add_module(stage, nn.Sequential(nn.Identity(), nn.Identity(), nn.Identity()))
    assert remaining(net, "a.0", "c.1") == ["a.1", "a.2", "b", "c.0", "c.1"]
    assert remaining(net, "a", "c") == ["b", "c"]
    assert remaining(net, "a.2", "a.2") == [] == remaining(net, "a", "a.2")
    assert remaining(net, "stem", "c") == [] == remaining(net, "a", "head")  # a HRNet's stage1 is a name and no module


def test_other_taps():
    model = attach_exits("test_resnet_32px", "mskd.replica", taps=[2], image_size=32)
    assert len(model(torch.randn(2, 3, 32, 32)).logits) == 2
    assert isinstance(model.backbone, Tapped)

"""Any timm backbone, tapped: the same answers, the same state, and maps wherever they are asked for."""

import copy
import pickle

import pytest
import timm
import torch
from torch import nn

import kdcore.backbones
from kdcore import KdError, Tapped
from kdcore.backbones import create_backbone, macs, parameter_count
from kdcore.tapped import Capture, copied, dry, unhooked

SIZES = {
    "test_resnet": 48,
    "test_vit": 160,
    "test_convnext": 64,
    "test_efficientnet": 64,
    "test_byobnet": 64,
    "test_mambaout": 64,
    "test_nfnet": 64,
    "mobilenetv3_small_050": 64,
    "mobilenetv4_conv_small_035": 64,
    "efficientvit_b0": 64,
    "mobilevit_xxs": 64,
    "levit_128s": 224,
    "crossvit_tiny_240": 240,
    "deit_tiny_distilled_patch16_224": 224,
}
"""Staged and flat, CNN and transformer; heads with BatchNorm (mobilenetv4, efficientvit), of two (deit, crossvit), with convolutions."""


def network(name: str, seed: int = 0, **options) -> nn.Module:
    torch.manual_seed(seed)
    return timm.create_model(name, num_classes=5, **options)


def images(name: str, count: int = 2, channels: int = 3) -> torch.Tensor:
    return torch.randn(count, channels, SIZES[name], SIZES[name], generator=torch.Generator().manual_seed(1))


def tapped(name: str, taps=None, **options) -> Tapped:
    return Tapped(network(name, **options), taps, (SIZES[name],) * 2)


def modules(model: Tapped) -> list[str]:
    return [tap.module for tap in model.taps]


@pytest.mark.parametrize("name", SIZES)
def test_the_answer_is_the_plain_models_bit_for_bit(name):
    """In eval mode, and in train mode with dropout, where every BatchNorm must run once and every mask be drawn once."""
    plain = network(name, drop_rate=0.3)
    model = Tapped(copied(plain), None, (SIZES[name],) * 2)
    seen = images(name)
    for mode in (False, True):
        plain.train(mode), model.train(mode)
        torch.manual_seed(2)
        wanted = plain(seen)
        torch.manual_seed(2)
        outputs = model(seen)
        if isinstance(wanted, tuple):
            wanted = wanted[0]
        assert len(outputs.logits) == 1 and torch.equal(outputs.logits[0], wanted)
    assert all(torch.equal(value, model.net.state_dict()[key]) for key, value in plain.state_dict().items())


@pytest.mark.parametrize("name", SIZES)
def test_maps_and_embeddings_are_as_the_dry_run_found_them(name):
    model = tapped(name).eval()
    with torch.no_grad():
        outputs = model(images(name))
    assert len(outputs.maps) == len(model.taps) >= 2
    for tap, found in zip(model.taps, outputs.maps, strict=True):
        assert found.shape == (2, tap.channels, tap.height, tap.width) and tap.reduction == SIZES[name] / tap.height
    reductions = [tap.reduction for tap in model.taps]
    assert reductions == sorted(reductions)
    assert outputs.embeddings[0].shape == (2, model.embedding_dim)
    assert not any(capture.values for capture in model._captures)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext", "test_byobnet", "mobilenetv3_small_050"])
def test_the_embedding_is_what_enters_the_classifier(name):
    model = tapped(name).eval()
    with torch.no_grad():
        outputs = model(images(name))
        torch.testing.assert_close(model.net.get_classifier()(outputs.embeddings[0]), outputs.logits[0])


@pytest.mark.parametrize("name", SIZES)
def test_tapping_restores_all_state(name):
    net = network(name)
    net.train()
    next(iter(net.children())).eval()
    modes, before = [part.training for part in net.modules()], copy.deepcopy(net.state_dict())
    draws = torch.get_rng_state()
    Tapped(net, "quarters", (SIZES[name],) * 2)
    assert [part.training for part in net.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), draws) and all(p.grad is None for p in net.parameters())


# -- where the taps are -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "taps", "wanted"),
    [
        ("test_resnet", None, ["layer1", "layer2", "layer3", "layer4"]),
        ("test_resnet", "stages", ["layer1", "layer2", "layer3", "layer4"]),
        ("test_vit", None, ["blocks.0", "blocks.2", "blocks.3", "blocks.5"]),
        ("test_vit", "quarters", ["blocks.0", "blocks.2", "blocks.3", "blocks.5"]),
        ("test_vit", [1], ["blocks.1", "blocks.5"]),
        ("test_vit", [4, 0, 2], ["blocks.0", "blocks.2", "blocks.4", "blocks.5"]),
        ("test_vit", [-1], ["blocks.5"]),
        ("test_vit", ["0", "3"], ["blocks.0", "blocks.3", "blocks.5"]),
        ("test_vit", ["blocks.4", "blocks.1"], ["blocks.1", "blocks.4", "blocks.5"]),
        ("test_vit", "blocks.1", ["blocks.1", "blocks.5"]),
        ("test_vit", ["blocks.1.attn"], ["blocks.1.attn", "blocks.5"]),
        ("test_vit", ["norm", 0], ["blocks.0", "norm", "blocks.5"]),
        ("test_resnet", ["layer2", "layer2", 2], ["layer2", "layer4"]),
        ("test_resnet", ["layer3.0.conv1", 1], ["layer1", "layer3.0.conv1", "layer4"]),
        ("test_resnet", [0, "layer1.0.conv2"], ["act1", "layer1.0.conv2", "layer4"]),
        ("test_convnext", ["stages.2.blocks.0.conv_dw"], ["stages.2.blocks.0.conv_dw", "stages.3"]),
    ],
)
def test_taps_by_stage_number_quarter_and_name(name, taps, wanted):
    model = tapped(name, taps).eval()
    assert modules(model) == wanted
    with torch.no_grad():
        outputs = model(images(name))
    assert [found.shape[1:] for found in outputs.maps] == [(tap.channels, tap.height, tap.width) for tap in model.taps]
    torch.testing.assert_close(outputs.logits[0], model.strip()(images(name)), rtol=0, atol=0)


def test_a_hooked_map_is_what_the_module_gave():
    model = tapped("test_resnet", ["layer3.0.conv1"]).eval()
    seen = []
    model.net.layer3[0].conv1.register_forward_hook(lambda module, args, output: seen.append(output))
    assert model(images("test_resnet")).maps[0] is seen[0]


def test_tokens_become_maps_without_the_prefix():
    model = tapped("test_vit", ["blocks.2.mlp"]).eval()
    assert model.net.num_prefix_tokens == 1
    assert model(images("test_vit")).maps[0].shape == (2, 64, 10, 10)


@pytest.mark.parametrize(
    ("name", "taps", "says"),
    [
        ("test_resnet", ["layr3"], "backbone 'test_resnet' has no module 'layr3' to tap; did you mean 'layer3'?"),
        ("test_resnet", [9], r"backbone 'test_resnet' has no tap 9: it has 0 to 4 \(act1, layer1, layer2, layer3, layer4\)"),
        ("test_resnet", ["-7"], "has no tap -7"),
        ("test_resnet", ["fc"], "'fc' gives a tensor of shape .* which is no map"),
        ("test_resnet", [""], "has no module ''"),
        ("test_vit", ["block.3"], "did you mean 'blocks.3'?"),
        ("test_vit", ["norm_pre", "head_drop"], "no map"),
    ],
)
def test_a_tap_that_does_not_exist(name, taps, says):
    with pytest.raises(KdError, match=says):
        tapped(name, taps)


def test_tapping_twice_is_tapping_once():
    net = network("test_resnet")
    Tapped(net, ["layer2.0.conv1"], (48, 48))
    model = Tapped(net, None, (48, 48)).eval()
    for _ in range(3):
        model(images("test_resnet"))
    captured = [hook.__self__ for part in net.modules() for hook in (*part._forward_pre_hooks.values(), *part._forward_hooks.values())]
    assert captured and all(isinstance(capture, Capture) and len(capture.values) <= 1 for capture in captured)


# -- what cannot be a backbone ----------------------------------------------------------------------------------------------------


def test_encoders_are_refused_by_name():
    for net, name in ((network("test_vit"), "test_vit"), (timm.create_model("test_resnet", num_classes=0), "test_resnet")):
        net.reset_classifier(0)
        with pytest.raises(KdError, match=f"backbone '{name}' does not classify"):
            Tapped(net)


def test_a_module_that_is_not_timms():
    with pytest.raises(KdError, match="backbone 'Linear' gives no intermediate features"):
        Tapped(nn.Linear(3, 2))


def test_an_image_size_that_does_not_run():
    name = "deit_tiny_distilled_patch16_224"
    with pytest.raises(
        KdError, match=rf"backbone '{name}' does not run on 3 x 48 x 48 images: .*; try another --img-size \(its own is 224\)"
    ):
        Tapped(network(name), None, (48, 48))


# -- sizes, channels, copies ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(33, 33), (17, 40), (61, 47), (16, 16)])
@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])
def test_odd_sizes(name, size):
    model = Tapped(network(name), None, size).eval()
    outputs = model(torch.randn(2, 3, *size))
    assert [found.shape[2:] for found in outputs.maps] == [(tap.height, tap.width) for tap in model.taps]


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext"])
def test_one_channel(name):
    model = tapped(name, in_chans=1).eval()
    assert model.in_chans == 1 and model(images(name, channels=1)).logits[0].shape == (2, 5)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "levit_128s"])
def test_copies_and_pickles(name):
    model = tapped(name, "quarters").eval()
    seen = images(name)
    model.net(seen)  # leaves what the hooks saw, with its graph
    wanted = model(seen).logits[0]
    for twin in (copied(model), pickle.loads(pickle.dumps(copied(model)))):
        assert torch.equal(twin(seen).logits[0], wanted)
        for parameter in twin.parameters():
            parameter.data.zero_()
    assert torch.equal(model(seen).logits[0], wanted)
    assert torch.equal(model.strip()(seen), wanted)


def test_strip_leaves_no_hook_and_has_timms_keys():
    model = tapped("test_resnet", ["layer3.0.conv1"])
    alone = model.strip()
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in alone.modules())
    assert list(alone.state_dict()) == list(network("test_resnet").state_dict()) and type(alone) is type(model.net)
    assert any(part._forward_hooks for part in model.net.modules())
    with pytest.raises(KdError, match="there is no exit 2: this model has one"):
        model.strip(2)


def test_only_captures_are_unhooked():
    net = network("test_resnet")
    net.layer1.register_forward_hook(lambda *_: None)
    assert len(unhooked(Tapped(net, None, (48, 48)).net).layer1._forward_hooks) == 1


def test_a_dry_run_puts_every_mode_back_even_when_it_fails():
    net = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1).eval())
    with pytest.raises(RuntimeError), dry(net):
        assert not net.training
        raise RuntimeError
    assert net.training and net[0].training and not net[1].training


# -- 32-pixel stems ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet18_32px", "resnet34_32px", "resnet50_32px", "test_resnet_32px"])
def test_small_stems_are_timm_models(name):
    assert kdcore.backbones is not None and timm.is_model(name)
    net = timm.create_model(name, num_classes=7, in_chans=1)
    original = timm.create_model(name.removesuffix("_32px"), num_classes=7, in_chans=1)
    assert net.pretrained_cfg["architecture"] == name and net.pretrained_cfg["input_size"] == (1, 32, 32)
    assert not net.pretrained_cfg["url"] and not net.pretrained_cfg["hf_hub_id"]
    model = Tapped(net, [0, 1, 2, 3, 4])
    assert model.image_size == (32, 32)
    for tap, info, before in zip(model.taps, net.feature_info, original.feature_info, strict=True):
        assert info["reduction"] == tap.reduction and info["num_chs"] == tap.channels == before["num_chs"]
    assert [tap.height for tap in model.taps] == [32, 32, 16, 8, 4]
    stem = sum(p.numel() for part in (original.conv1,) for p in part.parameters())
    assert parameter_count(net) == parameter_count(original) - stem + parameter_count(net.conv1)


def test_small_stems_have_no_pretrained_weights():
    for make in (timm.create_model, create_backbone):
        with pytest.raises(
            KdError, match=r"resnet18_32px is an architecture of its own and has no pretrained weights; .* --scratch or --init"
        ):
            make("resnet18_32px", pretrained=True)


def test_a_small_stem_loads_its_own_checkpoint(tmp_path):
    from safetensors.torch import save_file

    net = timm.create_model("test_resnet_32px", num_classes=3)
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    again = timm.create_model("test_resnet_32px", num_classes=3, checkpoint_path=str(tmp_path / "net.safetensors"))
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in again.state_dict().items())


def test_backbones_by_name():
    assert create_backbone("test_resnet", num_classes=3, drop_rate=None).num_classes == 3
    with pytest.raises(KdError, match="there is no backbone 'resnet81'; did you mean 'resnet18'"):
        create_backbone("resnet81")
    with pytest.raises(KdError, match="there is no backbone 'nowhere/resnet20'"):
        create_backbone("nowhere/resnet20")
    with pytest.raises(
        KdError, match=r"the pretrained weights of 'test_resnet' cannot be loaded .* --scratch, or give weights with --init"
    ):
        create_backbone("test_resnet", pretrained=True)


def test_costs():
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.Flatten(), nn.Linear(8 * 16, 10))
    assert parameter_count(net) == 3 * 8 * 9 + 8 * 16 * 10 + 10
    assert macs(net, torch.zeros(4, 3, 4, 4)) == 3 * 8 * 9 * 16 + 8 * 16 * 10
    assert net.training


@pytest.mark.parametrize("name", ["resnet18", "test_vit", "swin_tiny_patch4_window7_224", "coatnet_nano_rw_224", "crossvit_tiny_240"])
def test_a_backbone_is_built_for_the_size_of_its_images(name):
    before = torch.random.get_rng_state()
    with torch.device("meta"):
        net = create_backbone(name, num_classes=3, img_size=64).eval()
        assert net(torch.zeros(2, 3, 64, 64)).shape == (2, 3)
    torch.manual_seed(0)
    net = create_backbone("test_vit", num_classes=3, img_size=160)
    torch.manual_seed(0)
    plain = timm.create_model("test_vit", num_classes=3)
    assert all(torch.equal(value, plain.state_dict()[key]) for key, value in net.state_dict().items())
    torch.random.set_rng_state(before)


def test_an_option_that_a_backbone_lacks_is_named():
    with pytest.raises(KdError, match=r"backbone 'vgg11' takes no drop_path_rate \(--drop-path\)"):
        create_backbone("vgg11", num_classes=3, drop_path_rate=0.1, img_size=64)


def test_pretrained_weights_are_loaded_once(monkeypatch):
    built = []
    make = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained=False, **more: built.append(pretrained) or make(name, **more))
    create_backbone("test_vit", pretrained=True, img_size=32)
    assert built.count(True) == 1 and not any(built[:-1])


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "deit_tiny_distilled_patch16_224"])
def test_logits_alone_are_those_of_the_whole_answer_and_the_hooks_come_back(name):
    torch.manual_seed(0)
    model = Tapped(timm.create_model(name, num_classes=3), image_size=(SIZES[name],) * 2)
    images = torch.rand(2, 3, *model.image_size)
    with dry(model), torch.no_grad():
        whole = model(images)
        alone = model.classify(images)
        twin = copy.deepcopy(model)
        assert torch.equal(alone.logits[0], whole.logits[0]) and not alone.maps and not alone.embeddings
        assert not any(module._forward_pre_hooks for module in model.modules())
        for other in (model, twin):
            again = other(images)
            assert torch.equal(again.embeddings[0], whole.embeddings[0]) and len(again.maps) == len(model.taps)
            other.classify(images)
            assert not any(capture.values for capture in other._captures)


def test_a_tapped_map_is_not_kept_by_logits_alone():
    model = Tapped(timm.create_model("test_resnet", num_classes=3), taps=["layer1.0"], image_size=(48, 48))
    with dry(model), torch.no_grad():
        model.classify(torch.rand(2, 3, 48, 48))
    assert model._hooked and not any(capture.values for capture in model._hooked.values())


def test_a_subclass_with_an_answer_of_its_own_is_asked_for_it():
    class Doubled(Tapped):
        def forward(self, images):
            outputs = super().forward(images)
            return type(outputs)([2 * outputs.logits[0]], outputs.embeddings, outputs.maps)

    model, images = Doubled(timm.create_model("test_resnet", num_classes=3), image_size=(48, 48)), torch.rand(2, 3, 48, 48)
    with dry(model), torch.no_grad():
        assert torch.equal(model.classify(images).logits[0], model(images).logits[0])

"""Exits on any timm backbone: the backbone is left as it is, and every exit can be taken away alone."""

import pickle
import warnings

import pytest
import timm
import torch
from torch import nn

from kdcore import Context, KdError, MultiExit, Outputs, Tapped, attach_exits, linear
from kdcore.backbones import parameter_count
from kdcore.exits import Branch, Pooled
from kdcore.tapped import copied

SIZES = {
    "test_resnet": 48,
    "test_vit": 160,
    "test_convnext": 64,
    "test_efficientnet": 64,
    "test_byobnet": 64,
    "test_mambaout": 64,
    "mobilenetv3_small_050": 64,
    "mobilenetv4_conv_small_035": 64,
    "levit_128s": 224,
    "crossvit_tiny_240": 240,
}
CANNOT_BE_PRUNED = ("crossvit_tiny_240",)


def network(name: str, **options) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=5, **options)


def images(name: str, count: int = 2, channels: int = 3) -> torch.Tensor:
    return torch.randn(count, channels, SIZES[name], SIZES[name], generator=torch.Generator().manual_seed(1))


def multi_exit(name: str, taps=None, exits="linear", **options) -> nn.Module:
    return attach_exits(network(name, **options), exits, taps=taps, image_size=SIZES[name])


def randomised(model: nn.Module) -> nn.Module:
    """Statistics that are no ones and zeros, so that a lost BatchNorm shows."""
    with torch.no_grad():
        for name, value in model.named_buffers():
            if "running" in name:
                value.uniform_(0.5, 1.5)
    return model.eval()


@pytest.mark.parametrize("name", SIZES)
def test_the_last_exit_is_the_plain_model_bit_for_bit(name):
    plain = network(name, drop_rate=0.3)
    model = attach_exits(copied(plain), image_size=SIZES[name])
    seen = images(name)
    for mode in (False, True):
        plain.train(mode), model.train(mode)
        torch.manual_seed(2)
        wanted = plain(seen)
        torch.manual_seed(2)
        outputs = model(seen)
        assert torch.equal(outputs.logits[-1], wanted[0] if isinstance(wanted, tuple) else wanted)
        assert len(outputs.logits) == len(outputs.embeddings) == len(outputs.maps) == len(model.backbone.taps)
        assert all(entry.shape == (2, 5) for entry in outputs.logits)
    assert all(torch.equal(value, model.backbone.net.state_dict()[key]) for key, value in plain.state_dict().items())


@pytest.mark.parametrize("name", SIZES)
def test_every_exit_alone_answers_as_it_does_in_the_whole(name):
    model = randomised(multi_exit(name))
    seen = images(name, count=3)
    count = len(model.branches) + 1
    with torch.no_grad():
        wanted = model(seen).logits
        for number in range(1, count + 1):
            assert torch.equal(model.strip(number).eval()(seen), wanted[number - 1]), number
    last = model.strip()
    assert type(last) is type(model.backbone.net) and list(last.state_dict()) == list(network(name).state_dict())
    assert model.training is False and torch.equal(model(seen).logits[0], wanted[0])


@pytest.mark.parametrize("name", SIZES)
def test_what_a_shallow_exit_does_not_need_is_gone(name):
    model = multi_exit(name)
    sizes = [parameter_count(model.strip(number)) for number in range(1, len(model.branches) + 1)]
    whole = parameter_count(model.backbone.net)
    assert sizes == sorted(sizes)
    if name not in CANNOT_BE_PRUNED:
        assert sizes[0] < 0.75 * whole and all(size < whole for size in sizes)


def test_layers_after_the_tap_are_never_computed():
    model = multi_exit("test_convnext").eval()
    alone = model.strip(1).eval()
    with torch.no_grad():
        wanted = alone(images("test_convnext"))
        for name, parameter in alone.named_parameters():
            if "stages.1" in name or "stages.2" in name or "stages.3" in name:
                parameter.fill_(float("nan"))
        assert torch.equal(alone(images("test_convnext")), wanted)


@pytest.mark.parametrize(
    ("name", "taps", "exits"),
    [
        ("test_resnet", ["layer3.0.conv1", 1], 3),
        ("test_vit", [4, 0, 2], 4),
        ("test_vit", ["blocks.1.attn", "blocks.3"], 3),
        ("test_vit", "quarters", 4),
        ("test_convnext", ["stages.2.blocks.0.conv_dw"], 2),
    ],
)
@pytest.mark.parametrize("kind", ["linear", "byot.bottleneck", "byot.sepconv"])
def test_exits_at_any_tap(name, taps, exits, kind):
    model = randomised(multi_exit(name, taps, kind))
    seen = images(name)
    with torch.no_grad():
        wanted = model(seen).logits
        assert len(wanted) == exits
        for number in range(1, exits + 1):
            assert torch.equal(model.strip(number).eval()(seen), wanted[number - 1])


@pytest.mark.parametrize("number", [0, 5, -2])
def test_an_exit_that_does_not_exist(number):
    with pytest.raises(KdError, match=rf"there is no exit {number}: exits are numbered 1 \(shallowest\) to 4"):
        multi_exit("test_resnet").strip(number)


def test_a_stripped_exit_is_a_copy():
    model = multi_exit("test_resnet").eval()
    wanted = model(images("test_resnet")).logits
    for number in (1, -1):
        for parameter in model.strip(number).parameters():
            parameter.data.zero_()
    assert all(torch.equal(one, other) for one, other in zip(model(images("test_resnet")).logits, wanted, strict=True))


def test_stripping_after_a_pass_of_the_bare_backbone():
    """What its hooks saw hangs in a graph, which cannot be copied."""
    model = multi_exit("test_resnet")
    model.backbone.net(images("test_resnet"))
    model.strip(1), model.strip()


def test_a_tap_may_carry_no_exit():
    tapped = Tapped(network("test_resnet"), None, (48, 48))
    branches = [None, Branch(Pooled(), nn.Linear(48, 5)), None]
    model = MultiExit(tapped, branches).eval()
    outputs = model(images("test_resnet"))
    assert len(outputs.logits) == 2 and len(outputs.maps) == 4
    assert torch.equal(model.strip(1).eval()(images("test_resnet")), outputs.logits[0])
    with pytest.raises(KdError, match="4 branches for 3 taps before the last stage"):
        MultiExit(tapped, [nn.Identity()] * 4)


def test_a_backbone_with_one_tap_has_one_exit():
    model = attach_exits(network("test_resnet"), taps=[-1], image_size=48).eval()
    assert len(model(images("test_resnet")).logits) == 1
    assert torch.equal(model.strip(1)(images("test_resnet")), model(images("test_resnet")).logits[0])


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_one_channel_and_names_of_backbones(name):
    model = multi_exit(name, in_chans=1).eval()
    with torch.no_grad():
        assert torch.equal(model.strip(1).eval()(images(name, channels=1)), model(images(name, channels=1)).logits[0])
    assert attach_exits("test_resnet").backbone.image_size == (160, 160)


@pytest.mark.parametrize("size", [(33, 33), (17, 40)])
def test_odd_sizes(size):
    model = attach_exits(network("test_efficientnet"), "byot.bottleneck", image_size=size).eval()
    seen = torch.randn(2, 3, *size)
    assert all(torch.equal(model.strip(k + 1).eval()(seen), wanted) for k, wanted in enumerate(model(seen).logits))


def test_unknown_parts_and_options():
    for name, options, says in [
        ("linaer", {}, "there is no exit attachment 'linaer'; did you mean 'linear'?"),
        ("byot.bottelneck", {}, "did you mean 'byot.bottleneck'?"),
        ("byot.bottleneck", {"widht": 3}, "has no option 'widht'; did you mean 'width'?"),
        ("byot.bottleneck", {"width": 0}, "width=0 is refused"),
    ]:
        with pytest.raises(KdError) as error:
            attach_exits(network("test_resnet"), name, image_size=48, **options)
        assert says in str(error.value)


def test_the_same_seed_draws_the_same_exits():
    one, other, third = (attach_exits(network("test_resnet"), image_size=48, seed=seed) for seed in (1, 1, 2))
    pairs = zip(one.branches.parameters(), other.branches.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(one.branches["0"].classifier.weight, third.branches["0"].classifier.weight)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext", "levit_128s"])
def test_copies_and_pickles(name):
    model = multi_exit(name, None if name != "test_resnet" else ["layer3.0.conv1"]).eval()
    seen = images(name)
    model.train()
    model(seen)
    twins = [copied(model).eval(), pickle.loads(pickle.dumps(copied(model))).eval()]
    with torch.no_grad():
        wanted = model.eval()(seen)
        for twin in twins:
            found = twin(seen)
            assert all(torch.equal(a, b) for a, b in zip(found.logits + found.maps, wanted.logits + wanted.maps, strict=True))
            twin.requires_grad_(False)
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext"])
def test_a_multi_exit_model_can_be_exported(name):
    model = multi_exit(name).eval()
    seen = images(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = torch.export.export(model, (seen,), strict=False).module()
    with torch.no_grad():
        found, wanted = exported(seen), model(seen)
    assert isinstance(found, Outputs)
    for one, other in zip(found.logits + found.embeddings + found.maps, wanted.logits + wanted.embeddings + wanted.maps, strict=True):
        torch.testing.assert_close(one, other)


def test_every_exit_learns():
    model = multi_exit("test_resnet")
    outputs = model(images("test_resnet"))
    sum(logits.square().mean() for logits in outputs.logits).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_linear_exits_are_as_plain_as_can_be():
    tapped = Tapped(network("test_resnet"), None, (48, 48))
    model = linear(tapped, Context(num_classes=7, image_size=(48, 48)))
    outputs = model.eval()(images("test_resnet"))
    assert [tuple(entry.shape) for entry in outputs.logits] == [(2, 7)] * 3 + [(2, 5)]
    torch.testing.assert_close(outputs.embeddings[0], outputs.maps[0].mean(dim=(2, 3)))
    assert parameter_count(model.branches) == sum((tap.channels + 1) * 7 for tap in tapped.taps[:-1])

"""RepDistiller's checkpoints. Its names and shapes stand here in a table of our own, written down from its code."""

import pytest
import torch
from safetensors.torch import load_file

from kdcore.errors import FileError, KdError
from kdcore.loading import load_export, read_about
from kdcore.weights import load_initial, read_initial
from kdcore_cifar import NETWORKS
from kdcore_cifar.__main__ import main
from kdcore_cifar.convert import convert, our_name, read_checkpoint
from kdcore_cifar.networks import build


def bn(name, width, counter=True):
    shapes = {f"{name}.{part}": (width,) for part in ("weight", "bias", "running_mean", "running_var")}
    return shapes | ({f"{name}.num_batches_tracked": ()} if counter else {})


def conv_bn(conv, norm, width_out, width, kernel, bias=False):
    shapes = {f"{conv}.weight": (width_out, width, kernel, kernel)} | ({f"{conv}.bias": (width_out,)} if bias else {})
    return shapes | bn(norm, width_out)


def linear(name, width_out, width):
    return {f"{name}.weight": (width_out, width), f"{name}.bias": (width_out,)}


def resnet8x4():
    shapes, width = conv_bn("conv1", "bn1", 32, 3, 3), 32
    for number, wide in enumerate((64, 128, 256), start=1):
        block = f"layer{number}.0"
        shapes |= conv_bn(f"{block}.conv1", f"{block}.bn1", wide, width, 3) | conv_bn(f"{block}.conv2", f"{block}.bn2", wide, wide, 3)
        shapes |= conv_bn(f"{block}.downsample.0", f"{block}.downsample.1", wide, width, 1)
        width = wide
    return shapes | linear("fc", 100, 256)


def resnet50():
    shapes, width = conv_bn("conv1", "bn1", 64, 3, 3), 64
    for number, (inner, blocks) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), start=1):
        for k in range(blocks):
            block = f"layer{number}.{k}"
            shapes |= conv_bn(f"{block}.conv1", f"{block}.bn1", inner, width, 1) | conv_bn(
                f"{block}.conv2", f"{block}.bn2", inner, inner, 3
            )
            shapes |= conv_bn(f"{block}.conv3", f"{block}.bn3", 4 * inner, inner, 1)
            if k == 0:
                shapes |= conv_bn(f"{block}.shortcut.0", f"{block}.shortcut.1", 4 * inner, width, 1)
            width = 4 * inner
    return shapes | linear("linear", 100, 2048)


def wrn_16_2():
    shapes, width = {"conv1.weight": (16, 3, 3, 3)}, 16
    for number, wide in enumerate((32, 64, 128), start=1):
        for k in range(2):
            block = f"block{number}.layer.{k}"
            shapes |= bn(f"{block}.bn1", width) | {f"{block}.conv1.weight": (wide, width, 3, 3)}
            shapes |= bn(f"{block}.bn2", wide) | {f"{block}.conv2.weight": (wide, wide, 3, 3)}
            shapes |= {f"{block}.convShortcut.weight": (wide, width, 1, 1)} if width != wide else {}
            width = wide
    return shapes | bn("bn1", 128) | linear("fc", 100, 128)


def vgg13():
    shapes, width = {}, 3
    for number, wide in enumerate((64, 128, 256, 512, 512)):
        for place in (0, 3):
            shapes |= conv_bn(f"block{number}.{place}", f"block{number}.{place + 1}", wide, width, 3, bias=True)
            width = wide
    return shapes | linear("classifier", 100, 512)


def mobilenet():
    shapes, width = conv_bn("conv1.0", "conv1.1", 16, 3, 3), 16
    for number, (expansion, wide, repeats) in enumerate(
        ((1, 8, 1), (6, 12, 2), (6, 16, 3), (6, 32, 4), (6, 48, 3), (6, 80, 3), (6, 160, 1))
    ):
        for k in range(repeats):
            conv, inner = f"blocks.{number}.{k}.conv", width * expansion
            shapes |= conv_bn(f"{conv}.0", f"{conv}.1", inner, width, 1) | conv_bn(f"{conv}.3", f"{conv}.4", inner, 1, 3)
            shapes |= conv_bn(f"{conv}.6", f"{conv}.7", wide, inner, 1)
            width = wide
    return shapes | conv_bn("conv2.0", "conv2.1", 1280, 160, 1) | linear("classifier.0", 100, 1280)


def shuffle_v1():
    shapes, width = conv_bn("conv1", "bn1", 24, 3, 1), 24
    for number, (wide, repeats) in enumerate(((240, 4), (480, 8), (960, 4)), start=1):
        for k in range(repeats):
            block, new = f"layer{number}.{k}", wide - width if k == 0 else wide
            middle, groups = new // 4, 1 if width == 24 else 3
            shapes |= conv_bn(f"{block}.conv1", f"{block}.bn1", middle, width // groups, 1)
            shapes |= conv_bn(f"{block}.conv2", f"{block}.bn2", middle, 1, 3) | conv_bn(
                f"{block}.conv3", f"{block}.bn3", new, middle // 3, 1
            )
            width = wide
    return shapes | linear("linear", 100, 960)


def shuffle_v2():
    shapes, width = conv_bn("conv1", "bn1", 24, 3, 1), 24
    for number, (wide, repeats) in enumerate(((116, 3), (232, 7), (464, 3)), start=1):
        half, block = wide // 2, f"layer{number}.0"
        shapes |= conv_bn(f"{block}.conv1", f"{block}.bn1", width, 1, 3) | conv_bn(f"{block}.conv2", f"{block}.bn2", half, width, 1)
        shapes |= conv_bn(f"{block}.conv3", f"{block}.bn3", half, width, 1) | conv_bn(f"{block}.conv4", f"{block}.bn4", half, 1, 3)
        shapes |= conv_bn(f"{block}.conv5", f"{block}.bn5", half, half, 1)
        for k in range(1, repeats + 1):
            block = f"layer{number}.{k}"
            shapes |= conv_bn(f"{block}.conv1", f"{block}.bn1", half, half, 1) | conv_bn(f"{block}.conv2", f"{block}.bn2", half, 1, 3)
            shapes |= conv_bn(f"{block}.conv3", f"{block}.bn3", half, half, 1)
        width = wide
    return shapes | conv_bn("conv2", "bn2", 1024, 464, 1) | linear("linear", 100, 1024)


THEIR_NETWORKS = {
    "resnet8x4": resnet8x4,
    "ResNet50": resnet50,
    "wrn_16_2": wrn_16_2,
    "vgg13": vgg13,
    "MobileNetV2": mobilenet,
    "ShuffleV1": shuffle_v1,
    "ShuffleV2": shuffle_v2,
}


def drawn(shapes):
    """Distinct values, so that two tensors that changed places would show."""
    return {name: torch.randn(shape) if shape else torch.tensor(3) for name, shape in shapes.items()}


@pytest.mark.parametrize("network", THEIR_NETWORKS)
def test_every_tensor_has_its_place(network):
    """In the order in which RepDistiller's modules run, which is ours; DataParallel's prefix goes."""
    theirs = drawn(THEIR_NETWORKS[network]())
    net = build(our_name(network), num_classes=100)
    converted = convert(network, {f"module.{name}": tensor for name, tensor in theirs.items()})
    net.load_state_dict(converted)
    found = net.state_dict()
    assert len(found) == len(theirs)
    assert all(any(torch.equal(tensor, other) for other in found.values() if other.shape == tensor.shape) for tensor in theirs.values())
    for ours, name in (("fc.bias", list(theirs)[-1]), (next(iter(found)), next(iter(theirs)))):
        assert torch.equal(found[ours], theirs[name])


def test_names_that_change():
    theirs = drawn(wrn_16_2())
    ours = convert("wrn_16_2", theirs)
    assert torch.equal(ours["block2.0.shortcut.weight"], theirs["block2.layer.0.convShortcut.weight"])
    assert torch.equal(ours["block3.1.bn2.running_var"], theirs["block3.layer.1.bn2.running_var"])
    theirs = drawn(resnet50())
    assert torch.equal(convert("ResNet50", theirs)["layer1.0.downsample.1.bias"], theirs["layer1.0.shortcut.1.bias"])


def test_counters_that_old_torch_did_not_keep():
    theirs = {name: tensor for name, tensor in drawn(resnet8x4()).items() if not name.endswith("num_batches_tracked")}
    build("resnet8x4", num_classes=100).load_state_dict(convert("resnet8x4", theirs))


@pytest.mark.parametrize(
    ("network", "change", "words"),
    [
        ("resnet20", lambda t: t, "not the weights of RepDistiller's 'resnet20': for conv1.weight"),
        ("resnet8x4", lambda t: t | {"extra": torch.zeros(2)}, r"for extra there is \[2\], and the network wants nothing"),
        ("resnet8x4", lambda t: {name: t[name] for name in t if name != "bn1.bias"}, "for bn1.bias there is nothing"),
        ("resnet8x4", lambda t: {"conv1.weight": t["conv1.weight"]}, "no classifier"),
        ("resnet8x5", lambda t: t, "no network 'resnet8x5'.*did you mean 'resnet8x4'"),
        ("squeezenet1_1", lambda t: t, "no network 'squeezenet1_1'"),
    ],
)
def test_refusals(network, change, words):
    with pytest.raises(KdError, match=words):
        convert(network, change(drawn(resnet8x4())))


def test_from_a_file_to_a_teacher(tmp_path, capsys):
    tensors = drawn(resnet8x4())
    tensors |= {name: tensor.abs() for name, tensor in tensors.items() if name.endswith("running_var")}
    torch.save({"epoch": 240, "model": tensors, "best_acc": torch.tensor(72.5), "optimizer": {"state": {}}}, tmp_path / "ckpt.pth")
    out = tmp_path / "teacher" / "student.safetensors"
    assert main(["resnet8x4", str(tmp_path / "ckpt.pth"), str(out)]) == 0
    assert f"--teacher {out}" in capsys.readouterr().out
    assert torch.equal(load_file(out)["layer1.0.conv1.weight"], tensors["layer1.0.conv1.weight"])
    _, about = load_export(out)
    assert about["class_names"][0] == "apple" and len(about["class_names"]) == 100 and about["preprocessing"]["mean"][0] == 0.5071
    assert load_initial(build("resnet8x4", num_classes=100), read_initial(str(out)).tensors) == []
    assert main(["resnet8x4", str(tmp_path / "ckpt.pth"), str(out)]) == 74
    assert "model.json is there already" in capsys.readouterr().err


def test_classes_of_a_file(tmp_path, capsys):
    tensors = drawn(resnet8x4()) | {"fc.weight": torch.randn(2, 256), "fc.bias": torch.randn(2)}
    torch.save(tensors, tmp_path / "plain.pth")
    (tmp_path / "names.txt").write_text("cat\nsea lion\n\n")
    assert main(["resnet8x4", str(tmp_path / "plain.pth"), str(tmp_path / "a" / "w.safetensors")]) == 0
    assert "--classes FILE" in capsys.readouterr().err and not (tmp_path / "a" / "model.json").exists()
    names = ["--classes", str(tmp_path / "names.txt")]
    assert main(["resnet8x4", str(tmp_path / "plain.pth"), str(tmp_path / "b" / "w.safetensors"), *names]) == 0
    assert read_about(tmp_path / "b" / "model.json")["class_names"] == ["cat", "sea lion"]
    (tmp_path / "names.txt").write_text("cat\n")
    assert main(["resnet8x4", str(tmp_path / "plain.pth"), str(tmp_path / "c" / "w.safetensors"), *names]) == 2
    assert main(["resnet8x4", str(tmp_path / "plain.pth"), str(tmp_path / "w.pth")]) == 2


class Program:
    def __reduce__(self):
        return (print, ("run",))


def test_programs_are_not_run(tmp_path, capsys):
    torch.save({"model": Program()}, tmp_path / "evil.pth")
    (tmp_path / "text.pth").write_text("no checkpoint")
    torch.save({"model": {"epoch": 3}}, tmp_path / "numbers.pth")
    for name in ("evil.pth", "text.pth", "numbers.pth", "missing.pth"):
        with pytest.raises(FileError) as error:
            read_checkpoint(tmp_path / name)
        assert "\n" not in str(error.value)
    assert "run" not in capsys.readouterr().out


def test_every_network_of_theirs_is_in_the_list():
    theirs = (
        "resnet8 resnet14 resnet20 resnet32 resnet44 resnet56 resnet110 resnet8x4 resnet32x4 ResNet50 wrn_16_1 wrn_16_2 wrn_40_1 wrn_40_2"
    )
    theirs += " vgg8 vgg11 vgg13 vgg16 vgg19 MobileNetV2 ShuffleV1 ShuffleV2"
    assert {our_name(network) for network in theirs.split()} <= set(NETWORKS)

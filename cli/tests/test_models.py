"""`kd models`: backbones by family, and measured by a pattern."""

import json
import sys

import pytest

BACKBONES = '''
import timm
from kdcore import hookimpl

def tiny(pretrained=False, **kwargs):
    """timm's smallest."""
    return timm.create_model("test_resnet", **kwargs)

@hookimpl
def backbones():
    return {"tiny": tiny}
'''


def test_names_by_family_without_building(kd, monkeypatch):
    def built(*args, **kwargs):
        raise AssertionError("built")

    monkeypatch.setattr("kdcore.backbones.create_backbone", built)
    text = kd("models").stdout
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if len(line.split()) > 2}
    assert rows["hiera"][0].isdigit() and "hiera_tiny_224" in text and "cifar/resnet20" in text and "resnet18_32px" in text
    found = json.loads(kd("models", "--json").stdout)
    assert "resnet18" in found["families"]["resnet"] and found["broken"] == {}
    assert f"{sum(map(len, found['families'].values()))} backbones" in text


def test_measured_at_a_size(kd):
    found = json.loads(kd("models", "test_resnet*", "--img-size", "64", "--json").stdout)
    assert [one["name"] for one in found] == ["test_resnet", "test_resnet_32px"] and [one["pretrained"] for one in found] == [True, False]
    assert [tap["height"] for tap in found[0]["taps"]] == [16, 8, 4, 2] and found[0]["image_size"] == [64, 64]
    assert found[1]["macs"] > 8 * found[0]["macs"] and found[0]["refused"] is None
    header, row, small = [line for line in kd("models", "test_resnet*", "--img-size", "64").stdout.splitlines() if line.strip()]
    assert header.split()[:2] == ["backbone", "parameters"]
    assert "layer1 32 x 16, layer2 48 x 8, layer3 192 x 4, layer4 96 x 2" in row and " yes " in row and " none " in small
    assert "470 k" in row


def test_a_plugins_a_familys_and_one_with_a_tag(kd, distribution):
    distribution("kdcore-mini", "mini", BACKBONES, keywords="kdcore:backbone,kdcore-api:1")
    for pattern in ("mini/tiny", "mini", "min*/*"):
        (found,) = json.loads(kd("models", pattern, "--img-size", "32", "--json").stdout)
        assert found["name"] == "mini/tiny" and found["family"] == "mini" and found["macs"] > 0
    (tagged,) = json.loads(kd("models", "test_vit.r160_in1k", "--json").stdout)
    assert tagged["name"] == "test_vit.r160_in1k" and tagged["image_size"] == [160, 160]


def test_a_loose_file(kd, tmp_path):
    (tmp_path / "mine.py").write_text(BACKBONES)
    assert "mine/tiny" in kd("models", "mine/*", "-p", "mine.py", "--img-size", "32").stdout


def test_a_refusal_stands_in_its_row(kd):
    text = " ".join(kd("models", "mobilenetv5_300m_enc").stdout.split())
    assert "refused: backbone 'mobilenetv5_300m_enc' does not classify" in text and "294 M" in text


def test_a_broken_plugin_is_reported_and_others_are_not_imported(kd, distribution):
    distribution("kdcore-sour", "sour", "raise RuntimeError('went off')", keywords="kdcore:backbone,kdcore-api:1")
    distribution("kdcore-sweet", "sweet", "raise RuntimeError('imported')", keywords="kdcore:loss,kdcore-api:1")
    text = kd("models").stdout
    assert [line.split()[:3] for line in text.splitlines() if line.startswith("broken: ")] == [["broken:", "plugin", "'sour'"]]
    assert "went off" in text and "kdcore_sweet" not in sys.modules and "hiera_tiny_224" in text
    assert "test_vit" in kd("models", "test_vit").stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["resnett18"], "no backbone is called like 'resnett18'; did you mean 'resnet18'?"),
        (["nothing_of_this_kind*"], "no backbone is called like 'nothing_of_this_kind*'; kd models names them all"),
        (["_tiny"], "no backbone is called like '_tiny'; try '*_tiny*'"),
        (["--img-size", "32"], "--img-size needs a pattern: kd models 'resnet*' --img-size 32"),
        (["resnet18", "--img-size", "0"], "Invalid value for '--img-size'"),
    ],
)
def test_errors_are_one_line(kd, words, says):
    done = kd("models", *words, status=2)
    assert done.stderr.startswith(f"kd: {says}") and done.stderr.count("\n") == 1 and not done.stdout


def test_help_says_what_the_numbers_are(kd):
    text = kd("models", "--help").stdout
    assert "multiply-accumulates" in text and "kd models 'resnet*'" in text

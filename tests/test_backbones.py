"""Every timm backbone: what the catalogue says of it, on the meta device; and on the CPU, that the smallest of each family trains and strips.

All of timm's architectures are in `make test-all`. KD_BACKBONES=FILE goes on with a survey that was begun there (`python -m kdcore.catalogue`).
"""

import json
import os
import re
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from kdcore import KdError, attach_exits
from kdcore.backbones import create_backbone, macs
from kdcore.catalogue import names, survey
from kdcore.catalogue.facts import facts_of, is_flat
from kdcore.catalogue.page import TITLE, rendered
from kdcore.plugins import Plugins
from kdcore.shaped import shaped_lstms, shaped_maps
from kdcore.tapped import copied

PAGE = Path(__file__).parents[1] / "docs/backbones.md"
ENCODERS = {
    "deepseek_vit_412m_enc",
    "gemma4_vit_167m_enc",
    "gemma4_vit_570m_enc",
    "mobilenetv5_300m_enc",
    "qwen3_vit_88m_enc",
    "qwen3_vit_306m_enc",
    "qwen3_vit_416m_enc",
}
"""Those of timm 1.0.31."""


def page() -> dict[str, dict[str, str]]:
    """The rows of the written page's first table, by family."""
    lines = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in PAGE.read_text().splitlines() if line.startswith("|")]
    headings, _, *rows = lines[: next((k for k, line in enumerate(lines) if line[0] == "architecture"), len(lines))]
    return {row[0]: dict(zip(headings, row, strict=True)) for row in rows}


def smallest(most: float = 30) -> list[str]:
    """The smallest of every family, of up to so many million parameters."""
    return [row["smallest"].strip("`") for row in page().values() if row["shape"] and float(row["parameters (M)"].split()[0]) <= most]


# -- one backbone -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parameters", "gmacs", "taps", "flat"),
    [
        ("hiera_tiny_224", 27.9, 4.9, [(96, 56), (192, 28), (384, 14), (768, 7)], False),
        ("sequencer2d_s", 27.7, 8.3, [(192, 32), (384, 16)], False),
        ("efficientvit_b0", 3.41, 0.1, [(16, 56), (32, 28), (64, 14), (128, 7)], False),
        ("levit_128s", 7.78, 0.3, [(128, 14), (256, 7), (384, 4)], False),
        ("test_vit", 0.37, 0.04, [(64, 10)] * 4, True),
    ],
)
def test_odd_families_attach(name, parameters, gmacs, taps, flat):
    """Parameters and multiply-accumulates are those that the papers print, or timm's own table."""
    facts = facts_of(name)
    assert (facts["refused"], facts["failed"]) == (None, None)
    assert facts["parameters"] / 1e6 == pytest.approx(parameters, rel=0.02) and facts["macs"] / 1e9 == pytest.approx(gmacs, rel=0.07)
    assert [(tap["channels"], tap["height"]) for tap in facts["taps"]] == taps and is_flat(facts) == flat
    assert json.loads(json.dumps(facts)) == facts


def test_an_encoder_is_refused_by_name():
    facts = facts_of("mobilenetv5_300m_enc")
    assert facts["refused"] == "backbone 'mobilenetv5_300m_enc' does not classify: it has no head; choose one that is not an encoder"
    assert facts["failed"] is None and facts["parameters"] > 1e8 and "taps" not in facts


def test_an_image_size_that_does_not_run_is_a_refusal():
    assert "backbone 'test_efficientnet' does not run on 3 x 0 x 0 images" in facts_of("test_efficientnet", img_size=0)["refused"]


def test_what_is_wrong_with_a_backbone_is_said_and_kept_apart(monkeypatch):
    def broken(*args, **kwargs):
        raise ZeroDivisionError("by nought\nand more")

    monkeypatch.setattr("kdcore.catalogue.facts.create_backbone", broken)
    facts = facts_of("test_resnet")
    assert facts["failed"] == "ZeroDivisionError: by nought" and facts["refused"] is None


def test_shapes_that_are_not_those_promised_are_a_failure(monkeypatch):
    attach = attach_exits

    def short_changed(net, **kwargs):
        model = attach(net, **kwargs)
        model.branches["0"].classifier = nn.Linear(32, 7, device="meta")
        return model

    monkeypatch.setattr("kdcore.catalogue.facts.attach_exits", short_changed)
    assert facts_of("test_resnet")["failed"] == "AssertionError: logits of another shape"


def test_macs_are_those_of_the_cpu():
    for name in ("test_vit", "test_resnet"):
        net = create_backbone(name, num_classes=1000)
        assert facts_of(name)["macs"] == macs(net, torch.zeros(1, 3, 160, 160))


def test_macs_where_forward_takes_a_view_of_a_parameter():
    """Of the class token in CaiT and PiT, of the query in an attention pool: torch's counter fails on those that ask for a gradient."""
    net = create_backbone("test_vit3", num_classes=1000)
    net.patch_embed.requires_grad_(False)
    before = {name: parameter.requires_grad for name, parameter in net.named_parameters()}
    assert macs(net, torch.zeros(2, 3, 160, 160)) == facts_of("test_vit3")["macs"] > 0
    assert before == {name: parameter.requires_grad for name, parameter in net.named_parameters()}


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("options", [{"bidirectional": True}, {"num_layers": 2}, {"proj_size": 5}, {"batch_first": False}], ids=str)
def test_an_lstm_by_its_shape(options):
    lstm = nn.LSTM(8, 16, **{"batch_first": True, **options})
    images = torch.rand(3, 5, 8)
    wanted, states = lstm(images)
    with shaped_lstms(lstm):
        found, more = lstm(images)
    assert found.shape == wanted.shape and [state.shape for state in more] == [state.shape for state in states]
    assert torch.equal(lstm(images)[0], wanted)
    with shaped_lstms(lstm):
        with shaped_lstms(lstm):
            pass
        assert torch.equal(lstm(images)[0], found)  # the outer block is still on
    assert torch.equal(lstm(images)[0], wanted)
    per_step = sum(weight.numel() for name, weight in lstm.named_parameters() if name.startswith("weight"))
    assert macs(lstm, images) == 5 * per_step, "five time steps of one sample, or one of five"


def test_a_grid_that_is_read_from_values():
    """As in gemma4, whose maps need Tensor.item(), which the meta device has not."""
    with torch.device("meta"):
        net = create_backbone("test_vit", img_size=(160, 96))
    plain = net.forward_intermediates

    def reads_values(images, output_fmt, **more):
        if output_fmt == "NCHW":
            images.sum().item()
        final, found = plain(images, output_fmt=output_fmt, **more)
        return final, found

    net.forward_intermediates = reads_values
    with pytest.raises(KdError, match="does not run"):
        attach_exits(net, image_size=(160, 96))
    with shaped_maps(net):
        model = attach_exits(net, image_size=(160, 96))
    assert net.forward_intermediates is reads_values
    assert [(tap.height, tap.width) for tap in model.backbone.taps] == [(10, 6)] * 4


# -- names ------------------------------------------------------------------------------------------------------------------------


def test_every_name_of_timm_stands_in_one_family():
    families = names.timm_families()
    listed = [name for family in families.values() for name in family]
    assert len(listed) == len(set(listed)) and set(listed) <= set(timm.list_models())
    assert {"resnet18_32px", "test_resnet_32px"} <= set(families[names.CORES]) and "resnet18" in families["resnet"]
    assert not any(name.startswith("cifar") for name in listed), "what a plugin registers with timm is listed under the plugin"


def test_patterns():
    families = {"resnet": ["resnet18", "resnet34"], "hiera": ["hiera_tiny"], "cifar": ["cifar/resnet8"]}
    assert list(names.matching("resnet*", families)) == ["resnet18", "resnet34"]
    assert names.matching("*resnet*", families)["cifar/resnet8"] == "cifar"
    assert list(names.matching("hiera", families)) == ["hiera_tiny"] and list(names.matching("cif*", families)) == ["cifar/resnet8"]
    assert names.matching("resnet18.a1_in1k", families) == {"resnet18.a1_in1k": "resnet"}
    for pattern, says in (("resnt18", "did you mean 'resnet18'"), ("tiny", "try '\\*tiny\\*'"), ("zzz*", "kd models names them all")):
        with pytest.raises(KdError, match=f"no backbone is called like '{re.escape(pattern)}'; {says}"):
            names.matching(pattern, families)


def test_plugins_of_other_families_are_not_imported():
    known = Plugins()
    families, broken = names.all_families(known)
    assert "cifar/resnet20" in families["cifar"] and not broken
    assert all("backbone" in known.infos[name][0].families for name in known.loaded if name != "kdcore")


# -- all of them ------------------------------------------------------------------------------------------------------------------


def test_a_survey_goes_on_where_it_stopped(tmp_path, monkeypatch):
    asked = []

    def noted(name, *, family):
        asked.append(name)
        return {"name": name, "family": family, "timm": timm.__version__, "refused": None, "failed": None}

    monkeypatch.setattr(survey, "facts_of", noted)
    monkeypatch.setattr(survey, "timm_families", lambda: {"a": ["a1", "a2"], "b": ["b1"], names.CORES: ["c1"]})
    file = tmp_path / "new" / "facts.jsonl"
    told = []
    assert [one["name"] for one in survey.survey(file, seen=lambda *args: told.append(args[:2]))] == ["a1", "a2", "b1"]
    assert told == [(1, 3), (2, 3), (3, 3)]
    lines = file.read_text().splitlines()
    elsewhere = json.dumps({**json.loads(lines[1]), "timm": "0.9"})
    file.write_text("\n".join([lines[0], elsewhere, lines[2][:20]]))
    asked.clear()
    assert [one["name"] for one in survey.survey(file)] == ["a1", "a2", "b1"] and asked == ["a2", "b1"]
    assert survey.read(file).keys() == {"a1", "a2", "b1"}
    asked.clear()
    monkeypatch.setattr("kdcore.__version__", "9")
    assert survey.survey(file) and asked == ["a1", "a2", "b1"]


def test_the_page_is_made_of_facts():
    flat = [{"module": f"blocks.{k}", "channels": 64, "reduction": 16.0} for k in range(2)]
    common = {"timm": "1.2", "refused": None, "failed": None, "image_size": [32, 32], "pretrained": True}
    facts = [
        {**common, "name": "big", "family": "vit", "parameters": 9_000_000, "taps": flat},
        {**common, "name": "small", "family": "vit", "parameters": 1_500_000, "taps": flat},
        {**common, "name": "enc", "family": "odd", "parameters": 9, "refused": "backbone 'enc' does not classify"},
    ]
    text = rendered(facts)
    assert text.startswith(TITLE) and "**2 of 2 that classify take exits**" in text and "timm 1.2 has 3 architectures in 2 families" in text
    assert "| vit | 2 | 2 | 1.5 to 9 | `small` | 32 | flat | blocks.0 (64, 16), blocks.1 (64, 16) |\n" in text
    assert text.endswith("| `enc` | backbone 'enc' does not classify |\n") and "Failed" not in text
    worse = [
        {**common, "name": "dead", "family": "odd", "failed": "TypeError: no"},
        {**common, "name": "one", "family": "odd", "refused": "one exit"},
    ]
    text = rendered([*facts, *worse])
    assert "**2 of 4 that classify take exits**" in text and "2 are refused by name" in text
    assert text.endswith("## Failed\n\n| architecture | reason |\n| --- | --- |\n| `dead` | TypeError: no |\n")


def test_the_page_has_the_families_of_timm():
    version = re.search(r"^timm (\S+) has", PAGE.read_text(), re.MULTILINE)[1]
    if version != timm.__version__:
        pytest.skip(f"the page is of timm {version}")
    counts = {family: len(found) for family, found in names.timm_families().items() if family != names.CORES}
    assert {family: int(row["models"]) for family, row in page().items()} == counts


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_every_architecture_attaches_or_is_refused_by_name(tmp_path):
    begun = os.environ.get("KD_BACKBONES")
    facts = survey.survey(Path(begun) if begun else tmp_path / "facts.jsonl", processes=os.cpu_count() or 1)
    assert not {one["name"]: one["failed"] for one in facts if one["failed"]}
    refused = {one["name"]: one["refused"] for one in facts if one["refused"]}
    assert all(reason.startswith(f"backbone '{name}' does not classify") for name, reason in refused.items())
    if timm.__version__ == "1.0.31":
        assert set(refused) == ENCODERS and len(facts) == 1371
    if f"\ntimm {timm.__version__} has" in PAGE.read_text():
        assert rendered(facts) == PAGE.read_text(), "python -m kdcore.catalogue --page docs/backbones.md"


@pytest.mark.slow
@pytest.mark.parametrize("name", smallest())
def test_the_smallest_of_a_family_trains_and_strips(name):
    """On the CPU: the last exit is the plain model bit for bit, gradients reach every exit, each exit alone answers as in the whole."""
    torch.manual_seed(0)
    plain = create_backbone(name, num_classes=5)
    model = attach_exits(copied(plain))
    images = torch.randn(2, model.backbone.in_chans, *model.backbone.image_size)
    plain.eval(), model.eval()
    with torch.no_grad():
        assert_same(model(images).logits[-1], plain(images), model.backbone.plain_forward)
    model.train()
    outputs = model(images)
    labels = torch.tensor([0, 1])
    torch.stack([nn.functional.cross_entropy(logits, labels) for logits in outputs.logits]).sum().backward()
    assert all(torch.isfinite(logits).all() for logits in outputs.logits)
    assert all(parameter.grad.abs().sum() > 0 for branch in model.branches.values() for parameter in branch.parameters())
    reached = [parameter.grad is not None for parameter in model.backbone.net.parameters() if parameter.requires_grad]
    assert sum(reached) > 0.9 * len(reached) and all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())
    model.eval()
    with torch.no_grad():
        wanted = model(images).logits
        for number, logits in enumerate(wanted, start=1):
            alone = model.strip(number).eval()
            assert_same(logits, alone(images), number < len(wanted) or model.backbone.plain_forward)
    assert type(alone) is type(plain) and list(alone.state_dict()) == list(plain.state_dict())


def assert_same(found, wanted, bit_for_bit):
    """Some models compute their logits in another order in one piece than by features and head."""
    wanted = wanted[0] if isinstance(wanted, tuple | list) else wanted
    torch.testing.assert_close(found, wanted, **({"rtol": 0, "atol": 0} if bit_for_bit else {}))

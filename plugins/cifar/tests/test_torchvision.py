"""torchvision's weights load as they are. None are fetched: a state dict of torchvision's own network stands in for the file."""

from urllib.error import URLError

import pytest
import timm
import torch
from timm.models import _builder
from torchvision import models as torchvision

from kdcore import KdError
from kdcore.backbones import create_backbone
from kdcore_cifar import NETWORKS

NAMES = ["squeezenet1_0", "squeezenet1_1", "mobilenet_v2", "shufflenet_v2_x0_5", "shufflenet_v2_x1_0"]


@pytest.mark.parametrize("name", NAMES)
def test_weights_of_a_file_give_torchvisions_logits(name, tmp_path):
    theirs = getattr(torchvision, name)().eval()
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    ours = timm.create_model(f"cifar_{name}", pretrained=True, pretrained_cfg_overlay={"file": str(tmp_path / "weights.pth")}).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images), rtol=0, atol=1e-5)
    options = {"num_classes": 5, "in_chans": 1, "pretrained_cfg_overlay": {"file": str(tmp_path / "weights.pth")}}
    grey = timm.create_model(f"cifar_{name}", pretrained=True, **options)
    first = grey.pretrained_cfg["first_conv"]
    torch.testing.assert_close(grey.get_submodule(first).weight, theirs.get_submodule(first).weight.sum(1, keepdim=True))
    assert grey(images[:, :1]).shape == (2, 5)


@pytest.mark.parametrize("name", NAMES)
def test_how_the_weights_want_their_images(name):
    config, weights = NETWORKS[name].config, next(w for w in torchvision.get_model_weights(name) if w.url == NETWORKS[name].config["url"])
    assert weights is torchvision.get_model_weights(name).DEFAULT
    assert (config["num_classes"], config["input_size"], config["interpolation"]) == (1000, (3, 224, 224), "bilinear")
    assert 224 / config["crop_pct"] == pytest.approx(weights.transforms().resize_size[0])


def test_without_a_network_one_line_says_what_to_do(monkeypatch):
    def offline(url, **_):
        raise URLError("no route to host")

    monkeypatch.setattr(_builder, "load_state_dict_from_url", offline)
    with pytest.raises(
        KdError, match=r"weights of 'cifar/squeezenet1_1' cannot be loaded .*no route to host.*--scratch, or give weights"
    ) as error:
        create_backbone("cifar/squeezenet1_1", pretrained=True)
    assert "\n" not in str(error.value)

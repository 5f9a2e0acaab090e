"""The paper's small networks, in timm's shape."""

import pytest
import torch

from kdcore import KdError, attach_exits, compose
from kdcore.backbones import create_backbone, parameter_count


@pytest.mark.parametrize(
    ("name", "channels", "size", "parameters"), [("osakd/cnn", 3, 32, 62006), ("osakd/lenet", 1, 28, 520 + 25050 + 400500 + 5010)]
)
def test_shapes_and_parameters_are_the_paper_s(name, channels, size, parameters):
    net = create_backbone(name, num_classes=10, in_chans=channels, img_size=size)
    assert parameter_count(net) == parameters
    assert net(torch.randn(2, channels, size, size)).shape == (2, 10)


def test_the_linear_layers_follow_the_image_size():
    net = create_backbone("osakd/cnn", num_classes=10, in_chans=1, img_size=28)
    assert net.hidden[0].in_features == 16 * 4 * 4 and net(torch.randn(2, 1, 28, 28)).shape == (2, 10)


def test_exits_can_be_attached_and_stripped():
    model = attach_exits(create_backbone("osakd/cnn"), "linear").eval()
    images = torch.randn(3, 3, 32, 32)
    outputs = model(images)
    assert [tuple(logits.shape) for logits in outputs.logits] == [(3, 10)] * 2 and outputs.embeddings[-1].shape == (3, 84)
    for number, logits in enumerate(outputs.logits, start=1):
        torch.testing.assert_close(model.strip(number).eval()(images), logits)


def test_the_method_trains_it():
    answer = compose("osakd/lenet", "osakd", num_classes=10, in_chans=1, image_size=28).task()(
        torch.randn(16, 1, 28, 28), torch.arange(16) % 10
    )
    answer["loss"].backward()
    assert answer["sd"].isfinite()


@pytest.mark.parametrize(
    ("options", "says"), [({"pretrained": True}, "no pretrained weights"), ({"img_size": 8}, "too small|do not run|does not run")]
)
def test_what_it_cannot_do(options, says):
    with pytest.raises((KdError, ValueError), match=says):
        net = create_backbone("osakd/cnn", **options)
        attach_exits(net, "linear", image_size=options["img_size"])

"""Two 5 x 5 convolutions, each with pooling, and two or three linear layers: LeNet-5 and the two small CNNs of OSAKD.

LeNet-5 after LeCun et al., 1998, in its usual form: every map of the second convolution sees every map of the first, tanh, average pooling
without parameters, a linear last layer. The linear layers fix the image's size, so `img_size` builds them for another than 32.
"""

from collections.abc import Sequence
from itertools import pairwise

from timm.layers import to_2tuple
from torch import Tensor, nn
from torch.nn import functional as F

from kdcore import KdError
from kdcore_cifar.staged import Staged, tap


class LeNet(Staged):
    """channels: of the two convolutions. hidden: widths of the linear layers before the classifier. act_conv: an activation after convolutions.

    Images have at least 16 pixels on each side; the classifier's input is the last hidden layer's output.
    """

    stage = "conv"

    def __init__(
        self,
        channels: Sequence[int] = (6, 16),
        hidden: Sequence[int] = (120, 84),
        act: type[nn.Module] = nn.ReLU,
        pool: type[nn.Module] = nn.MaxPool2d,
        act_conv: bool = True,
        num_classes: int = 10,
        in_chans: int = 3,
        drop_rate: float = 0.0,
        img_size: int | tuple[int, int] = 32,
    ) -> None:
        super().__init__()
        sides = [((side - 4) // 2 - 4) // 2 for side in to_2tuple(img_size)]
        if min(sides) < 1:
            raise KdError(f"images of {img_size} pixels are too small for two 5 x 5 convolutions with pooling: at least 16 (--img-size 32)")
        between = act if act_conv else nn.Identity
        self.conv1, self.act1, self.pool1 = nn.Conv2d(in_chans, channels[0], 5), between(), pool(2)
        self.conv2, self.act2, self.pool2 = nn.Conv2d(channels[0], channels[1], 5), between(), pool(2)
        self.steps = ("conv1", "act1", "pool1", "conv2", "act2", "pool2")
        self.feature_info = [tap("pool1", channels[0], 2, "conv1"), tap("pool2", channels[1], 4, "conv2")]
        widths = (channels[1] * sides[0] * sides[1], *hidden)
        self.hidden = nn.Sequential(nn.Flatten(1))
        for width, width_out in pairwise(widths):
            self.hidden.append(nn.Linear(width, width_out)).append(act())
        self.num_features, self.head_hidden_size = channels[1], widths[-1]
        self.num_classes, self.in_chans, self.drop_rate = num_classes, in_chans, drop_rate
        self.fc = nn.Linear(widths[-1], num_classes) if num_classes else nn.Identity()

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = self.hidden(x)
        if self.drop_rate:
            x = F.dropout(x, p=float(self.drop_rate), training=self.training)
        return x if pre_logits else self.fc(x)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Another last layer; global_pool '' drops the hidden layers too, and `forward` gives maps."""
        some = next(self.parameters())
        self.num_classes = num_classes
        if global_pool == "":
            self.hidden = nn.Identity()
        width = self.head_hidden_size
        self.fc = nn.Linear(width, num_classes, device=some.device, dtype=some.dtype) if num_classes else nn.Identity()

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        assert not enable, "gradient checkpointing not supported"

    def group_matcher(self, coarse: bool = False) -> dict:
        return {"stem": r"^conv1\.", "blocks": [(r"^conv2\.", None), (r"^hidden\.", None)]}

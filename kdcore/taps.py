"""Where maps are taken from a backbone: by stages, by quarters of the depth, by number or by module."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from kdcore.errors import KdError

TapSpec = Sequence[int | str] | str | None
"""None or "stages", "quarters", numbers into the backbone's `feature_info` (a ViT's blocks, a CNN's stages), or dotted module names."""


@dataclass(frozen=True)
class Tap:
    """One place where maps are taken. `index`: its number in `feature_info`, or None where a module of another name is hooked."""

    module: str
    index: int | None
    channels: int
    height: int
    width: int
    reduction: float

    @property
    def name(self) -> str:
        return self.module


def default_taps(everything: list[Tap]) -> list[Tap]:
    """The last entry at each of the last four distinct reductions (a stem is no stage); quarters of the depth of a flat model."""
    last_at: dict[float, Tap] = {}
    for tap in everything:
        last_at[tap.reduction] = tap
    if len(last_at) == 1:
        return quarters(everything)
    stages = sorted(last_at.values(), key=lambda tap: tap.index or 0)
    if len(stages) > 1 and stages[0].index == 0 and stages[0].module.split(".")[0] in ("stem", "act1", "conv_stem", "bn1", "conv1"):
        stages = stages[1:]
    chosen = stages[-4:]
    if chosen[-1] != everything[-1]:
        chosen.append(everything[-1])
    return chosen[-4:]


def quarters(everything: list[Tap]) -> list[Tap]:
    count = len(everything)
    return [everything[k] for k in sorted({max(count * part // 4, 1) - 1 for part in (1, 2, 3, 4)})]


def as_nchw(found: Tensor, tap: Tap | str, net: nn.Module) -> Tensor:
    """A hooked module's output as [B, C, H, W]: a map as it is, channels-last maps turned, tokens put back on their square grid."""
    name = tap if isinstance(tap, str) else tap.module
    if found.ndim == 4:
        return found.permute(0, 3, 1, 2) if getattr(net, "output_fmt", "NCHW") == "NHWC" else found
    if found.ndim == 3:
        prefix = getattr(net, "num_prefix_tokens", 0)
        patches = getattr(getattr(net, "patch_embed", None), "grid_size", None)
        count = found.shape[1] - prefix
        height, width = patches if patches and patches[0] * patches[1] == count else (round(count**0.5),) * 2
        if height * width == count:
            return found[:, prefix:].transpose(1, 2).reshape(found.shape[0], found.shape[2], height, width)
    raise KdError(f"module '{name}' gives a tensor of shape {tuple(found.shape)}, which is no map; tap another")

"""The README's table of networks, from the networks themselves: `python tests/table.py` prints it."""

from functools import cache

import torch

from kdcore.backbones import macs, parameter_count
from kdcore_cifar import NETWORKS
from kdcore_cifar.networks import build


@cache
def parameters(name: str, **options) -> int:
    """On the meta device, as below: nothing is drawn or computed."""
    with torch.device("meta"):
        return parameter_count(build(name, **options))


@cache
def operations(name: str, **options) -> int:
    """MACs of one image of the network's own size."""
    with torch.device("meta"):
        net = build(name, **options)
        return macs(net, torch.zeros(1, net.in_chans, *net.pretrained_cfg["input_size"][1:]))


def rows() -> list[str]:
    lines = []
    for name, network in NETWORKS.items():
        paper = f"[{network.paper}](https://arxiv.org/abs/{network.paper})" if network.paper[0].isdigit() else network.paper
        classes, size = network.config.get("num_classes", 10), network.config.get("input_size", (3, 32, 32))[1]
        lines.append(f"| `cifar/{name}` | {size} | {classes} | {parameters(name):,} | {operations(name) / 1e6:,.1f} | {paper} |")
    return lines


if __name__ == "__main__":
    print("\n".join(rows()))

"""The README's table of networks, from the networks themselves: `python tests/table.py` prints it."""

import torch

from kdcore.backbones import macs, parameter_count
from kdcore_cifar import NETWORKS
from kdcore_cifar.networks import build


def counted(name: str, **options) -> tuple[int, int]:
    """Parameters, and MACs of one image of the network's own size. On the meta device: nothing is drawn or computed."""
    with torch.device("meta"):
        net = build(name, **options)
        channels, *size = net.pretrained_cfg["input_size"]
        return parameter_count(net), macs(net, torch.zeros(1, options.get("in_chans", channels), *size))


def rows() -> list[str]:
    lines = []
    for name, network in NETWORKS.items():
        parameters, operations = counted(name)
        paper = f"[{network.paper}](https://arxiv.org/abs/{network.paper})" if network.paper[0].isdigit() else network.paper
        classes, size = network.config.get("num_classes", 10), network.config.get("input_size", (3, 32, 32))[1]
        lines.append(f"| `cifar/{name}` | {size} | {classes} | {parameters:,} | {operations / 1e6:,.1f} | {paper} |")
    return lines


if __name__ == "__main__":
    print("\n".join(rows()))

"""Exits that change the answer of the backbone's own head, which the stripped student does not know.

The kit says: strip(-1) must compute what forward computes
"""

from dataclasses import replace

from torch import nn

from kdcore import Branch, MultiExit, hookimpl
from kdcore.exits import Pooled


class Cold(MultiExit):
    """Linear exits, and the deepest exit's logits at half their size."""

    def forward(self, images):
        outputs = super().forward(images)
        return replace(outputs, logits=[*outputs.logits[:-1], outputs.logits[-1] / 2])


def cold(backbone, context):
    """One linear layer on every tap but the last."""
    return Cold(backbone, [Branch(Pooled(), nn.Linear(tap.channels, context.num_classes)) for tap in backbone.taps[:-1]])


@hookimpl
def exits():
    return {"cold": cold}

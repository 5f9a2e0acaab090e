"""Exits of which one alone answers otherwise than among the others.

The kit says: strip(exit) counts from 1, shallow to deep
"""

from torch import nn

from kdcore import Branch, MultiExit, hookimpl
from kdcore.exits import Pooled


class FromNought(MultiExit):
    """Linear exits whose numbers begin at 0 when they are stripped."""

    def strip(self, exit=-1):
        return super().strip(exit if exit == -1 else min(exit + 1, len(self.branches)))


def counted(backbone, context):
    """One linear layer on every tap but the last."""
    return FromNought(backbone, [Branch(Pooled(), nn.Linear(tap.channels, context.num_classes)) for tap in backbone.taps[:-1]])


@hookimpl
def exits():
    return {"counted": counted}

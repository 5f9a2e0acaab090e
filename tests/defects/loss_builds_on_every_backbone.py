"""The width of a ResNet's embedding, typed in place of asked for.

The kit says: what it cannot do is declared: cannot =
"""

from torch import nn

from kdcore import hookimpl

WIDTH = 96


class Gap(nn.Module):
    """The squared mean of a projected embedding of the deepest exit."""

    def __init__(self):
        super().__init__()
        self.project = nn.Linear(WIDTH, 8)

    def forward(self, step, targets=None):
        return self.project(step.outputs.embeddings[-1]).square().mean()


@hookimpl
def losses():
    return {"gap": Gap}

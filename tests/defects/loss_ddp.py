"""Its projection rests in a batch of one class, and DistributedDataParallel waits for it for ever.

The kit says: let every parameter take part in every step
"""

from torch import nn

from kdcore import hookimpl


class Gap(nn.Module):
    """The squared mean of a projection of the deepest exit's logits, where a batch has several classes."""

    cannot = {"sync": "it looks at the labels", "compile": "it looks at the labels"}

    def __init__(self):
        super().__init__()
        self.project = nn.LazyLinear(8)

    def forward(self, step, targets=None):
        logits = step.outputs.logits[-1]
        if (step.batch.labels == step.batch.labels[0]).all():
            return logits.square().mean()
        return self.project(logits).square().mean()


@hookimpl
def losses():
    return {"gap": Gap}

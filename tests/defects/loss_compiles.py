"""It counts its calls in Python, so that no graph serves two steps.

The kit says: write it with tensor operations alone
"""

from torch import nn

from kdcore import hookimpl


class Gap(nn.Module):
    """The squared gap of log-probabilities; `calls` is how often it was asked."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, step, targets):
        self.calls += 1
        wanted = targets.logits[0].log_softmax(-1)
        return sum((logits.log_softmax(-1) - wanted).square().mean() for logits in step.outputs.logits)


@hookimpl
def losses():
    return {"gap": Gap}

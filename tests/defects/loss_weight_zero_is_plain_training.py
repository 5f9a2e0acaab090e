"""It changes the student as it is set up, though nobody gave it a weight.

The kit says: it must not change outputs or the student in place
"""

from torch import nn

from kdcore import hookimpl


class Gap(nn.Module):
    """The squared gap of log-probabilities, on a student whose BatchNorm it slows down."""

    def setup(self, context):
        for module in context.student.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.01

    def forward(self, step, targets):
        wanted = targets.logits[0].log_softmax(-1)
        return sum((logits.log_softmax(-1) - wanted).square().mean() for logits in step.outputs.logits)


@hookimpl
def losses():
    return {"gap": Gap}

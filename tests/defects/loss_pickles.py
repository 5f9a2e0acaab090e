"""It keeps a lambda, which no worker process is sent.

The kit says: keep no lambda
"""

from kdcore import hookimpl


class Gap:
    """The squared gap of log-probabilities."""

    def __init__(self):
        self.logs = lambda logits: logits.log_softmax(-1)

    def __call__(self, step, targets):
        wanted = self.logs(targets.logits[0])
        return sum((self.logs(logits) - wanted).square().mean() for logits in step.outputs.logits)


@hookimpl
def losses():
    return {"gap": Gap}

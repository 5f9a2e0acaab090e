"""It brings its targets to the host, and waits for them.

The kit says: keep it on the device
"""

from kdcore import hookimpl


def gap(step, targets):
    """The squared gap between the log-probabilities of every exit and of its target."""
    wanted = targets.logits[0].cpu().log_softmax(-1)
    return sum((logits.log_softmax(-1) - wanted.to(logits)).square().mean() for logits in step.outputs.logits)


@hookimpl
def losses():
    return {"gap": gap}

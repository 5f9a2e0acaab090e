"""It divides by the number of classes that are neither the right one nor the next.

The kit says: for two classes; K - 1 and K - 2 are 1 and 0 there
"""

from kdcore import hookimpl


def rest(step, targets=None):
    """The mean square of all logits, in units of the classes between the first and the last."""
    logits = step.outputs.logits[-1]
    return logits.square().sum(1).mean() / (logits.shape[1] - 2)


@hookimpl
def losses():
    return {"rest": rest}

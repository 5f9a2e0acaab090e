"""It declares a limit that the kit does not know, so that its reader thinks a check is excused.

The kit says: did you mean 'two_classes'?
"""

from kdcore import hookimpl


def hits(logits, labels):
    """The share of right answers."""
    return float((logits.argmax(1) == labels).float().mean())


hits.cannot = {"two_clases": "needs three grades"}


@hookimpl
def metrics():
    return {"hits": hits}

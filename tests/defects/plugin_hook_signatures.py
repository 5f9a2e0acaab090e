"""A hook with a default, which pluggy never passes on.

The kit says: write def metrics()
"""

from kdcore import hookimpl


def hits(logits, labels):
    """The share of right answers."""
    return float((logits.argmax(1) == labels).float().mean())


@hookimpl
def metrics(context=None):
    return {"hits": hits}

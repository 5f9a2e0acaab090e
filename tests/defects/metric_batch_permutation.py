"""It looks at the first half of the samples alone.

The kit says: it must not ask where they stand
"""

from kdcore import hookimpl


def hits(logits, labels):
    """The share of right answers, in a hurry."""
    half = (len(labels) + 1) // 2
    return float((logits[:half].argmax(1) == labels[:half]).float().mean())


@hookimpl
def metrics():
    return {"hits": hits}

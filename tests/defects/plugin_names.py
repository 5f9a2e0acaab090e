"""A part that nobody can type as it is written.

The kit says: call it top-1-share
"""

from kdcore import hookimpl


def hits(logits, labels):
    """The share of right answers."""
    return float((logits.argmax(1) == labels).float().mean())


@hookimpl
def metrics():
    return {"Top-1_Share": hits}

"""Its keywords name a family that it has no part of, and not the one that it has.

The kit says: write "kdcore:metric" among the keywords in pyproject.toml
"""

from kdcore import hookimpl


def hits(logits, labels):
    """The share of right answers."""
    return float((logits.argmax(1) == labels).float().mean())


@hookimpl
def metrics():
    return {"hits": hits}

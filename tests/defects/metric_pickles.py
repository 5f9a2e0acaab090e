"""A function made by another one, which no worker process finds by its name.

The kit says: define it at the top of a module
"""

from kdcore import hookimpl


def top(k):
    def hits(logits, labels):
        """The share of right answers."""
        return float((logits.topk(k).indices == labels[:, None]).any(1).float().mean())

    return hits


hits = top(1)


@hookimpl
def metrics():
    return {"hits": hits}

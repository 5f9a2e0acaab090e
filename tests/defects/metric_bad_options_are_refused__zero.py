"""An option whose type allows the 0 that it divides by.

The kit says: say what it may be: Annotated[float, Gt(0)], Annotated[int, Ge(1)]
"""

from kdcore import hookimpl


def hits(logits, labels, *, per: int = 1):
    """The number of right answers. per: samples."""
    return float((logits.argmax(1) == labels).float().sum()) / (len(labels) // per)


@hookimpl
def metrics():
    return {"hits": hits}

"""An option that its docstring does not name.

The kit says: write `k: what it does, its range`
"""

from typing import Annotated

from annotated_types import Ge

from kdcore import hookimpl


def hits(logits, labels, *, k: Annotated[int, Ge(1)] = 1):
    """The share of right answers."""
    return float((logits.topk(k).indices == labels[:, None]).any(1).float().mean())


@hookimpl
def metrics():
    return {"hits": hits}

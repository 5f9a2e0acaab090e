"""It looks at the clock, which no graph has.

The kit says: does not compile in one graph
"""

import time

from kdcore import hookimpl

seconds = []


def gap(step, targets):
    """The squared gap between the log-probabilities of every exit and of its target."""
    began = time.perf_counter()
    wanted = targets.logits[0].log_softmax(-1)
    value = sum((logits.log_softmax(-1) - wanted).square().mean() for logits in step.outputs.logits)
    seconds.append(time.perf_counter() - began)
    return value


@hookimpl
def losses():
    return {"gap": gap}

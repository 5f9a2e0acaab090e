"""A temperature drawn by Python's generator, which knows no seed of the run.

The kit says: draw random numbers with torch
"""

import random

from kdcore import hookimpl


class Gap:
    """The squared gap of log-probabilities at a temperature that is drawn when it is built."""

    def __init__(self):
        self.temperature = random.uniform(1, 4)

    def __call__(self, step, targets):
        wanted = (targets.logits[0] / self.temperature).log_softmax(-1)
        return sum(((logits / self.temperature).log_softmax(-1) - wanted).square().mean() for logits in step.outputs.logits)


@hookimpl
def losses():
    return {"gap": Gap}

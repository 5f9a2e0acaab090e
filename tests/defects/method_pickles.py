"""A weight that is a lambda, which no worker process is sent.

The kit says: keep no lambda
"""

from kdcore import CE, KL, Method, Term, deepest, hookimpl, linear


def taught():
    """Every exit by the labels, and by the deepest one more and more."""
    terms = {"ce": Term(CE()), "kd": Term(KL(), source="deepest", weight=lambda where: where.progress, exits="shallow")}
    return Method(exits=linear, sources={"deepest": deepest}, terms=terms)


@hookimpl
def methods():
    return {"taught": taught}

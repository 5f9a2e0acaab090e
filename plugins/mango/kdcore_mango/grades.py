"""What a mistake costs where classes are grades: one grade off is not three grades off."""

import math

from torch import Tensor

from kdcore_mango.triplets import grade_of_class


def grades(logits: Tensor, labels: Tensor, *, order: list[int] | None = None) -> dict[str, float]:
    """Of logits [N, K] and labels [N]: how far the answers are from the true grades.

    order: as for `mango.ordinal`; without it, the classes are in order. mean_error: mean |grade - true grade|, in grades. far_errors: share
    of answers two grades off or more, in percent. quadratic_kappa: Cohen's kappa with quadratic weights, 1 at best, 0 for chance; NaN (None in
    a report) where there is one grade alone.
    """
    from sklearn.metrics import cohen_kappa_score

    of_class = grade_of_class(order, logits.shape[-1], "mango.grades")
    answered, true = of_class[logits.argmax(dim=-1).cpu()], of_class[labels.cpu()]
    away = (answered - true).abs()
    one = bool((answered == true[0]).all() and (true == true[0]).all())  # scikit-learn would divide by zero
    return {
        "mean_error": round(away.float().mean().item(), 6),
        "far_errors": round(100 * (away >= 2).float().mean().item(), 6),
        "quadratic_kappa": math.nan if one else round(float(cohen_kappa_score(true.numpy(), answered.numpy(), weights="quadratic")), 6),
    }

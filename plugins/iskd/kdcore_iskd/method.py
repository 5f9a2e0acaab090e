"""The methods: L = (1 - alpha) CE + alpha KL(p_teacher || p), and plain cross entropy where there is no teacher.

The paper's equation stands in its PDF as an image, and its values of alpha in a table that is one: see the README for what is open.
"""

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from kdcore import CE, KL, Method, Taught, Term, teacher
from kdcore_iskd.schedule import generations, large_epoch, tfkd_self

Alpha = Annotated[float, Ge(0), Le(1)]
Temperature = Annotated[float, Gt(0)]
Reduction = Literal["batchmean", "mean"]


def iskd(*, alpha: Alpha = 0.5, temperature: Temperature = 1.0, reduction: Reduction = "batchmean") -> Method:
    """ISKD (Peng, arXiv:2202.02265): generations of one network, each taught by the one before it, all from the same first weights.

    alpha: share of the teacher in [0, 1]; the labels have 1 - alpha, and all of it in the first generation. temperature: T > 0 on both sides,
    with T squared. reduction: of the divergence, `batchmean` or torch's `mean` over samples and classes. How many generations there are, and
    where they start, are options of the schedule: -o iskd.generations.max_generations=4. With --schedule single --teacher RUN it is one
    generation with that teacher. Not for training from scratch unless -o iskd.generations.start=fresh.
    """
    return _taught(alpha, temperature, reduction, generations)


def self_taught(*, alpha: Alpha = 0.5, temperature: Temperature = 20.0, reduction: Reduction = "batchmean") -> Method:
    """The baseline that is taught once (Tf-KD_self, arXiv:1909.11723): one generation, then one student for the rest of ISKD's epochs.

    alpha: share of the teacher in [0, 1]; the labels have the rest. temperature: T > 0 on both sides, with T squared; 20 is Tf-KD's. reduction: of the
    divergence, `batchmean` or torch's `mean` over samples and classes. The same loss as `iskd`. How long "the rest" is: -o iskd.tfkd-self.generations=6.
    """
    return _taught(alpha, temperature, reduction, tfkd_self)


def large() -> Method:
    """The baseline that only trains longer: plain cross entropy for as many epochs as ISKD's generations together.

    How many those are: -o iskd.large-epoch.generations=6.
    """
    return Method(terms={"ce": Term(CE())}, schedule=large_epoch)


def _taught(alpha: float, temperature: float, reduction: Reduction, schedule) -> Method:
    return Method(
        sources={"teacher": teacher},
        terms={
            "ce": Term(CE(), weight=Taught(1 - alpha)),
            "kd": Term(KL(temperature=temperature, reduction=reduction), source="teacher", weight=alpha),
        },
        schedule=schedule,
    )

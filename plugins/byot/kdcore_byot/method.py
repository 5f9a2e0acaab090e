"""The method: cross entropy on every exit, and the deepest one's answers and features as targets of the others.

    L = CE(z_C, y) + sum over shallow i of [ (1 - alpha) CE(z_i, y) + alpha soft(z_i, z_C; T) + lambda |F_i - F_C| ]

The paper gives neither alpha, lambda nor T, nor how the norm is reduced. Each preset is one public code that does:

- conference: ArchipLab-LinfengZhang/pytorch-scalable-neural-networks (`train.py`, `sresnet.py`), the first author, September 2019;
- final: ArchipLab-LinfengZhang/pytorch-self-distillation-final (`train.py`), the first author's journal version (TPAMI);
- luan: luanyunteng/pytorch-be-your-own-teacher (`train.py`), not the authors';
- mmrazor: open-mmlab/mmrazor (`configs/distill/mmcls/byot`), not the authors'.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, MinLen

from kdcore import CE, KL, Method, Term, deepest
from kdcore_byot.bottleneck import bottleneck
from kdcore_byot.hint import HintLoss
from kdcore_byot.sepconv import sepconv


@dataclass(frozen=True)
class Preset:
    """One published form. `soft` makes the soft term from a temperature; `hint` builds the feature term, weighted by lambda."""

    exits: Callable[..., Any]
    alpha: float
    soft: Callable[..., KL]
    temperature: float
    hint: Callable[..., HintLoss]
    hint_weight: float
    deepest_shares_alpha: bool = False  # its cross entropy has the weight 1 - alpha, as the shallow ones' has


PRESETS = {
    "conference": Preset(
        exits=bottleneck,
        alpha=0.5,
        soft=partial(KL, form="soft_ce", scale_t2=True),
        temperature=3.0,
        hint=partial(HintLoss, reduction="sum"),
        hint_weight=5e-7,
    ),
    "final": Preset(
        exits=sepconv,
        alpha=0.3,
        soft=partial(KL, form="soft_ce", scale_t2=False),
        temperature=3.0,
        # The code's comment says that the shallowest exit is skipped; its exits are listed deepest first, so it skips the nearest.
        hint=partial(HintLoss, reduction="frobenius", adapter=True, skip_nearest=True),
        hint_weight=0.03,
    ),
    "luan": Preset(
        exits=partial(bottleneck, width="quarter"),
        alpha=0.1,
        soft=partial(KL, form="soft_ce", scale_t2=True),
        temperature=3.0,
        hint=partial(HintLoss, reduction="sum", mask=True),
        hint_weight=1e-6,
        deepest_shares_alpha=True,
    ),
    "mmrazor": Preset(
        exits=sepconv,
        alpha=0.3,
        soft=partial(KL, form="kl", scale_t2=True),
        temperature=3.0,
        hint=partial(HintLoss, reduction="frobenius", skip_nearest=True),
        hint_weight=0.03,
    ),
}


def byot(
    *,
    preset: Literal["conference", "final", "luan", "mmrazor"] = "conference",
    alpha: Annotated[float, Ge(0), Le(1)] | None = None,
    temperature: Annotated[float, Gt(0)] | None = None,
    hint_weight: Annotated[float, Ge(0)] | None = None,
    feature_exits: Literal["shallow"] | Annotated[list[Annotated[int, Ge(1)]], MinLen(1)] | None = None,
) -> Method:
    """Be Your Own Teacher (Zhang et al., arXiv:1905.08094): the deepest exit teaches the shallower ones, from labels, answers and features.

    preset: which published code to follow; what is not given below is the preset's. alpha: share of the soft targets in [0, 1], the labels
    having 1 - alpha. temperature: T > 0. hint_weight: the paper's lambda; it belongs to the preset's reduction, so change both together.
    feature_exits: exits with a feature term, counted from 1, or "shallow", all but the deepest (`final` and `mmrazor` also leave out the
    shallow exit nearest the teacher).
    """
    chosen = PRESETS[preset]
    alpha = chosen.alpha if alpha is None else alpha
    temperature = chosen.temperature if temperature is None else temperature
    hint_weight = chosen.hint_weight if hint_weight is None else hint_weight
    hint = chosen.hint if feature_exits is None else partial(chosen.hint, skip_nearest=False)
    return Method(
        exits=chosen.exits,
        sources={"deepest": deepest},
        terms={
            "ce_deepest": Term(CE(), weight=1 - alpha if chosen.deepest_shares_alpha else 1.0, exits="deepest"),
            "ce_shallow": Term(CE(), weight=1 - alpha, exits="shallow"),
            "kd": Term(chosen.soft(temperature=temperature), source="deepest", weight=alpha, exits="shallow"),
            "hint": Term(hint, source="deepest", weight=hint_weight, exits=feature_exits or "shallow"),
        },
    )

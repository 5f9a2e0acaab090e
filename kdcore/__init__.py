"""kdcore: knowledge distillation and self-distillation over timm, as plugins. `import kdcore` imports no torch."""

from importlib import import_module
from typing import Any

from kdcore.hookspecs import hookimpl

API = 1
"""The contract's number. A plugin's Keywords say `kdcore-api:1`; another number is refused by name."""

__version__ = "0.1.0"

_WHERE = {
    "Batch": "vocabulary",
    "Outputs": "vocabulary",
    "SoftTargets": "vocabulary",
    "Step": "vocabulary",
    "Method": "methods",
    "Term": "methods",
    "Linear": "methods",
    "Cosine": "methods",
    "Sigmoid": "methods",
    "Taught": "methods",
    "needs": "methods",
    "Phase": "phases",
    "PhaseResult": "phases",
    "Where": "phases",
    "CE": "losses",
    "KL": "losses",
    "MSE": "losses",
    "deepest": "targets",
    "teacher": "targets",
    "mean_of_exits": "targets",
    "single": "schedules",
    "Context": "context",
    "Tap": "taps",
    "Tapped": "tapped",
    "Branch": "exits",
    "Pooled": "exits",
    "MultiExit": "exits",
    "attach_exits": "exits",
    "linear": "exits",
    "KdError": "errors",
    "gathered": "processes",
    "compose": "composition",
    "DistillationTask": "task",
    "train": "training",
    "evaluate": "training",
    "compare": "comparison.run",
    "load": "training",
    "predict": "predicting",
    "Analysis": "analysis",
    "analyze": "analysis",
    "from_function": "adapters",
    "from_torchdistill": "adapters",
}

__all__ = ["API", "hookimpl", *_WHERE]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(f"kdcore.{_WHERE[name]}"), name)
    raise AttributeError(f"module 'kdcore' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *_WHERE])

"""`kd tune`: Optuna over any option of any part and any setting. Trials are runs, compared on dev; the test split is seen by none of them.

```
DIR/study.json     what is searched, and how
DIR/journal.log    Optuna's journal: every trial, its parameters and its reports
DIR/trials/NNN     a run for each trial (or seed-N in it); those that were pruned say so in stopped.json
DIR/best.toml      the best settings: kd train --config DIR/best.toml
DIR/results.json   all trials, and the importance of each parameter; history.png, importance.png
```
Killed anywhere, it goes on where it stood: trials that finished are not run again, one that was broken off goes on from its last checkpoint, and the
same parameters are drawn as without the interruption. `import kdcore.tuning` imports neither torch nor optuna.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdcore.tuning.outcome import Tuned
    from kdcore.tuning.running import TuneWatch, tune

_WHERE = {"tune": "running", "TuneWatch": "running", "Tuned": "outcome"}

__all__ = ["TuneWatch", "Tuned", "tune"]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _WHERE:
        return getattr(import_module(f"kdcore.tuning.{_WHERE[name]}"), name)
    raise AttributeError(f"module 'kdcore.tuning' has no attribute '{name}'")

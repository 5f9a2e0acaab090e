"""The hooks. Each family's hook returns a mapping from part name to class or function; names and their clashes are the core's work.

A plugin is a module that has some of these functions, marked with `kdcore.hookimpl`, under an entry point of the group `kdcore`.
"""

import pluggy

hookspec = pluggy.HookspecMarker("kdcore")
hookimpl = pluggy.HookimplMarker("kdcore")

FAMILIES = ("exits", "soft_targets", "losses", "schedules", "methods", "backbones", "metrics", "analyses")
EVENTS = ("run_start", "log", "epoch_end", "run_end")


@hookspec
def exits():
    """Exit attachments: `(backbone, context, *, options) -> module` with `forward(images) -> Outputs` and `strip(exit) -> module`."""


@hookspec
def soft_targets():
    """Sources of soft targets: `(step) -> SoftTargets`, with options that are keyword-only."""


@hookspec
def losses():
    """Losses: `(step, targets or None) -> scalar`, the sum over the exits that it sees, with options that are keyword-only."""


@hookspec
def schedules():
    """Schedules: `(context, *, options)`, a generator that yields `Phase`s, is sent `PhaseResult`s and returns the one to deliver."""


@hookspec
def methods():
    """Whole methods: functions with keyword-only options that return a `Method`."""


@hookspec
def backbones():
    """Networks that timm lacks: functions as timm's model functions are, `(pretrained=False, **kwargs) -> module`, named `plugin/name`."""


@hookspec
def metrics():
    """Metrics: `(logits [N, K], labels [N]) -> float or mapping`, computed for every exit and the ensemble."""


@hookspec
def analyses():
    """Analyses: `(run, *, options) -> kdcore.analysis.Analysis`, from a finished run (or several: `runs`) to tables and pictures.

    `kd analyze NAME RUN` runs one and writes its files. The contract stands in `kdcore/analysis.py`: beside the runs, a function may
    ask for a `folder` of its own, in which trainings go on, and for `note`, to say how far it is.
    """


@hookspec
def run_start(run):
    """Called once when a run begins, with the `Run`. Rank 0, host process; one that raises is reported and dropped."""


@hookspec
def log(run, record):
    """Called at the log interval with a mapping of step, epoch, learning rate and every term."""


@hookspec
def epoch_end(run, record):
    """Called when an epoch has been evaluated, with the line that goes into `metrics.jsonl`."""


@hookspec
def run_end(run, results):
    """Called when a run has ended, with the content of `results.json`."""

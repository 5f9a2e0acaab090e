"""The paper's studies of finished runs, and two that later papers add: each is an analysis, `kd analyze byot.NAME RUN...`, with tables and a picture."""

from kdcore_byot.studies.cost import cost
from kdcore_byot.studies.embeddings import separability
from kdcore_byot.studies.ensemble import ensemble
from kdcore_byot.studies.gradcam import gradcam
from kdcore_byot.studies.gradients import gradients
from kdcore_byot.studies.noise import noise
from kdcore_byot.studies.shallow_gain import shallow_gain

__all__ = ["cost", "ensemble", "gradcam", "gradients", "noise", "separability", "shallow_gain"]

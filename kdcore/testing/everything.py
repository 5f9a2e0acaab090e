"""The checks that every component of a run has in common."""

from kdcore.testing.machine import MachineChecks
from kdcore.testing.training import GradientChecks, OrderChecks, StateChecks


class RunTests(GradientChecks, OrderChecks, StateChecks, MachineChecks):
    """What holds for losses, soft targets, exits, schedules, methods and backbones alike."""

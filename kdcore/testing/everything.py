"""The checks that every component of a run has in common."""

from kdcore.testing.machine import MachineChecks
from kdcore.testing.neighbours import NeighbourChecks
from kdcore.testing.pairs import PairChecks
from kdcore.testing.training import GradientChecks, OrderChecks, StateChecks


class RunTests(PairChecks, MachineChecks, NeighbourChecks, StateChecks, OrderChecks, GradientChecks):
    """What holds for losses, soft targets, exits, schedules, methods and backbones alike."""

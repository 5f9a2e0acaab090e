"""A run's report: one HTML file with tables and pictures, and the check that rebuilds every table from the run's files."""

from kdcore.report.check import check
from kdcore.report.write import write

__all__ = ["check", "write"]

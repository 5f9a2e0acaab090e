"""A run's report: one HTML file with tables and pictures (`write.write`), and the check that rebuilds every table from the run's files (`check.check`).

The package itself imports no torch, and neither do `cells` and `figures`, which comparisons and analyses draw with.
"""

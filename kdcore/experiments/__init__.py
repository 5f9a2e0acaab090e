"""The papers' tables as experiments: TOML files that plugins carry, read, run through a comparison's cells, and set beside the paper's numbers.

`reading` knows the form, `finding` the files, `planning` turns one into the rows of a comparison, `reproducing` runs it, `outcome` and `claims` say
what came of it. What lists and reads imports no torch.
"""

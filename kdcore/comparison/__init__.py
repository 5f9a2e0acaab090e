"""Comparisons: a grid of runs over methods and paired seeds, finished on one machine or many, and the table that they come to."""

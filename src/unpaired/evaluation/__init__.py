"""Scores of predictions, their tables, and the evaluation of a run."""

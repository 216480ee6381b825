"""Evaluation: scores of predictions against the truth, their statistics, and their files."""

from unpaired.engine.evaluate_cases import Evaluation, Pair, Score, evaluate_pairs
from unpaired.engine.evaluate_folder import evaluate_folder, read_label_names
from unpaired.engine.evaluation_files import (
    METRICS,
    markdown,
    read_evaluation,
    summarise,
    write_evaluation,
)

__all__ = [
    "METRICS",
    "Evaluation",
    "Pair",
    "Score",
    "evaluate_folder",
    "evaluate_pairs",
    "markdown",
    "read_evaluation",
    "read_label_names",
    "summarise",
    "write_evaluation",
]

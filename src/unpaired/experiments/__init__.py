"""The paper's experiments: tables as data, the runs they need, and what came out."""

from unpaired.experiments.paper import published
from unpaired.experiments.rows import EXPERIMENTS, Experiment, Row

__all__ = ["EXPERIMENTS", "Experiment", "Row", "published"]

"""Metrics on label maps: NumPy and SciPy only, millimetres, nan where undefined."""

from unpaired.metrics.components import keep_largest, largest_component
from unpaired.metrics.score import EXTRA, ClassScore, dice, score
from unpaired.metrics.surface import SurfaceDistances, asd, hd95, nsd, surface_distances

__all__ = [
    "EXTRA",
    "ClassScore",
    "SurfaceDistances",
    "asd",
    "dice",
    "hd95",
    "keep_largest",
    "largest_component",
    "nsd",
    "score",
    "surface_distances",
]

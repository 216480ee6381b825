"""One segmentation network for several imaging modalities, trained on unpaired scans.

Importing this package is quick: what needs torch is imported when it is first asked for.
"""

from unpaired.errors import DataError, Interrupted, ResourceError, UnpairedError, UsageError

TYPE_CHECKING = False  # `typing` costs as much as the rest of the package
if TYPE_CHECKING:
    from typing import Any

    from unpaired.api.benefit import benefit
    from unpaired.api.data import MemoryDataset, make_dataset, open_dataset, read
    from unpaired.api.run import Run, best, load, train
    from unpaired.api.scores import Scores
    from unpaired.artifact.bundle import load_network
    from unpaired.config import Config, preset
    from unpaired.inference.outcome import Prediction
    from unpaired.inference.predictor import Predictor
    from unpaired.io.volume import Volume
    from unpaired.methods.consistency import Consistency

__version__ = "0.1.0"
_HOMES = {
    "Config": "config",
    "Consistency": "methods.consistency",
    "MemoryDataset": "api.data",
    "Prediction": "inference.outcome",
    "Predictor": "inference.predictor",
    "Run": "api.run",
    "Scores": "api.scores",
    "Volume": "io.volume",
    "benefit": "api.benefit",
    "best": "api.run",
    "load": "api.run",
    "load_network": "artifact.bundle",
    "make_dataset": "api.data",
    "open_dataset": "api.data",
    "preset": "config",
    "read": "api.data",
    "train": "api.run",
}
"""Where the public names live; each is imported when it is first asked for."""
__all__ = [
    "Config",
    "Consistency",
    "DataError",
    "Interrupted",
    "MemoryDataset",
    "Prediction",
    "Predictor",
    "ResourceError",
    "Run",
    "Scores",
    "UnpairedError",
    "UsageError",
    "Volume",
    "__version__",
    "benefit",
    "best",
    "load",
    "load_network",
    "make_dataset",
    "open_dataset",
    "preset",
    "read",
    "train",
]


def __getattr__(name: str) -> "Any":
    from importlib import import_module

    if name in _HOMES:
        return getattr(import_module(f"unpaired.{_HOMES[name]}"), name)
    if name == "engine":
        from types import SimpleNamespace

        # Bundles of version 0.1.0 name `engine.export.bundle.load_network`.
        bundle = SimpleNamespace(load_network=__getattr__("load_network"))
        return SimpleNamespace(export=SimpleNamespace(bundle=bundle))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__

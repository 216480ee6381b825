"""One segmentation network for several imaging modalities, trained on unpaired scans.

Importing this package is quick: what needs torch is imported when it is first asked for.
"""

from importlib import import_module
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unpaired.artifact.bundle import load_network
    from unpaired.inference.outcome import Prediction
    from unpaired.inference.predictor import Predictor

__version__ = "0.1.0"
__all__ = ["Prediction", "Predictor", "__version__", "load_network"]
_HOMES = {
    "Prediction": "unpaired.inference.outcome",
    "Predictor": "unpaired.inference.predictor",
    "load_network": "unpaired.artifact.bundle",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name == "engine":  # bundles of version 0.1.0 name `engine.export.bundle.load_network`
        bundle = SimpleNamespace(load_network=__getattr__("load_network"))
        return SimpleNamespace(export=SimpleNamespace(bundle=bundle))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
